//! The errors of a machine.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::Duration;

use crate::host::HostError;

/// The result of a run.
pub type Result<T, E = BootError> = std::result::Result<T, E>;

/// A machine did not run an executable to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// An operation on the host failed.
    #[error(transparent)]
    Host(#[from] HostError),

    /// A file is not an executable that the machine can run, for this reason.
    #[error("{} {}", .0.display(), .1)]
    NotRunnable(PathBuf, &'static str),

    /// The dynamic linker does not find the libraries of a program. It says which.
    #[error("the dynamic linker cannot start {}:\n{}", .0.display(), .1)]
    LibraryMissing(PathBuf, String),

    /// The kernel inside panicked.
    #[error("the kernel panicked; its last lines {0}")]
    Panicked(Console),

    /// The kernel inside reported a problem, and went on. The console's log has the whole
    /// report, and the text its first lines.
    #[error("the kernel reported a problem (the whole report is in {}):\n{}", .0.display(), .1)]
    Complained(PathBuf, String),

    /// The machine exceeded this time limit.
    #[error("the machine timed out after {} s; the console's last lines {}", .0.as_secs(), .1)]
    TimedOut(Duration, Console),

    /// The emulator failed.
    #[error("{name} failed ({status}):\n{output}")]
    EmulatorFailed {
        /// Its name.
        name: &'static str,
        /// How it ended.
        status: String,
        /// Its output.
        output: String,
    },

    /// A setting of the machine is for QEMU only.
    #[error("Bochs does not support {0}")]
    NotByBochs(&'static str),

    /// A size of memory is invalid.
    #[error("{0:?} is not a size of memory in M or G")]
    BadMemory(String),

    /// QEMU cannot load plugins.
    #[error(
        "{0} was built without plugins (--enable-plugins), which record what a machine executes"
    )]
    NoPlugins(String),

    /// The machine shut down before the executable ended.
    #[error("the machine shut down without an exit status; the console's last lines {0}")]
    NoExitStatus(Console),

    /// The machine came up and could not start the executable.
    #[error("the machine could not run the executable: {0}")]
    NotStarted(String),

    /// The machine ended, in this way, before the program in it did.
    #[error("{0}")]
    CutShort(Box<Self>, #[source] LastLines),

    /// A called program failed.
    #[error("{what} ended with {status}: {failure}")]
    CallFailed {
        /// The work of the program.
        what: String,
        /// How it ended.
        status: String,
        /// The last lines of its standard error.
        failure: String,
    },

    /// The output of a called program, which did this work, has another type.
    #[error("the output of {0} is not of the expected type")]
    BadOutput(String, #[source] serde_json::Error),
}

/// The end of a machine's console.
#[derive(Debug)]
pub struct Console {
    /// The file with the whole text.
    pub log: PathBuf,
    /// The last lines.
    pub tail: String,
}

impl Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(all are in {}):\n{}", self.log.display(), self.tail)
    }
}

/// The last lines of a program's standard error.
#[derive(Debug, thiserror::Error)]
#[error("the last lines of {what}: {lines}")]
pub struct LastLines {
    pub(super) what: String,
    pub(super) lines: String,
}
