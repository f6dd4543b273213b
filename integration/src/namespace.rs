//! A network namespace: made, entered by threads, and removed.
//!
//! Each has a name under `/run/netns`, so that `ip netns` and `nsenter` know it too. The name carries the id of the
//! process that made it: what a killed process leaves behind is recognised and removed by the next one.

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

/// What every name of ours begins with; the id of the process follows.
pub const PREFIX: &str = "kv-";

/// The kernel brings a device up within a second, if it can.
const LINKS_PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace. One of this process goes when this goes, unless `KEEP_TESTBED=1` is in the environment.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
    /// Whether it stays when this goes, and even when the process goes.
    lasting: bool,
}

impl Namespace {
    /// Makes the network namespace `kv-<process id>-<name>`, with its loopback device still down.
    pub fn create(name: &str) -> Result<Self> {
        Self::make(format!("{PREFIX}{}-{name}", std::process::id()), false)
    }

    /// Makes a network namespace of exactly this name, which stays until [`Namespace::end`].
    pub fn create_lasting(name: &str) -> Result<Self> {
        Self::make(name.to_owned(), true)
    }

    /// The lasting network namespace of this name, or `None` if there is none.
    pub fn existing(name: &str) -> Result<Option<Self>> {
        let path = Path::new(FOLDER).join(name);
        if !path.exists() {
            return Ok(None);
        }
        let file =
            File::open(&path).with_context(|| format!("opening the network namespace {}", path.display()))?;
        Ok(Some(Self { name: name.to_owned(), file, lasting: true }))
    }

    /// Kills the processes in it, and removes it.
    pub fn end(self) {
        let path = Path::new(FOLDER).join(&self.name);
        end_inhabitants(&path);
        remove(&path);
    }

    fn make(name: String, lasting: bool) -> Result<Self> {
        require_root()?;
        prepare_folder()?;
        let path = Path::new(FOLDER).join(&name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("making the network namespace {}", path.display()))?;
        let made = on_a_thread(|| -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        let opened = made.and_then(|()| Ok(File::open(&path)?));
        match opened.with_context(|| format!("making the network namespace {}", path.display())) {
            Ok(file) => Ok(Self { name, file, lasting }),
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

    /// Runs `work` on a thread inside the namespace and waits for it. Sockets that it opens and processes that it starts
    /// belong to the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Starts `work` on a thread inside the namespace. A namespace that can't be entered is the thread's result.
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

    /// Waits until every device that has a carrier passes packets too. The kernel sees to that a moment after the carrier
    /// comes, in a worker (net/core/link_watch.c); until then it drops what is sent, and a lost ARP request costs a
    /// second.
    pub fn wait_for_links(&self) -> Result<()> {
        let doing = || format!("waiting for the devices of {}", self.name);
        self.run(|| {
            let deadline = Instant::now() + LINKS_PATIENCE;
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
                    bail!("{}: {} has a carrier and does not run", doing(), late.join(", "));
                }
                thread::sleep(Duration::from_millis(1));
            }
        })?
    }

    /// The command by which a person gets in.
    pub fn way_in(&self) -> String {
        format!("nsenter --net={FOLDER}/{}", self.name)
    }

    /// Whether a process is in it.
    pub(crate) fn holds(&self, process: u32) -> bool {
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

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.lasting && !kept() {
            remove(&Path::new(FOLDER).join(&self.name));
        }
    }
}

/// Whether a person asks that testbeds stay when their tests are over.
pub fn kept() -> bool {
    std::env::var_os("KEEP_TESTBED").is_some_and(|value| value == "1")
}

/// Fails, with one sentence, where network namespaces can't be made.
pub fn require_root() -> Result<()> {
    if !geteuid().is_root() {
        bail!("needs root: network namespaces can't be made otherwise; run it again as root, e.g. with sudo");
    }
    Ok(())
}

/// Removes what dead processes have left: their namespaces, and first the processes that still live in them.
pub fn remove_stale() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(process) = name.to_str().and_then(|name| maker(name, PREFIX))
                && !alive(process)
            {
                end_inhabitants(&entry.path());
                remove(&entry.path());
            }
        }
    });
}

/// The process that a name `<prefix><process id>-...` names.
pub(crate) fn maker(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.split('-').next()?.parse().ok()
}

/// Whether a process exists.
pub(crate) fn alive(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// Kills the processes in a namespace that a dead process of ours has left: agents that outlived their test.
fn end_inhabitants(namespace: &Path) {
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

/// Makes the folder a mount point of its own, shared with other mount namespaces, exactly as `ip netns add` does: else
/// the first `ip netns add` of somebody else would cover our mounts with its own.
fn prepare_folder() -> Result<()> {
    let doing = || format!("preparing {FOLDER}");
    fs::create_dir_all(FOLDER).with_context(doing)?;
    let folder = File::open(FOLDER).with_context(doing)?;
    let _lock =
        Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, errno)| errno).with_context(doing)?;
    let share =
        || mount(None::<&str>, FOLDER, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // It is no mount point yet.
        Err(Errno::EINVAL) => {
            mount(Some(FOLDER), FOLDER, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .with_context(doing)?;
            share().with_context(doing)
        }
        other => other.with_context(doing),
    }
}

/// The file behind a sysctl; what it shows of `net` is the namespace of the thread that opens it.
fn sysctl_path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// Runs `work` on a fresh thread, because a namespace is changed for a whole thread; a panic goes on in the caller.
pub(crate) fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
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
    fn a_name_tells_its_process() {
        assert_eq!(maker("kv-123-1-node-a", PREFIX), Some(123));
        assert_eq!(maker("kv-x-1", PREFIX), None);
        assert_eq!(maker("other-123-1", PREFIX), None);
    }

    #[test]
    fn a_namespace_is_entered_and_removed() {
        let namespace = Namespace::create("unit").unwrap();
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
    fn a_device_that_has_a_carrier_and_does_not_run_yet_is_waited_for() {
        let namespace = Namespace::create("links").unwrap();
        ip(
            &namespace,
            "link add near type veth peer name far\nlink set near mode dormant\nlink set near up\nlink set far up\n",
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
