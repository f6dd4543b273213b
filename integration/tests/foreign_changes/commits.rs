//! Commits to the nftables ruleset of a namespace, from the kernel's notifications: the time and the program
//! of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dataplane::netlink::{AttributeReader, Socket};
use integration::namespace::NetworkNamespace;
use nix::errno::Errno;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// `NFT_MSG_NEWGEN` of `NFNL_SUBSYS_NFTABLES`.
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// `NFTA_GEN_PROC_NAME`.
const PROGRAM: u16 = 3;

/// One committed batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Commit {
    /// When its notification was received.
    pub at: Instant,
    /// The name of the thread that committed it.
    pub program: String,
}

/// See the module's documentation. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Commits {
    commits: Receiver<Commit>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Commits {
    /// Receives notifications from now on.
    pub(crate) fn listen(namespace: &Arc<NetworkNamespace>) -> Result<Self> {
        let socket = namespace.run(|| -> Result<Socket> {
            let socket = Socket::open()?;
            socket.join(GROUP, 64 << 20)?;
            socket.set_receive_timeout(Duration::from_millis(50))?;
            Ok(socket)
        })??;
        let (found, commits) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let thread =
            namespace.spawn(move || listen(socket, &is_over, |commit| found.send(commit).is_ok()))?;
        Ok(Self { commits, stop, thread: Some(thread) })
    }

    /// The next commit of a thread with this name. Commits of others are skipped.
    pub(crate) fn next_by(&self, program: &str, timeout: Duration) -> Result<Commit> {
        let end = Instant::now() + timeout;
        loop {
            match self.commits.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(commit) if commit.program == program => return Ok(commit),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("no commit of {program} within {timeout:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("notifications were lost"),
            }
        }
    }

    /// Discards the commits so far.
    pub(crate) fn discard(&self) {
        self.commits.try_iter().for_each(drop);
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(mut socket: Socket, stop: &AtomicBool, mut found: impl FnMut(Commit) -> bool) -> Result<()> {
    while !stop.load(Ordering::Acquire) {
        let mut programs = Vec::new();
        let received = socket.receive(|message| {
            if let Ok(message) = message
                && message.kind == NEW_GENERATION
            {
                let name = AttributeReader::new(message.attributes).find(|(kind, _)| *kind == PROGRAM);
                let name = name.map(|(_, name)| name).unwrap_or_default();
                programs.push(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
            }
        });
        match received {
            Err(error) if error.errno() == Errno::EAGAIN => continue,
            other => other.context("receiving notifications of nftables")?,
        };
        let at = Instant::now();
        if !programs.into_iter().all(|program| found(Commit { at, program })) {
            return Ok(());
        }
    }
    Ok(())
}
