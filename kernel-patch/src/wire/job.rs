//! The job that the host gives to the machine, and the result that the machine returns.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The file of the [`Job`] inside.
pub(crate) const JOB: &str = "/job.json";

/// The working directory inside, a tmpfs.
pub(crate) const WORK: &str = "/work";

/// The directory inside whose files the host receives.
pub const OUT: &str = "/work/out";

/// The variable that names [`OUT`] to the executable.
pub const OUT_VARIABLE: &str = "KERNEL_PATCH_OUT";

/// The directory below [`OUT`] of the counts of a kernel that counts its lines: one
/// file for each of [`Kernel::counted`](crate::Kernel::counted), by the same paths.
pub const COUNTS: &str = "gcov";

/// The serial ports of the machine, by their names inside.
pub(crate) mod port {
    pub(crate) const STDOUT: &str = "stdout";
    pub(crate) const STDERR: &str = "stderr";
    pub(crate) const FILES: &str = "files";
    pub(crate) const EXIT: &str = "exit";
    pub(crate) const ALL: [&str; 4] = [STDOUT, STDERR, FILES, EXIT];
}

/// An executable to run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The modules to load before it, in this order.
    pub(crate) modules: Vec<String>,
    /// The executable.
    pub(crate) program: String,
    /// Its arguments, without its name.
    pub(crate) args: Vec<String>,
    /// Its whole environment.
    pub(crate) env: BTreeMap<String, String>,
}

/// How an executable ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this status.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl Exit {
    /// The status as a shell reports it.
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

/// How the job ended, or why it did not start.
pub(crate) type JobResult = Result<Exit, String>;
