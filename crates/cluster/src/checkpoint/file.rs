//! The state file: a header line, then the objects as JSON.
//!
//! It is written to a temporary file and renamed, so a reader finds either the new version or the previous
//! one as a whole. The header has the length and the CRC-32 of the body, for disks and file systems that lose
//! data. Neither reading nor writing holds the whole file in memory.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::contents::{Checkpoint, Restored};
use super::object::{Loaded, Saved};
use crate::interner::Interner;

/// The name of the file in its folder.
pub(super) const NAME: &str = "state.json";

/// The prefix of files that are being written.
const UNFINISHED: &str = ".state-";

/// An unfinished file that is older than this was left by a killed agent.
const ABANDONED: Duration = Duration::from_secs(60);

/// The supported `format`.
const FORMAT: &str = "kube-verdict state";

/// The supported `version`. It changes when a reader of this version would misunderstand the file.
const VERSION: u32 = 2;

/// The most bytes that are read or written, which is some 200,000 pods. In memory they take about as much.
const LARGEST: u64 = 64 << 20;

/// The buffer size for reading and writing.
const BUFFER: usize = 64 << 10;

/// The longest header, in bytes.
const LONGEST_HEADER: u64 = 16 << 10;

/// The first line of the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    format: String,
    version: u32,
    /// The source of the objects. Objects of another source are not used.
    source: String,
    node: String,
    /// Grows with each agent that writes, so an older agent does not overwrite the state of a newer one.
    pub term: u64,
    /// Seconds since 1970.
    saved: u64,
    /// The length of the body.
    bytes: u64,
    /// The checksum of the body.
    crc32: u32,
}

/// Why the state can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the state in {} can't be read", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the state in {} is not used: {what}", path.display())]
    Content { path: PathBuf, what: String },
}

/// Why the state was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the state takes more than {LARGEST} bytes")]
    TooLarge,
    /// Another agent writes the state. Says which one, and what to do.
    #[error("{0}")]
    Yields(String),
}

/// The result of reading.
#[derive(Debug)]
pub(super) enum Read {
    /// The state, and the term of its writer.
    Whole(Restored, u64),
    /// No state was ever written.
    Nothing,
}

impl Header {
    pub(super) fn new(source: &str, node: &str, term: u64) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            source: source.to_owned(),
            node: node.to_owned(),
            term,
            saved: 0,
            bytes: 0,
            crc32: 0,
        }
    }

    /// The header line, padded with spaces to `length` bytes.
    fn line(&self, length: usize) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.resize(line.len().max(length.saturating_sub(1)), b' ');
        line.push(b'\n');
        Ok(line)
    }

    /// Why an agent with this header must not replace the state with the header `found`; `None` if it may.
    pub(super) fn yields_to(&self, found: &Header) -> Option<String> {
        if found.term <= self.term {
            return None;
        }
        Some(if found.source == self.source && found.node == self.node {
            "another agent of this node has taken over and writes the state: unless an upgrade is in \
             progress, stop one of the two"
                .to_owned()
        } else {
            format!(
                "an agent of node {} and source {} writes it, too: give each agent a folder of its own",
                found.node, found.source
            )
        })
    }

    /// Why the objects of this header can't be used.
    fn flaw(&self, source: &str, node: &str) -> Option<String> {
        if self.format != FORMAT || self.version != VERSION {
            return Some(format!(
                "it has version {} of the format, and this program reads version {VERSION}",
                self.version
            ));
        }
        if self.source != source || self.node != node {
            return Some(format!(
                "it is of node {} and source {}: give each agent a folder of its own",
                self.node, self.source
            ));
        }
        (self.bytes > LARGEST).then(|| format!("its header gives a length of {} bytes", self.bytes))
    }
}

/// Reads the state in `folder`, if it is of this source and node.
pub(super) fn read(folder: &Path, source: &str, node: &str, interner: &Interner) -> Result<Read, ReadError> {
    let path = folder.join(NAME);
    let io = |source| ReadError::Io { path: path.clone(), source };
    let content = |what| ReadError::Content { path: path.clone(), what };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::Nothing),
        Err(error) => return Err(io(error)),
    };
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(content("it is not a regular file".to_owned()));
    }
    if metadata.len() > LARGEST + LONGEST_HEADER {
        return Err(content(format!("it has {} bytes, and at most {LARGEST} are read", metadata.len())));
    }
    let mut file = BufReader::with_capacity(BUFFER, file);
    let header =
        header(&mut file).map_err(io)?.ok_or_else(|| content("its first line is not a header".to_owned()))?;
    if let Some(flaw) = header.flaw(source, node) {
        return Err(content(flaw));
    }
    let body = file.stream_position().map_err(io)?;
    if checksum(&mut file).map_err(io)? != (header.bytes, header.crc32) {
        return Err(content("its length or checksum is wrong: it is damaged".to_owned()));
    }
    file.seek(SeekFrom::Start(body)).map_err(io)?;
    let loaded: Loaded =
        serde_json::from_reader(file.take(header.bytes)).map_err(|error| content(error.to_string()))?;
    let checkpoint = loaded.checkpoint(interner);
    let saved = UNIX_EPOCH.checked_add(Duration::from_secs(header.saved)).unwrap_or(UNIX_EPOCH);
    Ok(Read::Whole(Restored { checkpoint, saved }, header.term))
}

