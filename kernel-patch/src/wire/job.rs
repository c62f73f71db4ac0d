//! The job that the host gives to the machine, and the result that the machine returns.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The file of the [`Job`] inside.
pub(crate) const JOB: &str = "/job.json";

/// The working directory inside, a tmpfs.
pub(crate) const WORK: &str = "/work";

/// The directory inside whose files the host receives.
pub const OUT: &str = "/work/out";

/// The same directory in the root of the host, where others may have a `/work`.
pub(crate) const HOST_OUT: &str = "/run/kernel-patch-out";

/// The tag of the file system with the root of the host.
pub(crate) const HOST_TAG: &str = "host";

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
    /// The ports to the host.
    pub(crate) const ALL: [&str; 4] = [STDOUT, STDERR, FILES, EXIT];

    // The ports from the host, which a machine has if it passes input on.
    pub(crate) const STDIN: &str = "stdin";
    /// Each line has the rows and columns that the host's terminal has from now on.
    pub(crate) const SIZE: &str = "size";
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
    /// Where it starts in the root of the host, unless it runs alone.
    pub(crate) host: Option<HostPlace>,
    /// Where its standard input comes from.
    pub(crate) input: Input,
}

/// A place in the root of the host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HostPlace {
    /// The directory to start in.
    pub(crate) directory: PathBuf,
    /// The files beside the job that have to be there, too, by their absolute paths.
    pub(crate) files: Vec<PathBuf>,
}

/// The source of an executable's standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Input {
    /// There is none.
    None,
    /// The port [`port::STDIN`].
    Port,
    /// A terminal inside, which is also the standard output. Its other end is the ports.
    Terminal {
        /// Whether it is the standard error, too.
        has_stderr: bool,
    },
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
