//! What to do about a destination that can't be written.

use std::io::{self, ErrorKind};

use super::settings::Destination;

/// What an operator does about this error of a destination.
pub(crate) fn remedy(error: &io::Error, destination: &Destination) -> String {
    let path = match destination {
        Destination::Off => return String::new(),
        Destination::Stdout => {
            return "make the program read that reads the agent's standard output, or name a file with \
                    --audit-log"
                .to_owned();
        }
        Destination::File(settings) => settings.path.display(),
    };
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("free space on the disk of {path}, or lower --audit-total-size and --audit-max-size")
        }
        ErrorKind::FileTooLarge => {
            format!("raise the agent's limit on file sizes (ulimit -f), or lower --audit-max-size for {path}")
        }
        ErrorKind::ReadOnlyFilesystem => format!("mount the file system of {path} writable"),
        ErrorKind::PermissionDenied => format!("let the agent's user and group write {path} and its folder"),
        ErrorKind::NotFound => format!("create the folder of {path}"),
        ErrorKind::WouldBlock => format!("make the program read that reads {path}"),
        ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            format!("remove what is in the place of {path}")
        }
        _ => format!("correct {path}, its folder or its disk; the agent tries again by itself"),
    }
}
