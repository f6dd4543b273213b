//! Compresses closed files on a thread of the lowest priority.
//!
//! ```text
//!  NAME.TIME --read--> NAME.TIME.zst.tmp (locked) --sync, rename--> NAME.TIME.zst, then NAME.TIME is removed
//! ```
//!
//! Invariant: a file with the end `.zst` is complete. The lock on the unfinished file shows whether an agent
//! works on it: that of a killed agent is free, and its file is removed at the next start.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use zstd::stream::write::Encoder;

use super::closed::{COMPRESSED, ClosedAt, ClosedFiles, UNFINISHED};
use super::folder::{Folder, copy_permissions};
use super::upkeep::{Task, Upkeep};

/// zstd's default level.
const LEVEL: i32 = 3;

/// How much is compressed between two checks of whether the agent ends.
const CHUNK: usize = 1 << 16;

/// How long a file that could not be compressed waits for the next attempt.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// The lowest priority of a thread that is not idle: it gets some time also on a busy node.
const NICE: i32 = 19;

/// A running compressor, which ends when this is dropped. A file that it was compressing stays as it is.
#[derive(Debug)]
pub(super) struct Compressor {
    wake: Option<SyncSender<()>>,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compressor {
    /// Starts to compress the closed files of the log at a path.
    pub(super) fn start(path: PathBuf, upkeep: Arc<Upkeep>) -> io::Result<Self> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        // One place is enough: each signal means all files.
        let (wake, woken) = mpsc::sync_channel(1);
        let stop = Arc::clone(&is_stopping);
        let thread = thread::Builder::new().name("audit-compress".to_owned()).spawn(move || {
            // Without a lower priority it still works.
            let _ = rustix::process::setpriority_process(None, NICE);
            loop {
                let done = compress_all(&path, &stop);
                upkeep.set_problem(Task::Compress, done.err().map(|error| error.to_string()));
                match woken.recv_timeout(RETRY_INTERVAL) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Self { wake: Some(wake), is_stopping, thread: Some(thread) })
    }

    /// Reports a new closed file. Returns at once.
    pub(super) fn wake(&self) {
        // If the place is taken, the compressor has not yet looked.
        let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        self.is_stopping.store(true, Relaxed);
        self.wake = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Compresses all closed files that are not compressed, oldest first. An error is that of the first file
/// that failed; the others are compressed nevertheless.
fn compress_all(path: &Path, is_stopping: &AtomicBool) -> io::Result<()> {
    let (folder, log) = Folder::of(path)?;
    let closed = ClosedFiles::list(&folder, &log)?;
    let mut result = Ok(());
    for (at, forms) in &closed.files {
        if forms.plain && !is_stopping.load(Relaxed) {
            let done = compress(&folder, &closed, *at, is_stopping);
            result = result.and(done);
        }
    }
    result
}

fn compress(
    folder: &Folder,
    closed: &ClosedFiles<'_>,
    at: ClosedAt,
    is_stopping: &AtomicBool,
) -> io::Result<()> {
    let [plain, compressed, unfinished] = ["", COMPRESSED, UNFINISHED].map(|end| closed.name(at, end));
    let source = match folder.open_for_reading(&plain) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        source => source?,
    };
    // Another agent may be compressing the same file.
    let Some(target) = lock(folder, &unfinished)? else { return Ok(()) };
    if folder.identity(&compressed)?.is_some() {
        folder.remove(&unfinished)?;
        return folder.remove(&plain);
    }
    let copied = copy_compressed(&source, &target, is_stopping);
    // The file may have been removed meanwhile, as the oldest one.
    let is_wanted = folder.identity(&plain)?.is_some();
    if !is_wanted || !matches!(copied, Ok(true)) {
        folder.remove(&unfinished)?;
        return copied.map(drop);
    }
    folder.rename(&unfinished, &compressed)?;
    folder.sync()?;
    folder.remove(&plain)
}

/// Opens the unfinished file and locks it; `None` if another agent has it.
fn lock(folder: &Folder, name: &OsStr) -> io::Result<Option<File>> {
    let file = folder.open_temporary(name)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let metadata = file.metadata()?;
    // An agent that had the lock may have renamed or removed it.
    let is_in_place = folder.identity(name)? == Some((metadata.dev(), metadata.ino()));
    Ok(is_in_place.then_some(file))
}

/// Whether all was compressed; `false` if the agent ends.
fn copy_compressed(mut source: &File, target: &File, is_stopping: &AtomicBool) -> io::Result<bool> {
    target.set_len(0)?;
    copy_permissions(&source.metadata()?, target)?;
    let mut encoder = Encoder::new(target, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        if is_stopping.load(Relaxed) {
            return Ok(false);
        }
        let read = source.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        encoder.write_all(&chunk[..read])?;
    }
    encoder.finish()?.sync_all()?;
    Ok(true)
}

/// Removes what an agent that was killed while it compressed has left: an unfinished file, or a file that is
/// already compressed. If this fails, the status shows it.
pub(super) fn remove_leftovers(path: &Path, upkeep: &Upkeep) {
    let removed = try_remove_leftovers(path);
    upkeep.set_problem(Task::Compress, removed.err().map(|error| error.to_string()));
}

fn try_remove_leftovers(path: &Path) -> io::Result<()> {
    let (folder, log) = Folder::of(path)?;
    let closed = ClosedFiles::list(&folder, &log)?;
    for (at, forms) in &closed.files {
        let unfinished = closed.name(*at, UNFINISHED);
        let is_ours = !forms.unfinished || lock(&folder, &unfinished)?.is_some();
        if forms.unfinished && is_ours {
            folder.remove(&unfinished)?;
        }
        if forms.plain && forms.compressed && is_ours {
            folder.remove(&closed.name(*at, ""))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
