//! The folder that contains the log. Its files are reached through it, so that no symbolic link leads a write
//! elsewhere.
//!
//! Invariant: no component of a path is followed if it is a symbolic link.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RawMode, RenameFlags, Stat, fchmod, fchown, fsync,
    openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

/// The mode of a new file. The log shows which pods communicate, so it is not world-readable. A log shipper
/// that isn't root reads it as a member of the file's group.
const MODE: RawMode = 0o640;

/// How often opening a file is tried that other programs create and remove meanwhile.
const MOST_ATTEMPTS: u32 = 8;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

/// A file of a folder, as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: OsString,
    /// Its size.
    pub(super) bytes: u64,
}

impl Folder {
    /// Opens the folder of a file's path.
    ///
    /// # Errors
    /// The path names no file, leads through a symbolic link, or can't be opened.
    pub(super) fn of(path: &Path) -> io::Result<(Self, OsString)> {
        let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok((Self::open(folder)?, name.to_owned()))
    }

    /// Opens each component in turn. This needs no more than the kernel's oldest flags, unlike `openat2`,
    /// which container runtimes may forbid.
    fn open(path: &Path) -> io::Result<Self> {
        let mut at = PathBuf::new();
        let start = if path.is_absolute() { "/" } else { "." };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = openat(CWD, start, flags, Mode::empty())?;
        for component in path.components() {
            at.push(component);
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::new(".."),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            folder = openat(&folder, name, flags, Mode::empty()).map_err(|error| {
                let there = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
                match there.is_ok_and(|there| file_type(&there) == FileType::Symlink) {
                    true => io::Error::other(format!(
                        "{} is a symbolic link: give the path that it leads to",
                        at.display()
                    )),
                    false => error.into(),
                }
            })?;
        }
        Ok(Self(folder))
    }

    /// Opens a file for reading and appending, and creates it if it does not exist: with [`MODE`] and, if
    /// given, the group.
    ///
    /// # Errors
    /// It is a symbolic link or a folder, or neither a regular file nor, if `is_special_allowed`, a FIFO or
    /// character device.
    pub(super) fn open_or_create(
        &self,
        name: &OsStr,
        group: Option<u32>,
        is_special_allowed: bool,
    ) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..MOST_ATTEMPTS {
            // Opening a device can have effects, so its type is checked before that, too.
            if let Ok(there) = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
                check_type(file_type(&there), is_special_allowed)?;
            }
            let new = flags | OFlags::CREATE | OFlags::EXCL;
            match openat(&self.0, name, new, Mode::from_raw_mode(MODE)) {
                Ok(file) => return self.set_up(file, name, group),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            match openat(&self.0, name, flags | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
                Ok(file) => {
                    let file = File::from(file);
                    check_type(type_of(&file.metadata()?), is_special_allowed)?;
                    return Ok(file);
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("other programs keep creating and removing it: stop them"))
    }

    /// Gives a new file its mode, regardless of the umask, and its group. If that fails, removes it.
    fn set_up(&self, file: OwnedFd, name: &OsStr, group: Option<u32>) -> io::Result<File> {
        let owned = fchmod(&file, Mode::from_raw_mode(MODE)).map_err(io::Error::from).and_then(|()| {
            let Some(group) = group else { return Ok(()) };
            fchown(&file, None, Some(Gid::from_raw(group))).map_err(|error| cannot_change_group(group, error))
        });
        match owned {
            Ok(()) => Ok(file.into()),
            Err(error) => {
                // The error that is returned is the one to correct.
                let _ = self.remove(name);
                Err(error)
            }
        }
    }

    /// Opens an existing regular file for reading.
    pub(super) fn open_for_reading(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(openat(&self.0, name, flags, Mode::empty())?);
        check_type(type_of(&file.metadata()?), false)?;
        Ok(file)
    }

    /// Opens or creates a regular file that only its owner can read, for a program to fill and rename.
    pub(super) fn open_temporary(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.0, name, flags, Mode::from_raw_mode(0o600))?);
        check_type(type_of(&file.metadata()?), false)?;
        Ok(file)
    }

    /// Device and inode of what the name names, which may be a symbolic link; `None` if nothing.
    pub(super) fn identity(&self, name: &OsStr) -> io::Result<Option<(u64, u64)>> {
        match statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok(Some((there.st_dev, there.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Renames a file, and replaces what has the new name.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    /// Renames a file to a name that nothing has.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or an error of the system.
    pub(super) fn rename_to_new(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match renameat_with(&self.0, from, &self.0, to, RenameFlags::NOREPLACE) {
            // The file system does not support the flag.
            Err(Errno::INVAL) => match self.identity(to)? {
                None => self.rename(from, to),
                Some(_) => Err(Errno::EXIST.into()),
            },
            renamed => Ok(renamed?),
        }
    }

    /// Removes a file. That it does not exist is no error.
    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes renames and removals to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fsync(self.readable()?)?)
    }

    /// Its regular files whose names begin with `prefix`, in no order.
    pub(super) fn files(&self, prefix: &OsStr) -> io::Result<Vec<Entry>> {
        let mut files = Vec::new();
        for entry in Dir::new(self.readable()?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if !name.as_bytes().starts_with(prefix.as_bytes()) {
                continue;
            }
            match statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if file_type(&there) == FileType::RegularFile => {
                    let bytes = u64::try_from(there.st_size).unwrap_or(0);
                    files.push(Entry { name: name.to_owned(), bytes });
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(files)
    }

    fn readable(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(&self.0, ".", flags, Mode::empty())?)
    }
}

/// Gives a file the mode and group of another one.
pub(super) fn copy_permissions(from: &Metadata, to: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if to.metadata()?.gid() != from.gid() {
        fchown(to, None, Some(Gid::from_raw(from.gid())))
            .map_err(|error| cannot_change_group(from.gid(), error))?;
    }
    to.set_permissions(fs::Permissions::from_mode(from.mode() & 0o666))
}

fn cannot_change_group(group: u32, error: Errno) -> io::Error {
    match error {
        Errno::PERM => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "the agent may not give it to group {group}: run it as a member of that group (in a pod, \
                 supplementalGroups)"
            ),
        ),
        error => error.into(),
    }
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn type_of(metadata: &Metadata) -> FileType {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => FileType::RegularFile,
        () if kind.is_dir() => FileType::Directory,
        () if kind.is_fifo() => FileType::Fifo,
        () if kind.is_char_device() => FileType::CharacterDevice,
        () => FileType::Unknown,
    }
}

fn check_type(found: FileType, is_special_allowed: bool) -> io::Result<()> {
    match found {
        FileType::RegularFile => Ok(()),
        FileType::Fifo | FileType::CharacterDevice if is_special_allowed => Ok(()),
        FileType::Directory => Err(Errno::ISDIR.into()),
        FileType::Symlink => Err(io::Error::other("it is a symbolic link: name the file itself")),
        FileType::Fifo => {
            Err(io::Error::other("it is a FIFO: remove it, or write into it with --audit-special-file"))
        }
        FileType::CharacterDevice => {
            Err(io::Error::other("it is a device: name a file, or write into it with --audit-special-file"))
        }
        _ => Err(io::Error::other("it is a socket or a block device: name a file")),
    }
}
