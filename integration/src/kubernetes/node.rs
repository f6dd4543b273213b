//! A node: network, process and mount namespaces, with a containerd, a kubelet and a kube-proxy.
//!
//! All processes of a node are in its process namespace. When the first process there is killed, the kernel
//! also kills the kubelet, the shims and every container. A node is shut down and rebooted in this manner.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;

use super::components::Components;
use super::credentials::kubeconfig_name;
use super::images::PAUSE;
use super::init::{COMMAND, PRIVATE, READY};
use super::network::{BRIDGE, CONTROL, POD_RANGE};
use super::workdir::{Workdir, log_file, start, tail};
use crate::command::ip;
use crate::namespace::{NetworkNamespace, run_on_new_thread};

/// The folders in [`PRIVATE`] that a reboot empties.
const VOLATILE: [&str; 4] = ["/var/lib/cni", "/run/containerd", "/run/flannel", "/run/netns"];

/// CNI plugins that Flannel's plugin calls.
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];
/// The folder where Debian installs CNI plugins.
const PLUGIN_FOLDER: &str = "/usr/lib/cni";

/// More than the usual 110, since a scenario starts 200 pods. A node's address range has room for 254.
const MAX_PODS: u32 = 240;

/// How long a daemon of a node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Settings of a node's network namespace.
const SYSCTLS: [(&str, &str); 5] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv4.ping_group_range", "0 0"),
    ("net.bridge.bridge-nf-call-iptables", "1"),
    ("net.bridge.bridge-nf-call-ip6tables", "1"),
];

/// One node of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name in the API.
    pub name: String,
    /// Its address, the kubelet's `--node-ip`.
    pub address: Ipv4Addr,
    workdir: Workdir,
}

impl Node {
    /// The node of this number, from 1.
    pub fn new(workdir: &Workdir, number: u8) -> Self {
        let address = Ipv4Addr::new(172, 30, 0, 10 + number);
        Self { name: format!("node-{number}"), address, workdir: workdir.clone() }
    }

    /// The path on the machine of a path in one of the node's own folders.
    pub fn path(&self, on_node: &str) -> PathBuf {
        self.workdir.join(&self.name).join(on_node.trim_start_matches('/'))
    }

    /// Its network namespace.
    pub fn network(&self) -> Result<NetworkNamespace> {
        NetworkNamespace::open(&self.workdir.namespace(&self.name))?
            .with_context(|| format!("{} is not running: cargo xtask cluster up", self.name))
    }

    /// Boots the node: namespaces, network, containerd, images, kubelet, kube-proxy.
    pub fn boot(
        &self,
        components: &Components,
        control: &NetworkNamespace,
        images: &[PathBuf],
    ) -> Result<()> {
        self.prepare_folders()?;
        let namespace = NetworkNamespace::create_persistent(&self.workdir.namespace(&self.name))?;
        self.wire(control, &namespace)?;
        namespace.sysctls(&SYSCTLS)?;
        self.start_init(&namespace)?;
        self.start_containerd()?;
        for image in images {
            self.import(image)?;
        }
        self.start_kubelet(components)?;
        self.start_kube_proxy(components)
    }

    /// Kills all processes of the node and removes its namespaces, as a power cut does. Its files on disk
    /// remain.
    pub fn cut_power(&self) -> Result<()> {
        if let Some(namespace) = NetworkNamespace::open(&self.workdir.namespace(&self.name))? {
            namespace.destroy();
        }
        let tasks = self.path("/run/containerd/io.containerd.runtime.v2.task/k8s.io");
        let containers: Vec<OsString> = fs::read_dir(tasks)
            .into_iter()
            .flatten()
            .flatten()
            .map(|container| container.file_name())
            .collect();
        remove_control_groups(&containers);
        for folder in VOLATILE {
            let _ = fs::remove_dir_all(self.path(folder));
        }
        Ok(())
    }

