//! A destination that is no regular file: standard output, a FIFO or a device.
//!
//! Invariant: a write never waits for the reader, so a reader that stops delays no counter and no status.
//! Lines that don't fit are refused as a whole; the rest of a batch that fits in part is kept and written
//! first.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::batch::{Batch, Begin, FileStart};

/// The largest write that doesn't wait if the kernel reports space, also to a pipe that was opened without
/// `O_NONBLOCK` (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    file: File,
    /// Accepted bytes that are not written yet: the end of one batch.
    pending: Vec<u8>,
    /// Whether the pending bytes are of an accepted batch, and not of one that is being written.
    is_accepted: bool,
    /// How many records are at least partly among them.
    pending_records: u64,
    /// How many records of an accepted batch were lost because a later write failed.
    lost: Option<u64>,
    /// Whether the last write failed in the middle of a line.
    is_partial: bool,
    has_started: bool,
}

impl Stream {
    /// Standard output.
    pub(super) fn stdout() -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let kind = stdout.metadata()?.file_type();
        // Other programs, and standard error, share the open file. Only a new one may be set to not wait.
        let own = match kind.is_fifo() || kind.is_char_device() {
            true => OpenOptions::new()
                .write(true)
                .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
                .open("/proc/self/fd/1"),
            false => Err(io::ErrorKind::Unsupported.into()),
        };
        // It can't be opened again if it belongs to another user. Small writes don't wait then, either.
        Ok(Self::new(own.unwrap_or(stdout)))
    }

    /// A file that was opened without waiting.
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            pending: Vec::new(),
            is_accepted: false,
            pending_records: 0,
            lost: None,
            is_partial: false,
            has_started: false,
        }
    }

    /// Accepts all lines or none.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the reader has not taken earlier lines; or an error of the system.
    pub(super) fn write(&mut self, batch: &Batch<'_>, begin: &mut Begin<'_>) -> io::Result<()> {
        self.flush()?;
        if !self.pending.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "its reader does not read: the pipe or terminal is full",
            ));
        }
        if self.is_partial {
            self.pending.push(b'\n');
        }
        if !self.has_started {
            begin(&FileStart::default(), &mut self.pending);
        }
        self.pending.extend_from_slice(batch.lines);
        let length = self.pending.len();
        match self.flush() {
            Ok(()) => {
                (self.has_started, self.is_partial) = (true, false);
                self.is_accepted = self.is_pending();
                self.pending_records = if self.is_pending() { batch.records } else { 0 };
                Ok(())
            }
            Err(error) => {
                self.is_partial |= self.pending.len() < length;
                self.pending.clear();
                Err(error)
            }
        }
    }

    /// Writes as many accepted bytes as the reader has space for. After an error the rest is lost.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            let rest = &self.pending[written..];
            if rest.is_empty() {
                break Ok(());
            }
            match has_space(&self.file) {
                Ok(false) => break Ok(()),
                Ok(true) => {}
                Err(error) => break Err(error),
            }
            match self.file.write(&rest[..rest.len().min(CHUNK)]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(number) => written += number,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.pending.drain(..written);
        if self.pending.is_empty() {
            (self.is_accepted, self.pending_records) = (false, 0);
        }
        if result.is_err() && self.is_accepted {
            self.lose_pending();
        }
        result
    }

    /// Whether accepted bytes are not written yet.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Gives accepted lines up that are not written yet.
    pub(super) fn lose_pending(&mut self) {
        if self.is_pending() {
            self.pending.clear();
            (self.is_partial, self.is_accepted) = (true, false);
            self.lost = Some(self.lost.unwrap_or(0) + std::mem::take(&mut self.pending_records));
        }
    }

    /// How many records of an accepted batch were lost since the last call; `None` if no batch was.
    pub(super) fn take_lost(&mut self) -> Option<u64> {
        self.lost.take()
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// Whether a small write returns at once: there is space, or the write fails.
fn has_space(file: &File) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(file, PollFlags::OUT)];
    match poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use super::*;

    fn batch(lines: &[u8], records: u64) -> Batch<'_> {
        Batch { lines, records, time: jiff::Timestamp::UNIX_EPOCH }
    }

    fn write(stream: &mut Stream, lines: &str, records: u64) -> io::Result<()> {
        stream.write(&batch(lines.as_bytes(), records), &mut |_, _| {})
    }

    fn pipe() -> (io::PipeReader, Stream) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (reader, Stream::new(File::from(std::os::fd::OwnedFd::from(writer))))
    }

    #[test]
    fn a_pipe_that_is_not_read_refuses_whole_batches_and_continues_in_the_middle_of_a_line() {
        let (mut reader, mut stream) = pipe();
        let line = format!("{}\n", "x".repeat(50_000));
        let mut accepted = 0;
        let error = loop {
            match write(&mut stream, &line, 1) {
                Ok(()) => accepted += 1,
                Err(error) => break error,
            }
            assert!(accepted < 100, "a pipe has 64 KiB");
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(stream.is_pending());
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).expect("reads");
            text
        });
        while stream.is_pending() {
            stream.flush().expect("writes");
            std::thread::sleep(Duration::from_millis(1));
        }
        write(&mut stream, "last\n", 1).expect("there is space again");
        assert_eq!(stream.take_lost(), None);
        drop(stream);
        assert_eq!(reading.join().expect("reads"), format!("{}last\n", line.repeat(accepted)));
    }

    #[test]
    fn accepted_records_are_lost_if_the_reader_goes_away() {
        let (reader, mut stream) = pipe();
        write(&mut stream, &"y".repeat(200_000), 7).expect("accepted in part");
        drop(reader);
        let error = write(&mut stream, "next\n", 1).expect_err("no reader");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!((stream.take_lost(), stream.take_lost()), (Some(7), None));
        assert!(!stream.is_pending());
    }

    #[test]
    fn the_lines_at_the_start_are_requested_until_a_write_succeeds() {
        let mut requested = 0;
        let mut begin = |_: &FileStart, lines: &mut Vec<u8>| {
            requested += 1;
            lines.extend_from_slice(b"start\n");
        };
        let full = OpenOptions::new().write(true).open("/dev/full").expect("device");
        let mut stream = Stream::new(full);
        stream.write(&batch(b"one\n", 1), &mut begin).expect_err("full");
        let (mut reader, pipe) = pipe();
        stream.file = pipe.file;
        for line in ["two\n", "three\n"] {
            stream.write(&batch(line.as_bytes(), 1), &mut begin).expect("space");
        }
        drop(stream);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("reads");
        assert_eq!((requested, &*text), (2, "start\ntwo\nthree\n"));
    }
}
