//! A real Kubernetes cluster on this machine: two nodes with kubelets, containerd, Flannel and kube-proxy, no container
//! engine.
//!
//! ```text
//!  [ parts ] programs from source -> [ images ] of the cluster's own pods
//!       |                                |
//!       v                                v
//!  [ control_plane ] ---------> [ node ] [ node ]   namespaces; killed as a whole, by one process each
//!       |                                |
//!       v                                v
//!  [ kubectl ] -> [ install ] one way of three -> [ suite ], [ scenarios ]
//! ```
//!
//! Everything of a cluster lives in one folder ([`place`]) and in namespaces named after it: whatever happened, `down`
//! finds them and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub mod bulk;
pub mod control_plane;
pub mod credentials;
pub mod crowd;
pub mod e2e;
pub mod evidence;
pub mod image;
pub mod images;
pub mod init;
pub mod install;
pub mod kubectl;
pub mod network;
pub mod node;
pub mod parts;
pub mod place;
pub mod progress;
pub mod scenarios;
pub mod stage;
pub mod suite;

pub use install::Way;
pub use kubectl::Kubectl;
pub use node::Node;
pub use parts::Parts;
pub use place::Place;

use control_plane::ControlPlane;
use progress::Step;

use crate::namespace::{Namespace, require_root};

/// How many nodes a cluster has.
const NODES: u8 = 2;

/// How long nodes may take to become ready, once they have an image of Flannel.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster that is up.
#[derive(Debug)]
pub struct Cluster {
    /// Where it lives.
    pub place: Place,
    /// The programs that it is made of.
    pub parts: Parts,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Its control plane.
    pub control: ControlPlane,
    /// The way to ask it for something.
    pub kubectl: Kubectl,
}

impl Cluster {
    /// Brings a cluster up in `place`, with our image if `image` is an archive of it, and returns when all is ready. What
    /// was up there before goes down first.
    pub fn up(place: &Place, parts: Parts, way: Way, image: Option<&Path>) -> Result<Self> {
        require_root()?;
        let image = match (way, image) {
            (Way::None, _) => None,
            (_, Some(image)) => Some(image),
            (_, None) => bail!("--way {} needs --image: an archive of our image", way.name()),
        };
        Self::down(place)?;
        let flannel = images::FlannelImages::in_manifest(&install::flannel_manifest(&parts)?)?;
        let archive = Step::run("images", |_| images::write(&parts, &flannel, &place.join("images")))?;
        let nodes: Vec<Node> = (1..=NODES).map(|number| Node::new(place, number)).collect();
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let control = Step::run("control plane", |_| ControlPlane::start(place, &parts, &names))?;
        let kubectl = Kubectl::new(place, &parts)?;
        kubectl.apply(KUBE_PROXY_ROLE)?;
        let archives: Vec<PathBuf> =
            [Some(archive), image.map(Path::to_owned)].into_iter().flatten().collect();
        for node in &nodes {
            Step::run(&node.name, |_| node.boot(&parts, control.namespace(), &archives))?;
        }
        let cluster = Self { place: place.clone(), parts, nodes, control, kubectl };
        let reference = image.map(reference).transpose()?.unwrap_or_default();
        Step::run(&format!("Flannel and kube-verdict ({})", way.name()), |step| {
            step.now("applying manifests");
            way.apply(&cluster.kubectl, &cluster.parts, &reference)?;
            step.now("waiting for nodes");
            cluster.wait_for_nodes()?;
            step.now("waiting for pods");
            way.wait(&cluster.kubectl)
        })?;
        place.write("way", way.name())?;
        Ok(cluster)
    }

    /// Brings up a cluster without nodes: etcd, the API server, and service accounts.
    pub fn without_nodes(place: &Place, parts: Parts) -> Result<Self> {
        require_root()?;
        Self::down(place)?;
        let control = Step::run("API server", |_| ControlPlane::start_alone(place, &parts))?;
        let kubectl = Kubectl::new(place, &parts)?;
        Ok(Self { place: place.clone(), parts, nodes: Vec::new(), control, kubectl })
    }

