//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use kernel_patch::{Base, Variant};
use serde::{Deserialize, Serialize};

/// Test that KVM's system calls behave like its ioctls
///
/// Builds the patched Linux, boots it in one machine per property (in QEMU, or
/// in Bochs for VMX), and prints which properties hold. The exit status is 1 if
/// a property does not hold; below the table, each failure is followed by the
/// command that repeats it.
#[derive(Parser)]
#[command(name = "cargo conform", bin_name = "cargo conform", version)]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Args, Clone, Serialize, Deserialize)]
pub struct Options {
    /// Test a kernel with debugging checks (KASAN, UBSAN, lockdep, kmemleak and
    /// more), inject faults, and count the reached lines of the new code
    #[arg(long, global = true)]
    pub debug: bool,

    /// Test a kernel that reports data races (KCSAN)
    #[arg(long, conflicts_with = "debug")]
    pub kcsan: bool,

    /// Run fewer cases, for a check of each change
    #[arg(long, global = true)]
    pub sample: bool,

    /// Test only this property; can be repeated, and --list shows the names
    #[arg(long, value_name = "PROPERTY")]
    pub only: Vec<String>,

    /// Test only the cases of suite, shadow, races and selftests whose names contain TEXT
    #[arg(long, value_name = "TEXT", requires = "only")]
    pub case: Option<String>,

    /// Seed of the random cases
    #[arg(long, value_name = "N", default_value_t = 1, global = true)]
    pub seed: u64,

    /// Number of random cases
    #[arg(long, value_name = "N", global = true)]
    cases: Option<u64>,

    /// Also write the results as JSON to FILE
    #[arg(long, value_name = "FILE", global = true)]
    pub json: Option<PathBuf>,

    /// Number of machines that run at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16), global = true)]
    pub jobs: u8,

    /// Time limit of each machine
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, global = true)]
    pub timeout: u64,

    /// Release of Linux
    #[arg(long, value_enum, default_value_t, global = true)]
    pub base: Base,

    /// Tree or tarball of that release to build from [default: Debian's]
    #[arg(long, value_name = "PATH", global = true)]
    pub source: Option<PathBuf>,

    /// List the properties
    #[arg(long)]
    pub list: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Break the kernel in one place at a time, and show which property notices
    ///
    /// Each mutation is a patch in kernel-patch/mutations or in
    /// kernel-patch/linux-BASE/mutations. While one is tested, the next is built. The
    /// exit status is 1 if no property notices a mutation.
    Mutations {
        /// Test only these mutations
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Make a system call with these arguments, on inherited descriptors.
    #[command(hide = true)]
    InheritedCall { words: Vec<u64> },
}

impl Options {
    pub fn variant(&self) -> Variant {
        match (self.debug, self.kcsan) {
            (true, _) => Variant::Debug,
            (_, true) => Variant::Kcsan,
            _ => Variant::Module,
        }
    }

    /// The same options for other properties, or all, on another kernel.
    pub fn on(&self, variant: Variant, only: &[&str], case: Option<&str>) -> Self {
        Self {
            debug: variant == Variant::Debug,
            kcsan: variant == Variant::Kcsan,
            only: only.iter().map(ToString::to_string).collect(),
            case: case.map(str::to_owned),
            ..self.clone()
        }
    }

    /// Whether a case of this name is tested.
    pub fn wants(&self, name: &str) -> bool {
        self.case.as_ref().is_none_or(|text| name.contains(text))
    }

    /// The number of random cases: the user's choice, or the default of the kind of run.
    pub fn cases(&self, usual: u64, debug: u64, sample: u64) -> u64 {
        match self.cases {
            Some(cases) => cases,
            None if self.sample => sample,
            None if self.debug => debug,
            None => usual,
        }
    }

    /// Whether the user has chosen the number of random cases.
    pub fn has_cases(&self) -> bool {
        self.cases.is_some()
    }

    /// Whether the run tests all properties, with the usual number of cases.
    pub fn whole(&self) -> bool {
        self.only.is_empty() && !self.sample && self.cases.is_none()
    }

    /// The command that repeats a failure.
    pub fn repeat_command(&self, property: &str, replay: Option<&str>) -> String {
        let mut line = format!("cargo conform --only {property}");
        if self.debug {
            line += " --debug";
        }
        if self.kcsan {
            line += " --kcsan";
        }
        match replay {
            Some(replay) => line + " " + replay,
            None if self.sample => line + " --sample",
            None => line,
        }
    }
}
