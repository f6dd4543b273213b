//! Network namespaces: creating, entering and removing them.
//!
//! Each has a name under `/run/netns`, so that `ip netns` and `nsenter` find it. The name contains the id of
//! the process that created it. So the next process recognises and removes the namespaces of killed
//! processes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::ifaddrs::getifaddrs;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// Where named network namespaces are mounted (ip-netns(8)).
const FOLDER: &str = "/run/netns";

/// The prefix of our namespaces' names. The process id follows.
pub const PREFIX: &str = "kv-";

/// How long a device may take to become operational. The kernel needs less than a second.
const LINKS_TIMEOUT: Duration = Duration::from_secs(5);

/// A network namespace. Unless it is persistent, it is removed when this is dropped. `KEEP_TESTBED=1` in the
/// environment keeps it.
#[derive(Debug)]
pub struct NetworkNamespace {
    name: String,
    file: File,
    /// Whether it remains when this is dropped and when the process exits.
    persistent: bool,
}

impl NetworkNamespace {
    /// Creates the network namespace `kv-<process id>-<name>`. Its loopback device is down.
    pub fn create(name: &str) -> Result<Self> {
        Self::make(format!("{PREFIX}{}-{name}", std::process::id()), false)
    }

    /// Creates a network namespace with exactly this name, which remains until [`NetworkNamespace::destroy`].
    pub fn create_persistent(name: &str) -> Result<Self> {
        Self::make(name.to_owned(), true)
    }

    /// Opens the persistent network namespace with this name; `None` if there is none.
    pub fn open(name: &str) -> Result<Option<Self>> {
        let path = Path::new(FOLDER).join(name);
        if !path.exists() {
            return Ok(None);
        }
        let file =
            File::open(&path).with_context(|| format!("opening the network namespace {}", path.display()))?;
        Ok(Some(Self { name: name.to_owned(), file, persistent: true }))
    }

    /// Kills the processes in it, and removes it.
    pub fn destroy(self) {
        let path = Path::new(FOLDER).join(&self.name);
        kill_processes(&path);
        remove(&path);
    }

    fn make(name: String, persistent: bool) -> Result<Self> {
        require_root()?;
        prepare_folder()?;
        let path = Path::new(FOLDER).join(&name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("creating the network namespace {}", path.display()))?;
        let made = run_on_new_thread(|| -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        let opened = made.and_then(|()| Ok(File::open(&path)?));
        match opened.with_context(|| format!("creating the network namespace {}", path.display())) {
            Ok(file) => Ok(Self { name, file, persistent }),
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }

    /// Its name below `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside the namespace and returns its result. Sockets that it opens and
    /// processes that it starts belong to the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        run_on_new_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Starts `work` on a thread inside the namespace. If the namespace can't be entered, the thread returns
    /// that error.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let file = self.file.try_clone().with_context(|| format!("the network namespace {}", self.name))?;
        let name = self.name.clone();
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering the network namespace {name}"))?;
            Ok(work())
        })?;
        Ok(thread)
    }

    /// Sets a sysctl of the namespace, such as `net.ipv4.ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.sysctls(&[(name, value)])
    }

    /// Sets several sysctls of the namespace.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                let path = sysctl_path(name);
                fs::write(&path, value)
                    .with_context(|| format!("setting {name} to {value} in {}", self.name))?;
            }
            Ok(())
        })?
    }

    /// Reads a sysctl of the namespace.
    pub fn read_sysctl(&self, name: &str) -> Result<String> {
        let text = self.run(|| fs::read_to_string(sysctl_path(name)))?;
        Ok(text.with_context(|| format!("reading {name} in {}", self.name))?.trim().to_owned())
    }

    /// Waits until every device with a carrier is operational. A kernel worker sets that a moment after the
    /// carrier appears (net/core/link_watch.c). Until then, the kernel drops what is sent, and a lost ARP
    /// request is repeated only after a second.
    pub fn wait_for_links(&self) -> Result<()> {
        let doing = || format!("waiting for the devices of {}", self.name);
        self.run(|| {
            let deadline = Instant::now() + LINKS_TIMEOUT;
            loop {
                let late: Vec<String> = getifaddrs()
                    .with_context(doing)?
                    .filter(|device| {
                        device.flags.contains(InterfaceFlags::IFF_LOWER_UP)
                            && !device.flags.contains(InterfaceFlags::IFF_RUNNING)
                    })
                    .map(|device| device.interface_name)
                    .collect();
                if late.is_empty() {
                    return Ok(());
                }
                if Instant::now() > deadline {
                    bail!("{}: {} has a carrier but is not operational", doing(), late.join(", "));
                }
                thread::sleep(Duration::from_millis(1));
            }
        })?
    }

    /// The command that enters the namespace from a shell.
    pub fn enter_command(&self) -> String {
        format!("nsenter --net={FOLDER}/{}", self.name)
    }

    /// Whether a process is in this namespace.
    pub(crate) fn contains_process(&self, process: u32) -> bool {
        let (Ok(ours), Ok(theirs)) = (self.file.metadata(), fs::metadata(format!("/proc/{process}/ns/net")))
        else {
            return false;
        };
        ours.st_ino() == theirs.st_ino() && ours.st_dev() == theirs.st_dev()
    }

    pub(crate) fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering the network namespace {}", self.name))
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        if !self.persistent && !keep_testbed() {
            remove(&Path::new(FOLDER).join(&self.name));
        }
    }
}