    /// The cluster that is up in `place`.
    pub fn running(place: &Place, parts: Parts) -> Result<Self> {
        require_root()?;
        let control = ControlPlane::running(place)?;
        let kubectl = Kubectl::new(place, &parts)?;
        let nodes = (1..=NODES).map(|number| Node::new(place, number)).collect();
        Ok(Self { place: place.clone(), parts, nodes, control, kubectl })
    }

    /// Ends whatever is up in `place`, whole or in part, and removes what it has written but its logs.
    pub fn down(place: &Place) -> Result<()> {
        require_root()?;
        for number in 1..=NODES {
            let node = Node::new(place, number);
            node.cut_power()?;
            remove_folder(&place.join(&node.name))?;
        }
        if let Some(namespace) = Namespace::existing(&place.namespace("control"))? {
            namespace.end();
        }
        for folder in ["etcd", "pids", "pki", "kubeconfig", "logs"] {
            remove_folder(&place.join(folder))?;
        }
        Ok(())
    }

    /// The way by which kube-verdict was installed.
    pub fn way(&self) -> Result<Way> {
        let recorded =
            fs::read_to_string(self.place.join("way")).context("the cluster is not completely up")?;
        clap::ValueEnum::from_str(recorded.trim(), false).map_err(anyhow::Error::msg)
    }

    /// Waits until every node is ready.
    pub fn wait_for_nodes(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        // `kubectl wait` fails for a node that has not registered yet.
        loop {
            let listed = self.kubectl.run(&["get", "nodes", "-o", "name"])?;
            if listed.lines().count() == self.nodes.len() {
                break;
            }
            if Instant::now() > end {
                let log = place::tail(&self.place.log("node-1", "kubelet"));
                bail!("the kubelets did not register with the API server:\n{log}");
            }
            sleep(Duration::from_millis(250));
        }
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl.run(&["wait", "--for=condition=Ready", "nodes", "--all", &patience]).map(drop)
    }

    /// Hands the terminal over to a shell that reaches the cluster. Returns when it ends.
    pub fn shell(&self) -> Result<()> {
        let path = std::env::var("PATH").unwrap_or_default();
        let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
        anstream::println!("kubectl and helm are in PATH. The nodes:");
        for node in &self.nodes {
            anstream::println!("  {}  {}", node.name, node.way_in().unwrap_or_else(|_| "down".to_owned()));
        }
        let status = self.control.namespace().run(|| {
            Command::new(shell)
                .env("PATH", format!("{}:{path}", self.parts.folder().display()))
                .env("KUBECONFIG", self.place.join(&credentials::kubeconfig_name("admin")))
                .status()
        })?;
        status.context("the shell could not be started").map(drop)
    }
}

/// What kube-proxy may read; upstream's role is for a user of this name.
const KUBE_PROXY_ROLE: &str = r#"{
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "kube-proxy"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"}]
}"#;

/// The name and tag that an archive of images gives to its first image.
pub fn reference(archive: &Path) -> Result<String> {
    let read = || -> Result<String> {
        let mut archive = tar::Archive::new(fs::File::open(archive)?);
        for entry in archive.entries()? {
            let entry = entry?;
            if entry.path()?.as_ref() == Path::new("manifest.json") {
                let manifest: serde_json::Value = serde_json::from_reader(entry)?;
                let name = manifest[0]["RepoTags"][0].as_str().context("its first image has no name")?;
                return Ok(name.to_owned());
            }
        }
        bail!("it has no manifest.json")
    };
    read().with_context(|| format!("reading the image archive {}", archive.display()))
}

fn remove_folder(folder: &Path) -> Result<()> {
    // What the kernel still holds of a killed node goes within a moment.
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                if Instant::now() > end {
                    return Err(error).with_context(|| format!("removing {}", folder.display()));
                }
                sleep(Duration::from_millis(100));
            }
            _ => return Ok(()),
        }
    }
}
