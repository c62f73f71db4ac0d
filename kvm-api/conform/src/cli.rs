//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use kernel_patch::Variant;

/// Holds KVM's system calls to what its ioctls do.
///
/// Builds the patched Linux, boots it, one machine a property (in QEMU, and
/// in Bochs for VMX), and prints what holds. Exit status 1 says that something does not; the line
/// below the table that begins with "again:" shows it once more.
#[derive(Parser)]
#[command(name = "cargo conform", bin_name = "cargo conform", version)]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Args, Clone)]
pub struct Options {
    /// On a kernel that checks itself: KASAN, UBSAN, lockdep, kmemleak and
    /// more; faults are injected, and the lines of the new code that were
    /// reached are counted
    #[arg(long, global = true)]
    pub debug: bool,

    /// Fewer cases, for a check on each change
    #[arg(long, global = true)]
    pub sample: bool,

    /// Only this property (repeatable); --list names them
    #[arg(long, value_name = "PROPERTY")]
    pub only: Vec<String>,

    /// Begin the random cases with this number
    #[arg(long, value_name = "N", default_value_t = 1, global = true)]
    pub seed: u64,

    /// Try so many random cases, whatever is usual
    #[arg(long, value_name = "N", global = true)]
    cases: Option<u64>,

    /// Write what was found as JSON to FILE too
    #[arg(long, value_name = "FILE", global = true)]
    pub json: Option<PathBuf>,

    /// How many machines may run at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16), global = true)]
    pub jobs: u8,

    /// How long one machine may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, global = true)]
    pub timeout: u64,

    /// A tree or a tarball of Linux 6.12 to build from [default: Debian's]
    #[arg(long, value_name = "PATH", global = true)]
    pub source: Option<PathBuf>,

    /// List the properties
    #[arg(long)]
    pub list: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Break the kernel on purpose, in one place after the other, and show
    /// which property notices
    ///
    /// Each mutation is a patch in kernel-patch/mutations. Exit status 1 says
    /// that one survived.
    Mutations {
        /// Only these
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Test a property here and leave the outcome for the host.
    #[command(hide = true)]
    Inside { property: String },

    /// Make a system call of these words, on what is inherited.
    #[command(hide = true)]
    Heir { words: Vec<u64> },
}

impl Options {
    /// The kernel to test.
    pub fn variant(&self) -> Variant {
        if self.debug {
            Variant::Debug
        } else {
            Variant::Module
        }
    }

    /// The same for some properties, or all, on a kernel of choice.
    pub fn on(&self, variant: Variant, only: &[&str]) -> Self {
        Self {
            debug: variant == Variant::Debug,
            only: only.iter().map(ToString::to_string).collect(),
            ..self.clone()
        }
    }

    /// How many random cases to try: as many as the user says, else as many as
    /// fit this kind of run.
    pub fn cases(&self, usual: u64, debug: u64, sample: u64) -> u64 {
        match self.cases {
            Some(cases) => cases,
            None if self.sample => sample,
            None if self.debug => debug,
            None => usual,
        }
    }

    /// Whether everything is tested, and as much of it as usual.
    pub fn whole(&self) -> bool {
        self.only.is_empty() && !self.sample && self.cases.is_none()
    }

    /// This command's own words for the test inside.
    pub fn inside(&self, property: &str) -> Vec<String> {
        let mut args = vec!["inside".to_owned(), property.to_owned()];
        args.extend(["--seed".into(), self.seed.to_string()]);
        if let Some(cases) = self.cases {
            args.extend(["--cases".into(), cases.to_string()]);
        }
        if self.debug {
            args.push("--debug".into());
        }
        if self.sample {
            args.push("--sample".into());
        }
        args
    }

    /// The command that shows a failure again.
    pub fn again(&self, property: &str, replay: Option<&str>) -> String {
        let mut line = format!("cargo conform --only {property}");
        if self.debug {
            line += " --debug";
        }
        match replay {
            Some(replay) => line + " " + replay,
            None if self.sample => line + " --sample",
            None => line,
        }
    }
}
