//! The errors of operations on this host.

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
    /// An operation of the operating system failed.
    #[error("cannot {doing} {what}")]
    Io {
        /// The verb, as in "cannot read".
        doing: &'static str,
        /// Its object: a file, or for example a program.
        what: String,
        /// The reason.
        source: io::Error,
    },

    /// The disk of a file is full, or has too little space at the start.
    #[error("the disk of {} is full; {NEED}", .0.display())]
    DiskFull(PathBuf),

    /// These programs or files are missing, and the user may not install packages. The
    /// command line is for the user to paste.
    #[error(
        "missing: {0}\n\
         this command installs everything that the README's commands need:\n    {1}"
    )]
    PackagesMissing(String, String),

    /// apt has no package lists of Debian, which would name a mirror.
    #[error("apt knows no mirror of Debian; run apt-get update")]
    NoMirror,

    /// A tool, which did this work, exceeded this time limit.
    #[error("{} timed out after {} s", .0, .1.as_secs())]
    ToolTimedOut(String, Duration),

    /// A tool failed.
    #[error("{what} failed ({status}); the end of {}:\n{tail}", log.display())]
    ToolFailed {
        /// The work of the tool.
        what: String,
        /// How it ended.
        status: String,
        /// The file with its whole output.
        log: PathBuf,
        /// The last lines of its output.
        tail: String,
    },

    /// The output of cargo does not name this package or its executable.
    #[error("cargo does not name {0}")]
    NotNamed(&'static str),

    /// Neither cargo, nor the program's path, nor the current directory names a
    /// checkout.
    #[error(
        "cannot find the checkout of this project: run this program with cargo, or in \
         the checkout"
    )]
    NoCheckout,

    /// Another process, with this work, holds the lock on a directory.
    #[error("{} in {}; wait until it ends, or pass --wait", .0, .1.display())]
    Locked(String, PathBuf),

    /// A signal asked this program to end.
    #[error("interrupted")]
    Interrupted,
}

/// Adds the failed operation to an error of the operating system.
pub(crate) trait IoContext<T>: Sized {
    /// As in `fs::read(path).cannot("read", path)`.
    fn cannot(self, doing: &'static str, path: &Path) -> Result<T>;

    /// The same for something other than a file, as in `.cannot_named("run", "git")`.
    fn cannot_named(self, doing: &'static str, what: &str) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn cannot(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|error| match error.into() {
            full if full.kind() == io::ErrorKind::StorageFull => HostError::DiskFull(path.into()),
            source => HostError::Io {
                doing,
                what: path.display().to_string(),
                source,
            },
        })
    }

    fn cannot_named(self, doing: &'static str, what: &str) -> Result<T> {
        self.map_err(|error| HostError::Io {
            doing,
            what: what.into(),
            source: error.into(),
        })
    }
}
