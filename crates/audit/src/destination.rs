//! Where the lines go, and the file's rotation.
//!
//! Invariant: a write is whole or not at all, so a full disk leaves no torn line behind where that can be helped. The file is where its
//! path says and not behind a symbolic link there.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Of a new file. Who talks to whom is not for everybody; a shipper that isn't root reads it as a member of the file's group, which a
/// folder with the set-group-ID bit gives to it.
const MODE: u32 = 0o640;

/// Where audit records go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Nowhere: verdicts are only counted.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File {
        /// Its path. Older files are beside it, as `PATH.1` (the newest of them) to `PATH.<keep>`.
        path: PathBuf,
        /// Rotated before it would grow past so many bytes. (One batch of lines is never split, so a limit below
        /// [`BATCH`](crate::writer::BATCH) holds only as well as that.)
        max_bytes: u64,
        /// How many older files are kept; 0 keeps none.
        keep: u32,
    },
}

/// An audit log that can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log {} for writing: {error}; its folder must exist and be writable", path.display())]
pub struct DestinationError {
    /// Which file.
    pub path: PathBuf,
    /// What the system says.
    pub error: io::Error,
}

/// An open destination.
#[derive(Debug)]
pub(crate) enum Sink {
    Off,
    Stdout(io::Stdout),
    File(LogFile),
}

impl Sink {
    pub(crate) fn open(destination: Destination) -> Result<Self, DestinationError> {
        Ok(match destination {
            Destination::Off => Self::Off,
            Destination::Stdout => Self::Stdout(io::stdout()),
            Destination::File { path, max_bytes, keep } => match LogFile::open(&path, max_bytes, keep) {
                Ok(file) => Self::File(file),
                Err(error) => return Err(DestinationError { path, error }),
            },
        })
    }

    /// Whether lines are wanted at all.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }

    /// Writes whole lines: all of them or, where the destination can be cut back, none.
    pub(crate) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Off => Ok(()),
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            Self::File(file) => file.write(lines),
        }
    }

    /// To be called now and then: follows the file if someone else moved it.
    pub(crate) fn look_after(&mut self) -> io::Result<()> {
        match self {
            Self::Off | Self::Stdout(_) => Ok(()),
            Self::File(file) => file.reopen_if_moved(),
        }
    }
}

/// A log file that rotates.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    file: File,
    /// Ends in a newline there, unless `torn`. Only files of this kind are cut back and rotated.
    regular: bool,
    length: u64,
    /// The file ends in the middle of a line.
    torn: bool,
}

