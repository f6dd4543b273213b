//! The control plane: etcd, the API server, the controllers and the scheduler, in a network namespace of their own.

use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::credentials::{Credentials, kubeconfig_name};
use super::kubectl::Kubectl;
use super::network::{BRIDGE, CONTROL, POD_RANGE, SERVICE_RANGE};
use super::parts::Parts;
use super::place::{Place, start, tail};
use crate::command::ip;
use crate::namespace::Namespace;

/// The first address of services, which is the API server's.
const API_SERVICE: &str = "10.96.0.1";
const PORT: u16 = 6443;

/// How long the API server may take to become ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// The control plane of a cluster.
#[derive(Debug)]
pub struct ControlPlane {
    place: Place,
    namespace: Namespace,
}

impl ControlPlane {
    /// Starts all of it and waits until the API server is ready. The nodes' credentials are made with it.
    pub fn start(place: &Place, parts: &Parts, nodes: &[String]) -> Result<Self> {
        let (control, credentials) = Self::start_api(place, parts, nodes)?;
        control.start_controllers(parts, &credentials, "*")?;
        let scheduler = [format!("--kubeconfig={}", control.admin()), "--leader-elect=false".to_owned()];
        control.daemon("kube-scheduler", &parts.program("kube-scheduler"), &scheduler)?;
        Ok(control)
    }

    /// Starts what it takes to keep objects, pods included: nobody acts on any of them.
    pub fn start_alone(place: &Place, parts: &Parts) -> Result<Self> {
        let (control, credentials) = Self::start_api(place, parts, &[])?;
        control.start_controllers(parts, &credentials, "serviceaccount-controller")?;
        Ok(control)
    }

    fn start_api(place: &Place, parts: &Parts, nodes: &[String]) -> Result<(Self, Credentials)> {
        let namespace = Namespace::create_lasting(&place.namespace("control"))?;
        ip(
            &namespace,
            &format!(
                "link set lo up\nlink add {BRIDGE} type bridge\naddress add {CONTROL}/24 dev {BRIDGE}\nlink set {BRIDGE} up\n"
            ),
        )?;
        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
        let names = [&names[..], &[CONTROL, API_SERVICE, "127.0.0.1"]].concat();
        let credentials = Credentials::make(place, &format!("https://{CONTROL}:{PORT}"), &names, nodes)?;
        let control = Self { place: place.clone(), namespace };
        control.daemon("etcd", &parts.program("etcd"), &control.etcd())?;
        control.start_api_server(parts)?;
        Ok((control, credentials))
    }

    fn start_controllers(&self, parts: &Parts, credentials: &Credentials, which: &str) -> Result<()> {
        let mut arguments = controller_manager(credentials, &self.admin());
        arguments.push(format!("--controllers={which}"));
        self.daemon("kube-controller-manager", &parts.program("kube-controller-manager"), &arguments)
            .map(drop)
    }

    fn admin(&self) -> String {
        self.place.join(&kubeconfig_name("admin")).display().to_string()
    }

    /// The one that runs.
    pub fn running(place: &Place) -> Result<Self> {
        let namespace = Namespace::existing(&place.namespace("control"))?
            .context("no cluster is up: cargo xtask cluster up")?;
        Ok(Self { place: place.clone(), namespace })
    }

    /// Its network namespace, from which the API server and all nodes are reached.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Kills the API server, and only that.
    pub fn kill_api_server(&self) -> Result<()> {
        let recorded = self.place.join("pids/kube-apiserver");
        let process: u32 = std::fs::read_to_string(&recorded)
            .with_context(|| format!("reading {}", recorded.display()))?
            .trim()
            .parse()
            .context("the API server's process id")?;
        if !self.namespace.holds(process) {
            bail!("the API server does not run");
        }
        kill(Pid::from_raw(process.cast_signed()), Signal::SIGKILL).context("killing the API server")
    }

    /// Starts the API server over what etcd has kept, and waits until it is ready.
    pub fn start_api_server(&self, parts: &Parts) -> Result<()> {
        let credentials = Credentials::of(&self.place);
        let mut child =
            self.daemon("kube-apiserver", &parts.program("kube-apiserver"), &api_server(&credentials))?;
        let kubectl = Kubectl::new(&self.place, parts)?;
        let end = Instant::now() + PATIENCE;
        loop {
            match kubectl.run(&["get", "--raw", "/readyz"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end || child.try_wait()?.is_some() => {
                    let log = tail(&self.place.log("control", "kube-apiserver"));
                    return Err(error.context(format!("the API server does not become ready:\n{log}")));
                }
                Err(_) => sleep(Duration::from_millis(250)),
            }
        }
    }

    fn daemon(&self, name: &str, program: &Path, arguments: &[String]) -> Result<Child> {
        let log = self.place.log("control", name);
        let child = self.namespace.run(|| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir("/");
            start(command, &log)
        })??;
        self.place.write(&format!("pids/{name}"), &child.id().to_string())?;
        Ok(child)
    }

    fn etcd(&self) -> Vec<String> {
        let data = self.place.join("etcd").display().to_string();
        [
            "--data-dir",
            &data,
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            // Nothing in it outlives the cluster.
            "--unsafe-no-fsync",
            "--quota-backend-bytes=4294967296",
            "--log-level=warn",
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

fn api_server(credentials: &Credentials) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--advertise-address={CONTROL}"),
        format!("--secure-port={PORT}"),
        format!("--tls-cert-file={}", path(&credentials.certificate)),
        format!("--tls-private-key-file={}", path(&credentials.key)),
        format!("--client-ca-file={}", path(&credentials.authority)),
        format!("--token-auth-file={}", path(&credentials.tokens)),
        "--authorization-mode=Node,RBAC".to_owned(),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", path(&credentials.service_accounts_public)),
        format!("--service-account-signing-key-file={}", path(&credentials.service_accounts)),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--allow-privileged=true".to_owned(),
    ]
}

fn controller_manager(credentials: &Credentials, kubeconfig: &str) -> Vec<String> {
    vec![
        format!("--kubeconfig={kubeconfig}"),
        "--leader-elect=false".to_owned(),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={POD_RANGE}"),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        format!("--root-ca-file={}", credentials.authority.display()),
        format!("--service-account-private-key-file={}", credentials.service_accounts.display()),
        // A scenario that cuts a node's power waits for its pods to go.
        "--node-monitor-grace-period=20s".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ]
}
