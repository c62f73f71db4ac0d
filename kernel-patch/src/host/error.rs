//! Everything that can go wrong, each as one message that says what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of everything that this crate does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The space that the directories need, in words.
const NEED: &str = "a kernel source and its builds need about 5 GB below target/kernel";

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read, written, made or removed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The verb, as in "cannot read".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },

    /// No space is left, or too little to begin with.
    #[error("the disk of {} is full; {}", path.display(), NEED)]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },

    /// Tools are missing and may not be installed from here.
    #[error(
        "missing: {missing}\n\
         this gets it, and what else the README's commands need:\n    {line}"
    )]
    ToolsMissing {
        /// Names of the tools.
        missing: String,
        /// The line to paste.
        line: String,
    },

    /// The source is not of the version that the series is for.
    #[error(
        "{} is {found}; the patch series is for Linux {}",
        path.display(),
        wanted
    )]
    WrongSource {
        /// The tree or the tarball.
        path: PathBuf,
        /// What it is instead.
        found: String,
        /// The version of the series.
        wanted: &'static str,
    },

    /// A tool did not come to an end in time.
    #[error("{what} took more than {} s", after.as_secs())]
    ToolTimedOut {
        /// What it was doing.
        what: String,
        /// The limit.
        after: Duration,
    },

    /// Something is asked for that only root may do.
    #[error("this {0}, which only root may do: run it by sudo")]
    NotRoot(&'static str),

    /// There is no toolchain that can be lent to another root file system.
    #[error(
        "{} is no toolchain of Rust's in a directory of its own, such as rustup's",
        .0.display()
    )]
    NoToolchain(PathBuf),

    /// Something on the new machine is not as it has to be.
    #[error("{0}")]
    NotFresh(String),

    /// The path of the running program is not known.
    #[error("cannot find the executable of this program: {source}")]
    NoProgram {
        /// The reason.
        source: io::Error,
    },

    /// Neither cargo, nor where the program lies, nor where it was started
    /// names a checkout.
    #[error(
        "cannot find the checkout of this project, which has the patches: \
         run this in it, or by cargo"
    )]
    NoCheckout,

    /// The patches to apply are not there.
    #[error("no patches in {}", .0.display())]
    NoPatches(PathBuf),

    /// A patch does not apply.
    #[error("{patch} does not apply to {file}:\n{detail}")]
    PatchFailed {
        /// The patch's file name.
        patch: String,
        /// The kernel's file.
        file: String,
        /// What `patch` says.
        detail: String,
    },

    /// A mutation does not say what it is.
    #[error("{} has no proper line {header:?}", path.display())]
    BadMutation {
        /// The mutation's patch.
        path: PathBuf,
        /// The line's beginning.
        header: &'static str,
    },

    /// There is no patch of this number.
    #[error("the series has no patch {number}; it has {count}")]
    NoSuchPatch {
        /// What was asked for.
        number: usize,
        /// The number of the last one.
        count: usize,
    },

    /// A line of the exceptions from checkpatch's remarks says too little.
    #[error("{}: not PATCH TYPE FILE REASON: {line}", path.display())]
    BadException {
        /// The file.
        path: PathBuf,
        /// The line.
        line: String,
    },

    /// A tree is to be built as it is checked out, and it is not.
    #[error("{} is not a tree that git knows: {detail}", path.display())]
    NoCommit {
        /// The tree.
        path: PathBuf,
        /// What git says.
        detail: String,
    },

    /// The kernel's configuration dropped what the fragments ask for.
    #[error("the kernel's configuration lost these options:\n{}", .0.join("\n"))]
    ConfigLost(Vec<String>),

    /// A tool could not be started.
    #[error("cannot run {what}: {source}")]
    Spawn {
        /// The tool.
        what: String,
        /// The reason.
        source: io::Error,
    },

    /// A tool failed.
    #[error("{what} failed ({status}); the end of {}:\n{tail}", log.display())]
    ToolFailed {
        /// What it was doing.
        what: String,
        /// How it ended.
        status: String,
        /// All of its output.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },

    /// Somebody else works in the same directory.
    #[error("{holder} in {}; wait for it to end, or pass --wait", path.display())]
    Locked {
        /// Who, and what it does.
        holder: String,
        /// The directory.
        path: PathBuf,
    },

    /// The file to run inside is not an executable for the machine.
    #[error("{} {why}", path.display())]
    NotRunnable {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },

    /// The dynamic linker does not find what a program needs.
    #[error("{} cannot be started as it is:\n{said}", program.display())]
    LibraryMissing {
        /// The program.
        program: PathBuf,
        /// What the dynamic linker says.
        said: String,
    },

    /// The kernel inside panicked.
    #[error("the kernel panicked; its last lines (all are in {}):\n{tail}", console.display())]
    Panicked {
        /// The console's log.
        console: PathBuf,
        /// Its last lines.
        tail: String,
    },

    /// The kernel inside complained, and went on.
    #[error("the kernel complained (all of it is in {}):\n{report}", console.display())]
    Complained {
        /// The console's log.
        console: PathBuf,
        /// The complaint, and some of what follows it.
        report: String,
    },

    /// The machine did not come to an end in time.
    #[error(
        "nothing came of the machine within {} s; the console's last lines (all are in {}):\n{tail}",
        after.as_secs(), console.display()
    )]
    TimedOut {
        /// The limit.
        after: Duration,
        /// The console's log.
        console: PathBuf,
        /// Its last lines.
        tail: String,
    },

    /// The emulator ended by itself.
    #[error("{name} failed ({status}):\n{said}")]
    EmulatorFailed {
        /// Which.
        name: &'static str,
        /// How it ended.
        status: String,
        /// What it said.
        said: String,
    },

    /// Something is asked for that Bochs does not have.
    #[error("Bochs has {0}")]
    NotByBochs(&'static str),

    /// A size of memory that is none.
    #[error("{0:?} is no size of memory in M or G")]
    BadMemory(String),

    /// A plugin is to be loaded, and QEMU does not do that.
    #[error(
        "{0} was built without plugins (--enable-plugins), which record what a machine executes"
    )]
    NoPlugins(String),

    /// The machine went down before the executable ended.
    #[error(
        "the machine went down and left no exit status; the console's last lines (all are in {}):\n{tail}",
        console.display()
    )]
    NoExitStatus {
        /// The console's log.
        console: PathBuf,
        /// Its last lines.
        tail: String,
    },

    /// The machine came up and could not start the executable.
    #[error("the machine could not run the executable: {0}")]
    Guest(String),

    /// The machine of a program ended before the program did.
    #[error("{what}: {source}; {failure}")]
    CutShort {
        /// What the program was doing.
        what: String,
        /// The last lines of its standard error.
        failure: String,
        /// How the machine ended.
        source: Box<Self>,
    },

    /// A program that this program called has failed.
    #[error("{what} ended with {status}: {failure}")]
    CallFailed {
        /// What it was doing.
        what: String,
        /// How it ended.
        status: String,
        /// The last lines of its standard error.
        failure: String,
    },

    /// A program that this program called has not answered in the expected type.
    #[error("{what} did not answer as expected: {source}")]
    BadAnswer {
        /// What it was doing.
        what: String,
        /// The reason.
        source: serde_json::Error,
    },

    /// A signal asked this program to end.
    #[error("interrupted")]
    Interrupted(i32),
}

impl Error {
    /// For `map_err`: what was being done to which file.
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

    /// The status that a program ends with for this error's sake.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            // As a shell reports a program that the signal killed.
            Self::Interrupted(signal) => 128 + *signal as u8,
            _ => 1,
        }
    }
}
