//! The files of logs, in the order in which they were written.
//!
//! Invariant: each closed file is read once, though it may be compressed meanwhile.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::destination::is_closed_file;

/// The first bytes of a zstd frame (RFC 8878), as they are stored.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The end of a compressed file's name.
pub(super) const COMPRESSED: &[u8] = b".zst";

/// The ends of the names of logs in a folder.
const LOG_ENDS: [&[u8]; 2] = [b".log", b".jsonl"];

/// How many bytes are read at a time.
pub(super) const BUFFER: usize = 256 << 10;

/// The length of `.20260102T030406.123Z`, which a closed file's name has in addition to that of its log.
const STAMP_LENGTH: usize = ".20260102T030406.123Z".len();

/// An open log, decompressed.
pub type LogInput = Box<dyn BufRead + Send>;

/// A file of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFile {
    /// Its path. If it is a closed file, it may be compressed until it is opened: see [`Self::open`].
    pub path: PathBuf,
}

/// The files to read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogFiles {
    /// The files of each log, oldest first.
    pub files: Vec<LogFile>,
    /// Names in a folder that are no log, sorted.
    pub others: Vec<PathBuf>,
}

impl LogFiles {
    /// All logs in a folder: files whose names end in `.log` or `.jsonl`, each after its closed files. If
    /// there are several logs, they follow each other by name.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        let mut logs: BTreeMap<OsString, Vec<OsString>> = BTreeMap::new();
        let mut others = Vec::new();
        for name in names(folder)? {
            match log_of(&name) {
                Some(log) => logs.entry(log).or_default().push(name),
                None => others.push(folder.join(name)),
            }
        }
        others.sort();
        let in_order = logs.into_iter().flat_map(|(log, files)| in_order(folder, &log, files));
        Ok(Self { files: in_order.collect(), others })
    }

    /// The closed files of the log at `path`, and then the log itself if it exists.
    pub fn of_log(path: &Path) -> io::Result<Self> {
        let (folder, log) = split(path)?;
        let mut files = closed_files(folder, log)?;
        if path.try_exists()? {
            files.push(LogFile { path: path.to_owned() });
        }
        Ok(Self { files, others: Vec::new() })
    }
}

impl LogFile {
    /// Opens the file. If it is a closed file that was compressed since it was listed, opens that.
    pub fn open(&self) -> io::Result<LogInput> {
        match open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut compressed = self.path.clone().into_os_string();
                compressed.push(OsStr::from_bytes(COMPRESSED));
                open(Path::new(&compressed)).map_err(|_| error)
            }
            opened => opened,
        }
    }
}

/// Opens a log, and decompresses it if it is compressed by zstd.
pub fn open(path: &Path) -> io::Result<LogInput> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    open_input(file)
}

/// Reads a log from any input, and decompresses it if it is compressed by zstd.
pub fn open_input(input: impl Read + Send + 'static) -> io::Result<LogInput> {
    let mut input = BufReader::with_capacity(BUFFER, input);
    // A pipe may return fewer bytes than the magic number has. No record begins with its first byte.
    let begins_as_zstd = input.fill_buf()?.first() == ZSTD_MAGIC.first();
    if !begins_as_zstd {
        return Ok(Box::new(input));
    }
    let decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)))
}

/// The closed files of a log, oldest first.
pub(super) fn closed_files(folder: &Path, log: &OsStr) -> io::Result<Vec<LogFile>> {
    let closed = names(folder)?.into_iter().filter(|name| is_finished_closed_file(name, log));
    Ok(in_order(folder, log, closed.collect()))
}

/// The folder and the name of a log's path.
pub(super) fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok((folder.unwrap_or(Path::new(".")), name))
}

/// The names of all files in a folder, other than folders.
fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

/// The log that a file in a folder belongs to; `None` if it belongs to none.
fn log_of(name: &OsStr) -> Option<OsString> {
    let bytes = name.as_bytes();
    let plain = bytes.strip_suffix(COMPRESSED).unwrap_or(bytes);
    if LOG_ENDS.iter().any(|end| plain.ends_with(end)) {
        return Some(OsString::from_vec(plain.to_vec()));
    }
    let log = OsStr::from_bytes(plain.get(..plain.len().checked_sub(STAMP_LENGTH)?)?);
    is_finished_closed_file(name, log).then(|| log.to_owned())
}

/// Whether a file is a closed file of this log, and not one that is still being compressed.
fn is_finished_closed_file(name: &OsStr, log: &OsStr) -> bool {
    !log.is_empty() && is_closed_file(name, log) && !name.as_bytes().ends_with(b".tmp")
}

/// The files of a log, oldest first: closed files by their times, then the log itself. If a file exists
/// compressed and as it was written, its plain form is read, since the other one may be newer than the list.
fn in_order(folder: &Path, log: &OsStr, names: Vec<OsString>) -> Vec<LogFile> {
    let stem = |name: &OsString| {
        let bytes = name.as_bytes();
        bytes.strip_suffix(COMPRESSED).unwrap_or(bytes).to_vec()
    };
    let mut names: Vec<(bool, Vec<u8>, OsString)> =
        names.into_iter().map(|name| (stem(&name) == log.as_bytes(), stem(&name), name)).collect();
    // Times have one length, so that their order is that of the text; a plain name sorts before its
    // compressed form.
    names.sort();
    names.dedup_by(|later, earlier| later.1 == earlier.1);
    names.into_iter().map(|(.., name)| LogFile { path: folder.join(name) }).collect()
}

impl fmt::Display for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}