/// Length and checksum of the rest of a file.
fn checksum(file: &mut impl io::BufRead) -> io::Result<(u64, u32)> {
    let (mut bytes, mut crc) = (0, crc32fast::Hasher::new());
    loop {
        let read = file.fill_buf()?;
        if read.is_empty() {
            return Ok((bytes, crc.finalize()));
        }
        crc.update(read);
        let length = read.len();
        bytes += length as u64;
        file.consume(length);
    }
}

/// Reads the first line; `None` if it is not a header.
fn header(file: &mut impl io::BufRead) -> io::Result<Option<Header>> {
    let mut line = Vec::new();
    file.by_ref().take(LONGEST_HEADER).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line).ok())
}

/// The header of the state in `folder`, even if the state is not used; `None` if it can't be read.
pub(super) fn header_in(folder: &Path) -> Option<Header> {
    let file = File::open(folder.join(NAME)).ok()?;
    header(&mut BufReader::new(file)).ok().flatten()
}

/// Replaces the state in `folder`, which is created if it does not exist. Returns the number of bytes
/// written. Does not replace the state of a newer agent.
pub(super) fn write(
    folder: &Path,
    header: &Header,
    checkpoint: &Checkpoint,
    now: SystemTime,
) -> Result<u64, WriteError> {
    yield_to_newer(folder, header)?;
    let saved = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let header = Header { saved, ..header.clone() };
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Mode 0600, and removed if this function returns early.
    let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
    // Length and checksum are known only after writing the body.
    let longest = Header { bytes: u64::MAX, crc32: u32::MAX, ..header.clone() }.line(0)?;
    let mut body = Body::new(BufWriter::with_capacity(BUFFER, file));
    body.writer.write_all(&longest)?;
    if let Err(error) = serde_json::to_writer(&mut body, &Saved::of(checkpoint)) {
        return Err(if body.is_too_large { WriteError::TooLarge } else { io::Error::from(error).into() });
    }
    let Body { writer, bytes, crc, .. } = body;
    let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&Header { bytes, crc32: crc.finalize(), ..header.clone() }.line(longest.len())?)?;
    file.as_file().sync_all()?;
    // If this process was stopped in the meantime, another agent may have taken over.
    yield_to_newer(folder, &header)?;
    file.persist(folder.join(NAME)).map_err(|error| error.error)?;
    // So that the new name survives a power cut too.
    File::open(folder)?.sync_all()?;
    Ok(bytes)
}

/// Fails if the state in `folder` is that of a newer agent.
fn yield_to_newer(folder: &Path, header: &Header) -> Result<(), WriteError> {
    match header_in(folder).and_then(|found| header.yields_to(&found)) {
        Some(reason) => Err(WriteError::Yields(reason)),
        None => Ok(()),
    }
}

/// Counts the bytes written after the header, up to [`LARGEST`].
struct Body<W> {
    writer: W,
    bytes: u64,
    crc: crc32fast::Hasher,
    is_too_large: bool,
}

impl<W> Body<W> {
    fn new(writer: W) -> Self {
        Self { writer, bytes: 0, crc: crc32fast::Hasher::new(), is_too_large: false }
    }
}

impl<W: io::Write> io::Write for Body<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes + bytes.len() as u64 > LARGEST {
            self.is_too_large = true;
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let written = self.writer.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// The state files and unfinished state files in a folder. None if the folder does not exist.
///
/// # Errors
/// If the folder can't be read.
pub fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = name == NAME || name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes());
        // Agents write neither folders nor links.
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Removes the unfinished files of agents that were killed while they wrote.
pub(super) fn tidy(folder: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_old = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = is_old.is_ok_and(|written| now.duration_since(written).unwrap_or_default() > ABANDONED);
        if is_old && entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