impl LogFile {
    fn open(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Self> {
        let opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path);
        let mut file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => io::Error::other("it is a symbolic link: name the file itself"),
            _ => error,
        })?;
        let metadata = file.metadata()?;
        let (regular, length) = (metadata.is_file(), metadata.len());
        // A writer that was killed may have left half a line: ours must not be glued to it.
        let torn = regular && length > 0 && last_byte(&mut file)? != b'\n';
        Ok(Self { path: path.to_owned(), max_bytes, keep, file, regular, length, torn })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let added = lines.len() as u64;
        if self.regular && self.length > 0 && self.length + added > self.max_bytes {
            self.rotate()?;
        }
        if self.torn {
            self.file.write_all(b"\n")?;
            self.length += 1;
            self.torn = false;
        }
        match self.file.write_all(lines) {
            Ok(()) => {
                self.length += added;
                Ok(())
            }
            Err(error) => {
                self.torn = self.file.set_len(self.length).is_err();
                Err(error)
            }
        }
    }

    /// `PATH.1` becomes `PATH.2` and so on, the last goes, `PATH` becomes `PATH.1`, and a new `PATH` begins.
    fn rotate(&mut self) -> io::Result<()> {
        if self.keep == 0 {
            fs::remove_file(&self.path)?;
        } else {
            for number in (1..self.keep).rev() {
                match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.path, self.numbered(1))?;
        }
        *self = Self::open(&self.path, self.max_bytes, self.keep)?;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }

    fn reopen_if_moved(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let moved = match fs::symlink_metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) != (ours.dev(), ours.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if moved {
            *self = Self::open(&self.path, self.max_bytes, self.keep)?;
        } else if self.regular {
            // Someone may have emptied it in place.
            self.length = ours.len();
        }
        Ok(())
    }
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(path: &Path, max_bytes: u64, keep: u32) -> Sink {
        Sink::open(Destination::File { path: path.to_owned(), max_bytes, keep }).expect("opens")
    }

    #[test]
    fn rotates_before_the_limit_and_keeps_as_many_as_asked() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.log");
        let mut sink = log(&path, 20, 2);
        for line in [
            "one 45678\n",
            "two 45678\n",
            "three 678\n",
            "four 5678\n",
            "five 5678\n",
            "six 45678\n",
            "seven\n",
        ] {
            sink.write(line.as_bytes()).expect("writes");
        }
        let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        assert_eq!(text("audit.log"), "seven\n");
        assert_eq!(text("audit.log.1"), "five 5678\nsix 45678\n");
        assert_eq!(text("audit.log.2"), "three 678\nfour 5678\n");
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 3, "the oldest is gone");
    }

    #[test]
    fn keeping_none_starts_over() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.log");
        let mut sink = log(&path, 8, 0);
        sink.write(b"first 6\n").expect("writes");
        sink.write(b"second\n").expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("log"), "second\n");
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 1);
    }

    #[test]
    fn goes_on_behind_what_is_there_and_after_half_a_line_begins_a_new_one() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.log");
        fs::write(&path, "whole\nhal").expect("file");
        log(&path, 1 << 20, 1).write(b"next\n").expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("log"), "whole\nhal\nnext\n");
    }

    #[test]
    fn a_file_that_someone_moved_is_begun_anew() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.log");
        let mut sink = log(&path, 1 << 20, 1);
        sink.write(b"old\n").expect("writes");
        fs::rename(&path, folder.path().join("moved")).expect("renames");
        sink.look_after().expect("reopens");
        sink.write(b"new\n").expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("log"), "new\n");
        assert_eq!(fs::read_to_string(folder.path().join("moved")).expect("log"), "old\n");
    }

    #[test]
    fn a_new_file_is_for_its_owner_and_group_also_after_a_rotation() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.log");
        let mut sink = log(&path, 8, 1);
        sink.write(b"first 6\n").expect("writes");
        sink.write(b"second\n").expect("writes");
        for name in ["audit.log", "audit.log.1"] {
            let mode = fs::metadata(folder.path().join(name)).expect("a file").mode();
            assert_eq!(mode & 0o137, 0, "{name}: {mode:o}");
            assert_eq!(mode & 0o600, 0o600, "{name}: {mode:o}");
        }
    }

    #[test]
    fn a_symbolic_link_is_not_followed_when_it_is_opened_or_later() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, other) = (folder.path().join("audit.log"), folder.path().join("other"));
        fs::write(&other, "kept\n").expect("file");
        std::os::unix::fs::symlink(&other, &path).expect("link");
        let destination = Destination::File { path: path.clone(), max_bytes: 1 << 20, keep: 1 };
        let error = Sink::open(destination).expect_err("a link").to_string();
        assert!(error.contains("symbolic link"), "{error}");

        fs::remove_file(&path).expect("removed");
        let mut sink = log(&path, 1 << 20, 1);
        fs::rename(&path, folder.path().join("moved")).expect("renames");
        std::os::unix::fs::symlink(&other, &path).expect("link");
        let error = sink.look_after().expect_err("a link in its place").to_string();
        assert!(error.contains("symbolic link"), "{error}");
        sink.write(b"record\n").expect("writes");
        assert_eq!(fs::read_to_string(&other).expect("file"), "kept\n");
        assert_eq!(fs::read_to_string(folder.path().join("moved")).expect("file"), "record\n");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let destination = Destination::File { path: "/nowhere/audit.log".into(), max_bytes: 1, keep: 1 };
        let error = Sink::open(destination).expect_err("no such folder");
        assert!(
            error.to_string().starts_with("cannot open the audit log /nowhere/audit.log for writing"),
            "{error}"
        );
    }
}
