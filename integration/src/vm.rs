//! A virtual machine with Debian's cloud kernel, which has the native `queue` expression, SCTP, and another
//! version.
//!
//! From: a kernel package, programs with their libraries, and commands to run. To: the exit code of each
//! command, read from the serial console. The machine is emulated (TCG), because tests must not depend on
//! nested virtualisation.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

mod initramfs;
mod kernel;

pub use initramfs::Initramfs;
pub use kernel::Kernel;

use initramfs::RESULT;

/// The output of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Console {
    /// The whole output on the serial console.
    pub text: String,
}

impl Console {
    /// The exit code of the command with this name; `None` if the machine did not run it to its end.
    pub fn exit_code(&self, name: &str) -> Option<i32> {
        self.text.lines().find_map(|line| {
            let mut words = line.trim().split(' ');
            let ours = words.next() == Some(RESULT) && words.next() == Some(name);
            ours.then(|| words.next()?.parse().ok())?
        })
    }
}

/// Boots the kernel with an image and waits until the machine powers off, at most `timeout`.
pub fn run(kernel: &Kernel, image: &Initramfs, timeout: Duration) -> Result<Console> {
    let initramfs = tempfile::NamedTempFile::new().context("creating a file for the initramfs")?;
    image.write(kernel, initramfs.path())?;
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initramfs.path())
        .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("starting qemu-system-x86_64 (is the package qemu-system-x86 installed?)")?;
    let mut output = child.stdout.take().context("the serial console")?;
    let (sender, received) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let end = Instant::now() + timeout;
    let mut bytes = Vec::new();
    // The console closes when the machine powers off.
    let in_time = loop {
        match received.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(more) => bytes.extend_from_slice(&more),
            Err(mpsc::RecvTimeoutError::Disconnected) => break true,
            Err(mpsc::RecvTimeoutError::Timeout) => break false,
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    let _ = reader.join();
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    if !in_time {
        bail!("the virtual machine did not power off within {timeout:?}; its console:\n{text}");
    }
    Ok(Console { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_parsed_from_the_console() {
        let console = Console { text: "booting\nRESULT smoke 0\nRESULT sctp 101\n".into() };
        assert_eq!(console.exit_code("smoke"), Some(0));
        assert_eq!(console.exit_code("sctp"), Some(101));
        assert_eq!(console.exit_code("dns"), None);
    }
}
