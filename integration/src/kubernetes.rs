//! A real Kubernetes cluster on this machine: two nodes with kubelets, containerd, Flannel and kube-proxy,
//! without a container engine.
//!
//! ```text
//!  [ components ] built from source -> [ images ] of the cluster's own pods
//!       |                                |
//!       v                                v
//!  [ control_plane ] ---------> [ node ] [ node ]   namespaces; each node ends with its first process
//!       |                                |
//!       v                                v
//!  [ kubectl ] -> [ install ] by one of three methods -> [ suite ], [ conformance ], [ scenarios ]
//! ```
//!
//! Everything of a cluster is in one folder ([`workdir`]) and in namespaces named after it. So `down` finds
//! and removes everything, also after a failure.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub mod api_proxy;
pub mod companion_policies;
pub mod components;
pub mod conformance;
pub mod control_plane;
pub mod credentials;
pub mod e2e;
pub mod evidence;
pub mod fake_pods;
pub mod fixture;
pub mod image;
pub mod images;
pub mod init;
pub mod install;
pub mod kubectl;
pub mod network;
pub mod node;
pub mod progress;
pub mod scenarios;
pub mod suite;
pub mod workdir;

pub use components::Components;
pub use install::InstallMethod;
pub use kubectl::Kubectl;
pub use node::Node;
pub use workdir::Workdir;

use control_plane::ControlPlane;
use progress::Step;

use crate::namespace::{NetworkNamespace, require_root};

/// The number of nodes.
const NODES: u8 = 2;

/// How long nodes may take to become ready after Flannel is applied.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its folder.
    pub workdir: Workdir,
    /// The programs that it consists of.
    pub components: Components,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Its control plane.
    pub control: ControlPlane,
    /// Access to its API.
    pub kubectl: Kubectl,
}

impl Cluster {
    /// Starts a cluster in `workdir`, and returns when everything is ready. `image` is an archive of our
    /// image. A cluster that already runs there is removed first.
    pub fn up(
        workdir: &Workdir,
        components: Components,
        method: InstallMethod,
        image: Option<&Path>,
    ) -> Result<Self> {
        require_root()?;
        let image = match (method, image) {
            (InstallMethod::None, _) => None,
            (_, Some(image)) => Some(image),
            (_, None) => bail!("--way {} needs --image: an archive of our image", method.name()),
        };
        Self::down(workdir)?;
        let flannel = images::FlannelImages::in_manifest(&install::flannel_manifest(&components)?)?;
        let archive = Step::run("images", |_| images::write(&components, &flannel, &workdir.join("images")))?;
        let nodes: Vec<Node> = (1..=NODES).map(|number| Node::new(workdir, number)).collect();
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let control = Step::run("control plane", |_| ControlPlane::start(workdir, &components, &names))?;
        let kubectl = Kubectl::new(workdir, &components)?;
        kubectl.apply(KUBE_PROXY_ROLE)?;
        let archives: Vec<PathBuf> =
            [Some(archive), image.map(Path::to_owned)].into_iter().flatten().collect();
        for node in &nodes {
            Step::run(&node.name, |_| node.boot(&components, control.namespace(), &archives))?;
        }
        let cluster = Self { workdir: workdir.clone(), components, nodes, control, kubectl };
        let reference = image.map(reference).transpose()?.unwrap_or_default();
        Step::run(&format!("Flannel and kube-verdict ({})", method.name()), |step| {
            step.now("applying manifests");
            method.apply(&cluster.kubectl, &cluster.components, &reference)?;
            step.now("waiting for nodes");
            cluster.wait_for_nodes()?;
            step.now("waiting for pods");
            method.wait(&cluster.kubectl)
        })?;
        workdir.write("method", method.name())?;
        Ok(cluster)
    }

