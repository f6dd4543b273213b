//! The control plane: etcd, the API server, the controller manager and the scheduler, in their own network
//! namespace.

use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::components::Components;
use super::credentials::{Credentials, kubeconfig_name};
use super::kubectl::Kubectl;
use super::network::{BRIDGE, CONTROL, POD_RANGE, SERVICE_RANGE};
use super::workdir::{Workdir, start, tail};
use crate::command::ip;
use crate::namespace::NetworkNamespace;

/// The first address of the service range, which the service `kubernetes` has.
const API_SERVICE: &str = "10.96.0.1";
/// The port of the API server.
const PORT: u16 = 6443;

/// How long the API server may take to become ready.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The control plane of a cluster.
#[derive(Debug)]
pub struct ControlPlane {
    workdir: Workdir,
    namespace: NetworkNamespace,
}

impl ControlPlane {
    /// Starts everything and waits until the API server is ready. Also creates the credentials of the nodes.
    pub fn start(workdir: &Workdir, components: &Components, nodes: &[String]) -> Result<Self> {
        let (control, credentials) = Self::start_api(workdir, components, nodes)?;
        control.start_controllers(components, &credentials, "*")?;
        let scheduler = [format!("--kubeconfig={}", control.admin()), "--leader-elect=false".to_owned()];
        control.daemon("kube-scheduler", &components.program("kube-scheduler"), &scheduler)?;
        Ok(control)
    }

    /// Starts only what is needed to store objects, pods included. Nothing acts on the objects.
    pub fn start_alone(workdir: &Workdir, components: &Components) -> Result<Self> {
        let (control, credentials) = Self::start_api(workdir, components, &[])?;
        control.start_controllers(components, &credentials, "serviceaccount-controller")?;
        Ok(control)
    }

    fn start_api(
        workdir: &Workdir,
        components: &Components,
        nodes: &[String],
    ) -> Result<(Self, Credentials)> {
        let namespace = NetworkNamespace::create_persistent(&workdir.namespace("control"))?;
        ip(
            &namespace,
            &format!(
                "link set lo up\nlink add {BRIDGE} type bridge\naddress add {CONTROL}/24 dev {BRIDGE}\n\
                 link set {BRIDGE} up\n"
            ),
        )?;
        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
        let names = [&names[..], &[CONTROL, API_SERVICE, "127.0.0.1"]].concat();
        let credentials = Credentials::make(workdir, &format!("https://{CONTROL}:{PORT}"), &names, nodes)?;
        let control = Self { workdir: workdir.clone(), namespace };
        control.daemon("etcd", &components.program("etcd"), &control.etcd())?;
        control.start_api_server(components)?;
        Ok((control, credentials))
    }

    fn start_controllers(
        &self,
        components: &Components,
        credentials: &Credentials,
        which: &str,
    ) -> Result<()> {
        let mut arguments = controller_manager(credentials, &self.admin());
        arguments.push(format!("--controllers={which}"));
        self.daemon("kube-controller-manager", &components.program("kube-controller-manager"), &arguments)
            .map(drop)
    }

    fn admin(&self) -> String {
        self.workdir.join(&kubeconfig_name("admin")).display().to_string()
    }

    /// The running control plane.
    pub fn running(workdir: &Workdir) -> Result<Self> {
        let namespace = NetworkNamespace::open(&workdir.namespace("control"))?
            .context("no cluster is running: cargo xtask cluster up")?;
        Ok(Self { workdir: workdir.clone(), namespace })
    }

    /// Its network namespace, from which the API server and all nodes are reached.
    pub fn namespace(&self) -> &NetworkNamespace {
        &self.namespace
    }

    /// Kills only the API server.
    pub fn kill_api_server(&self) -> Result<()> {
        let recorded = self.workdir.join("pids/kube-apiserver");
        let process: u32 = std::fs::read_to_string(&recorded)
            .with_context(|| format!("reading {}", recorded.display()))?
            .trim()
            .parse()
            .context("the API server's process id")?;
        if !self.namespace.contains_process(process) {
            bail!("the API server is not running");
        }
        kill(Pid::from_raw(process.cast_signed()), Signal::SIGKILL).context("killing the API server")
    }

    /// Starts the API server with the objects in etcd, and waits until it is ready.
    pub fn start_api_server(&self, components: &Components) -> Result<()> {
        let credentials = Credentials::of(&self.workdir);
        let mut child =
            self.daemon("kube-apiserver", &components.program("kube-apiserver"), &api_server(&credentials))?;
        let kubectl = Kubectl::new(&self.workdir, components)?;
        let end = Instant::now() + TIMEOUT;
        loop {
            match kubectl.run(&["get", "--raw", "/readyz"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end || child.try_wait()?.is_some() => {
                    let log = tail(&self.workdir.log("control", "kube-apiserver"));
                    return Err(error.context(format!("the API server does not become ready:\n{log}")));
                }
                Err(_) => sleep(Duration::from_millis(250)),
            }
        }
    }

    fn daemon(&self, name: &str, program: &Path, arguments: &[String]) -> Result<Child> {
        let log = self.workdir.log("control", name);
        let child = self.namespace.run(|| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir("/");
            start(command, &log)
        })??;
        self.workdir.write(&format!("pids/{name}"), &child.id().to_string())?;
        Ok(child)
    }

    fn etcd(&self) -> Vec<String> {
        let data = self.workdir.join("etcd").display().to_string();
        [
            "--data-dir",
            &data,
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            // The data is not needed after the cluster.
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
        // Shortened for the scenario that cuts a node's power.
        "--node-monitor-grace-period=20s".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ]
}