/// Whether testbeds are to remain after their tests (`KEEP_TESTBED=1`).
pub fn keep_testbed() -> bool {
    std::env::var_os("KEEP_TESTBED").is_some_and(|value| value == "1")
}

/// Fails with one sentence if the process may not create network namespaces.
pub fn require_root() -> Result<()> {
    if !geteuid().is_root() {
        bail!("creating network namespaces needs root: run it again as root, e.g. with sudo");
    }
    Ok(())
}

/// Removes the namespaces of processes that no longer exist, and kills the processes in them.
pub fn remove_stale() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(process) = name.to_str().and_then(|name| creator_pid(name, PREFIX))
                && !is_alive(process)
            {
                kill_processes(&entry.path());
                remove(&entry.path());
            }
        }
    });
}

/// The process id in a name `<prefix><process id>-...`.
pub(crate) fn creator_pid(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.split('-').next()?.parse().ok()
}

/// Whether a process exists.
pub(crate) fn is_alive(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// Kills the processes in a namespace, such as agents that outlived their test.
fn kill_processes(namespace: &Path) {
    let Ok(wanted) = fs::metadata(namespace) else { return };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let same = fs::metadata(entry.path().join("ns/net"))
            .is_ok_and(|found| found.st_ino() == wanted.st_ino() && found.st_dev() == wanted.st_dev());
        if same {
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
}

fn remove(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Makes the folder a mount point that is shared with other mount namespaces, exactly as `ip netns add` does.
/// Otherwise the first `ip netns add` of another process would hide our mounts.
fn prepare_folder() -> Result<()> {
    let doing = || format!("preparing {FOLDER}");
    fs::create_dir_all(FOLDER).with_context(doing)?;
    let folder = File::open(FOLDER).with_context(doing)?;
    let _lock =
        Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, errno)| errno).with_context(doing)?;
    let share =
        || mount(None::<&str>, FOLDER, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // It is not a mount point yet.
        Err(Errno::EINVAL) => {
            mount(Some(FOLDER), FOLDER, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .with_context(doing)?;
            share().with_context(doing)
        }
        other => other.with_context(doing),
    }
}

/// The file of a sysctl. Below `net`, it belongs to the namespace of the thread that opens it.
fn sysctl_path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// Runs `work` on a new thread, because entering a namespace changes the whole thread. A panic is propagated
/// to the caller.
pub(crate) fn run_on_new_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, work) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(error) => Err(io::Error::into(error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::ip;

    #[test]
    fn a_name_contains_the_process_id() {
        assert_eq!(creator_pid("kv-123-1-node-a", PREFIX), Some(123));
        assert_eq!(creator_pid("kv-x-1", PREFIX), None);
        assert_eq!(creator_pid("other-123-1", PREFIX), None);
    }

    #[test]
    fn a_namespace_is_entered_and_removed() {
        let namespace = NetworkNamespace::create("unit").unwrap();
        let path = Path::new(FOLDER).join(namespace.name());
        let outside = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let inside = namespace.run(|| fs::read_link("/proc/thread-self/ns/net")).unwrap().unwrap();
        assert_ne!(inside, outside);
        assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), outside);
        namespace.sysctl("net.ipv4.ip_forward", "1").unwrap();
        assert_eq!(namespace.read_sysctl("net.ipv4.ip_forward").unwrap(), "1");
        assert!(path.exists());
        drop(namespace);
        assert!(!path.exists());
    }

    #[test]
    fn waits_for_a_device_that_has_a_carrier_but_is_not_operational_yet() {
        let namespace = NetworkNamespace::create("links").unwrap();
        ip(
            &namespace,
            "link add near type veth peer name far\nlink set near mode dormant\nlink set near up\n\
             link set far up\n",
        )
        .unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| namespace.wait_for_links());
            thread::sleep(Duration::from_millis(100));
            assert!(!waiting.is_finished());
            ip(&namespace, "link set near state up\n").unwrap();
            waiting.join().unwrap().unwrap();
        });
    }
}