    /// Runs `work` on a thread inside all namespaces of the node, so that it opens the node's files and
    /// starts processes on the node. It can't start threads; in [`Node::look`] it can.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let processes = self.open("pid")?;
        self.look(|| {
            setns(processes, CloneFlags::CLONE_NEWPID)?;
            Ok(work())
        })?
    }

    /// Runs `work` on a thread inside the node's network and mount namespaces. Threads that it starts are
    /// also inside. It must not start processes.
    pub fn look<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let (network, mounts) = (self.open("net")?, self.open("mnt")?);
        run_on_new_thread(|| {
            // A thread can enter a mount namespace only if it shares root and working directory with no other
            // thread.
            unshare(CloneFlags::CLONE_FS)?;
            setns(network, CloneFlags::CLONE_NEWNET)?;
            setns(mounts, CloneFlags::CLONE_NEWNS)?;
            Ok(work())
        })
    }

    /// Opens a namespace of the node's first process.
    fn open(&self, kind: &str) -> Result<File> {
        let path = format!("/proc/{}/ns/{kind}", self.init()?);
        File::open(&path).with_context(|| format!("opening {path}: is {} running?", self.name))
    }

    /// Runs a program on the node and returns its standard output. Fails unless it succeeds.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .run(|| command(program).args(arguments).current_dir("/").stdin(Stdio::null()).output())?
            .with_context(|| format!("running {program} on {}", self.name))?;
        if !output.status.success() {
            bail!(
                "{program} {} on {}: {}",
                arguments.join(" "),
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Imports an archive of images on the node.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.to_string_lossy().into_owned();
        self.output("ctr", &["-n", "k8s.io", "images", "import", &archive]).map(drop)
    }

    /// The command that enters the node from a shell.
    pub fn enter_command(&self) -> Result<String> {
        Ok(format!("nsenter --target {} --net --mount --pid", self.init()?))
    }

    fn prepare_folders(&self) -> Result<()> {
        for folder in PRIVATE {
            for path in [self.path(folder), PathBuf::from(folder)] {
                fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
            }
        }
        for plugin in PLUGINS {
            let from = Path::new(PLUGIN_FOLDER).join(plugin);
            fs::copy(&from, self.path("/opt/cni/bin").join(plugin)).with_context(|| {
                format!("copying {} (from the package containernetworking-plugins)", from.display())
            })?;
        }
        Ok(())
    }

    /// Connects the node to the bridge in the control plane's namespace.
    fn wire(&self, control: &NetworkNamespace, namespace: &NetworkNamespace) -> Result<()> {
        // After a power cut, the kernel removes the old device only after a while.
        let _ = ip(control, &format!("link delete {}\n", self.name));
        ip(
            control,
            &format!(
                "link add {0} type veth peer name eth0 netns {1}\nlink set {0} master {BRIDGE} up\n",
                self.name,
                namespace.name()
            ),
        )?;
        ip(
            namespace,
            &format!(
                "link set lo up\naddress add {}/24 dev eth0\nlink set eth0 up\n\
                 route add default via {CONTROL}\n",
                self.address
            ),
        )
    }

    fn start_init(&self, namespace: &NetworkNamespace) -> Result<()> {
        let root = self.workdir.join(&self.name);
        let log = self.workdir.log(&self.name, "init");
        let errors = log_file(&log)?;
        let mut init = run_on_new_thread(|| {
            namespace.enter()?;
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
            // The program's file may have been replaced meanwhile.
            let mut command = Command::new("/proc/self/exe");
            command.arg(COMMAND).arg(&root).stdin(Stdio::null());
            // Not inherited: a reader of our own output would wait for this process to exit.
            Ok(command.stdout(Stdio::piped()).stderr(errors).spawn()?)
        })
        .with_context(|| format!("starting the first process of {}", self.name))?;
        let mut line = String::new();
        if let Some(output) = init.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        if line.trim() != READY {
            bail!("the first process of {} did not mount its file systems:\n{}", self.name, tail(&log));
        }
        fs::write(self.init_file(), init.id().to_string())
            .with_context(|| format!("writing {}", self.init_file().display()))
    }

    fn init_file(&self) -> PathBuf {
        self.workdir.join(&self.name).join("init.pid")
    }

    /// The machine's process id of the node's first process.
    fn init(&self) -> Result<u32> {
        let down = || format!("{} is not running: cargo xtask cluster up", self.name);
        let init: u32 =
            fs::read_to_string(self.init_file()).with_context(down)?.trim().parse().with_context(down)?;
        let namespace = NetworkNamespace::open(&self.workdir.namespace(&self.name))?.with_context(down)?;
        // The process id may have been reused.
        if namespace.contains_process(init) { Ok(init) } else { bail!(down()) }
    }

    fn start_containerd(&self) -> Result<()> {
        let config = self.workdir.write(&format!("{}/containerd.toml", self.name), &containerd_config())?;
        self.daemon("containerd", "containerd".as_ref(), &["--config".as_ref(), config.as_path()])?;
        let end = Instant::now() + TIMEOUT;
        loop {
            match self.output("ctr", &["version"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    let log = tail(&self.workdir.log(&self.name, "containerd"));
                    return Err(error.context(format!("containerd of {} does not answer:\n{log}", self.name)));
                }
                Err(_) => sleep(Duration::from_millis(100)),
            }
        }
    }

    fn start_kubelet(&self, components: &Components) -> Result<()> {
        let config = self.workdir.write(&format!("{}/kubelet.json", self.name), &kubelet_config())?;
        let kubeconfig = self.workdir.join(&kubeconfig_name(&self.name));
        self.daemon(
            "kubelet",
            &components.program("kubelet"),
            &[
                "--config".as_ref(),
                config.as_path(),
                "--kubeconfig".as_ref(),
                kubeconfig.as_path(),
                format!("--hostname-override={}", self.name).as_ref(),
                format!("--node-ip={}", self.address).as_ref(),
                "--v=2".as_ref(),
            ],
        )
    }

    fn start_kube_proxy(&self, components: &Components) -> Result<()> {
        let kubeconfig = self.workdir.join(&kubeconfig_name("kube-proxy"));
        self.daemon(
            "kube-proxy",
            &components.program("kube-proxy"),
            &[
                "--kubeconfig".as_ref(),
                kubeconfig.as_path(),
                format!("--hostname-override={}", self.name).as_ref(),
                "--proxy-mode=nftables".as_ref(),
                format!("--cluster-cidr={POD_RANGE}").as_ref(),
                // The limits of the conntrack table belong to the machine. A namespace may not set them.
                "--conntrack-max-per-core=0".as_ref(),
                "--conntrack-min=0".as_ref(),
                "--conntrack-tcp-timeout-established=0s".as_ref(),
                "--conntrack-tcp-timeout-close-wait=0s".as_ref(),
            ],
        )
    }

    fn daemon(&self, name: &str, program: &Path, arguments: &[&Path]) -> Result<()> {
        let log = self.workdir.log(&self.name, name);
        self.run(|| {
            let mut command = command(program);
            command.args(arguments).current_dir("/");
            start(command, &log)
        })?
        .map(drop)
    }
}

/// A command whose PATH includes the folders where Debian installs programs for root.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"));
    command
}

/// Removes the empty control groups of containers that the kernel killed. Their last processes may need a
/// moment to exit.
fn remove_control_groups(containers: &[OsString]) {
    let hierarchies =
        fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let roots: Vec<PathBuf> = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).collect();
    let mut groups: Vec<PathBuf> = containers
        .iter()
        .flat_map(|container| roots.iter().map(move |root| root.join("k8s.io").join(container)))
        .collect();
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        groups.retain(|group| fs::remove_dir(group).is_err() && group.is_dir());
        if groups.is_empty() || Instant::now() > end {
            return;
        }
        sleep(Duration::from_millis(50));
    }
}

fn containerd_config() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Lowering an out-of-memory score needs CAP_SYS_RESOURCE.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

/// Settings for a kubelet that runs in a namespace, with control groups of either version.
fn kubelet_config() -> String {
    json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        // Only the cluster can reach the kubelet.
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "maxPods": MAX_PODS,
        // Scenarios start many pods at once.
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 0,
    })
    .to_string()
}