    /// Starts a cluster without nodes: etcd, the API server, and service accounts.
    pub fn without_nodes(workdir: &Workdir, components: Components) -> Result<Self> {
        require_root()?;
        Self::down(workdir)?;
        let control = Step::run("API server", |_| ControlPlane::start_alone(workdir, &components))?;
        let kubectl = Kubectl::new(workdir, &components)?;
        Ok(Self { workdir: workdir.clone(), components, nodes: Vec::new(), control, kubectl })
    }

    /// The running cluster in `workdir`.
    pub fn running(workdir: &Workdir, components: Components) -> Result<Self> {
        require_root()?;
        let control = ControlPlane::running(workdir)?;
        let kubectl = Kubectl::new(workdir, &components)?;
        let nodes = (1..=NODES).map(|number| Node::new(workdir, number)).collect();
        Ok(Self { workdir: workdir.clone(), components, nodes, control, kubectl })
    }

    /// Stops the cluster in `workdir`, also if only a part of it runs, and removes its files.
    pub fn down(workdir: &Workdir) -> Result<()> {
        require_root()?;
        for number in 1..=NODES {
            let node = Node::new(workdir, number);
            node.cut_power()?;
            remove_folder(&workdir.join(&node.name))?;
        }
        if let Some(namespace) = NetworkNamespace::open(&workdir.namespace("control"))? {
            namespace.destroy();
        }
        for folder in ["etcd", "pids", "pki", "kubeconfig", "logs"] {
            remove_folder(&workdir.join(folder))?;
        }
        Ok(())
    }

    /// The method by which kube-verdict was installed.
    pub fn method(&self) -> Result<InstallMethod> {
        let recorded = fs::read_to_string(self.workdir.join("method"))
            .context("the cluster did not start completely")?;
        clap::ValueEnum::from_str(recorded.trim(), false).map_err(anyhow::Error::msg)
    }

    /// Waits until every node is ready.
    pub fn wait_for_nodes(&self) -> Result<()> {
        let end = Instant::now() + TIMEOUT;
        // `kubectl wait` fails for a node that has not registered yet.
        loop {
            let listed = self.kubectl.run(&["get", "nodes", "-o", "name"])?;
            if listed.lines().count() == self.nodes.len() {
                break;
            }
            if Instant::now() > end {
                let log = workdir::tail(&self.workdir.log("node-1", "kubelet"));
                bail!("the kubelets did not register with the API server:\n{log}");
            }
            sleep(Duration::from_millis(250));
        }
        let timeout = format!("--timeout={}s", TIMEOUT.as_secs());
        self.kubectl.run(&["wait", "--for=condition=Ready", "nodes", "--all", &timeout]).map(drop)
    }

    /// Runs an interactive shell that can reach the cluster, and returns when it exits.
    pub fn shell(&self) -> Result<()> {
        let path = std::env::var("PATH").unwrap_or_default();
        let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
        anstream::println!("kubectl and helm are in PATH. The nodes:");
        for node in &self.nodes {
            anstream::println!(
                "  {}  {}",
                node.name,
                node.enter_command().unwrap_or_else(|_| "down".to_owned())
            );
        }
        let status = self.control.namespace().run(|| {
            Command::new(shell)
                .env("PATH", format!("{}:{path}", self.components.folder().display()))
                .env("KUBECONFIG", self.workdir.join(&credentials::kubeconfig_name("admin")))
                .status()
        })?;
        status.context("the shell could not be started").map(drop)
    }
}

/// The role of kube-proxy. Upstream's ClusterRole is meant for a user of this name.
const KUBE_PROXY_ROLE: &str = r#"{
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "kube-proxy"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"}]
}"#;

/// The name and tag of the first image in an archive.
pub fn reference(archive: &Path) -> Result<String> {
    let read = || oci::first_name(File::open(archive)?);
    read().with_context(|| format!("reading the image archive {}", archive.display()))
}

fn remove_folder(folder: &Path) -> Result<()> {
    // The kernel releases the mounts of a killed node a moment later.
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
