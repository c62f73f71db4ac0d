//! What can go wrong on this host.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of an operation on this host.
pub type Result<T, E = HostError> = std::result::Result<T, E>;

/// The space that the directories need, in words.
const NEED: &str = "a kernel source and its builds need about 5 GB below target/kernel";

/// An operation on this host failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A file could not be read, written, made or removed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The verb, as in "cannot read".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },

    /// Something other than a file, for example a program or a pipe, failed.
    #[error("cannot {doing} {what}")]
    Process {
        /// The verb, as in "cannot run".
        doing: &'static str,
        /// The object of the verb.
        what: String,
        /// The reason.
        source: io::Error,
    },

    /// The disk is full, or has too little space at the start.
    #[error("the disk of {} is full; {NEED}", path.display())]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
    },

    /// Programs or files are missing, and the user may not install packages.
    #[error(
        "missing: {missing}\n\
         this installs it, and what else the README's commands need:\n    {line}"
    )]
    PackagesMissing {
        /// The names of the programs and files.
        missing: String,
        /// The command line to paste.
        line: String,
    },

    /// A tool exceeded its time limit.
    #[error("{what} took more than {} s", after.as_secs())]
    ToolTimedOut {
        /// What the tool was doing.
        what: String,
        /// The limit.
        after: Duration,
    },

    /// A tool failed.
    #[error("{what} failed ({status}); the end of {}:\n{tail}", log.display())]
    ToolFailed {
        /// What the tool was doing.
        what: String,
        /// How it ended.
        status: String,
        /// The file with its whole output.
        log: PathBuf,
        /// The last lines of its output.
        tail: String,
    },

    /// Neither cargo, nor the program's path, nor the current directory names a
    /// checkout.
    #[error(
        "cannot find the checkout of this project: run this program with cargo, or in \
         the checkout"
    )]
    NoCheckout,

    /// Another process holds the lock on a directory.
    #[error("{holder} in {}; wait until it ends, or pass --wait", path.display())]
    Locked {
        /// The process, and what it does.
        holder: String,
        /// The directory.
        path: PathBuf,
    },

    /// A signal asked this program to end.
    #[error("interrupted")]
    Interrupted,
}

impl HostError {
    /// For `map_err`: an operation on a file failed.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull => Self::DiskFull { path: path.into() },
            _ => Self::Io {
                doing,
                path: path.into(),
                source,
            },
        }
    }

    /// For `map_err`: an operation on something other than a file failed.
    pub(crate) fn process(
        doing: &'static str,
        what: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Process {
            doing,
            what,
            source,
        }
    }
}
