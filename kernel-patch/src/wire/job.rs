//! What the host tells the machine to do, and what the machine answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the machine finds its [`Job`].
pub(crate) const JOB: &str = "/job.json";

/// The working directory inside; a tmpfs.
pub(crate) const WORK: &str = "/work";

/// What is left in this directory inside is brought back.
pub const OUT: &str = "/work/out";

/// The variable by which the executable learns of [`OUT`].
pub const OUT_VARIABLE: &str = "KERNEL_PATCH_OUT";

/// The directory below [`OUT`] of the counts of a kernel that counts its lines: one
/// file for each of [`Kernel::counted`](crate::Kernel::counted), by the same paths.
pub const COUNTS: &str = "gcov";

/// The serial ports by which the machine speaks, by the names that it sees.
pub(crate) mod port {
    pub(crate) const STDOUT: &str = "stdout";
    pub(crate) const STDERR: &str = "stderr";
    pub(crate) const FILES: &str = "files";
    pub(crate) const EXIT: &str = "exit";
    pub(crate) const ALL: [&str; 4] = [STDOUT, STDERR, FILES, EXIT];
}

/// One executable to run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Modules to load first, in this order.
    pub(crate) modules: Vec<String>,
    /// The executable.
    pub(crate) program: String,
    /// Its arguments, without its name.
    pub(crate) args: Vec<String>,
    /// All of its environment.
    pub(crate) env: BTreeMap<String, String>,
}

/// How the executable ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this status.
    Code(u8),
    /// Killed by this signal.
    Signal(u8),
}

impl Exit {
    /// The status as a shell tells it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// Whether the status is 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// What comes out of the machine: how the job ended, or why it never began.
pub(crate) type Report = Result<Exit, String>;
