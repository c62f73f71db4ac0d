//! The command line.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use benches::Selection;
use clap::{Args, Parser, ValueEnum};
use kernel_patch::Accel;
use serde::{Deserialize, Serialize};

use crate::files::CRITERION;

/// Compares the interfaces of KVM: what each call and each exit costs.
///
/// Builds the patched Linux, boots it in QEMU, measures in it, prints a table,
/// and writes a report to open in a browser. The first run takes about ten
/// minutes, later ones about one. Figures are instructions, not cycles; with
/// --native or --accel kvm they are nanoseconds of real hardware.
#[derive(Parser)]
#[command(name = "cargo compare", bin_name = "cargo compare", version)]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
}

/// What to measure in one place: the input of the process that measures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measure {
    pub filter: Option<String>,
    /// Count each call.
    pub exact: bool,
    /// Measure with criterion as well.
    pub criterion: bool,
    /// Do what the recorder needs.
    pub record: bool,
    /// Measure with criterion, but less precisely.
    pub quick: bool,
}

impl Measure {
    /// The selection for the library, with criterion's files below `home`.
    pub fn selection(&self, home: &Path) -> Selection {
        Selection {
            filter: self.filter.clone(),
            exact: self.exact,
            allowlist: self.record,
            quick: self.quick,
            criterion: self.criterion.then(|| home.join(CRITERION)),
        }
    }
}

#[derive(Args)]
pub struct Options {
    /// Measure only cases with TEXT in their names (and the floor)
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Leave out criterion, and so its report with the plots
    #[arg(long)]
    pub no_criterion: bool,

    /// Record each instruction: where they go, with mitigations on and off,
    /// with and without a filter of system calls (takes some minutes)
    #[arg(long, conflicts_with_all = ["native", "mitigations", "accel"])]
    pub profile: bool,

    /// Write what was found as JSON to FILE too ("-" for standard output,
    /// in place of the table)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write the report to FILE too: one HTML file that needs no other
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Show a comparison that was written as JSON, instead of measuring
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["json", "filter", "no_criterion", "profile", "mitigations", "native",
            "accel", "source", "tree", "timeout"]
    )]
    pub from: Option<PathBuf>,

    /// Say what has changed since the comparison in FILE. An error's exit status
    /// is then 125, by which `git bisect run` skips a commit
    #[arg(long, value_name = "FILE")]
    pub diff: Option<PathBuf>,

    /// Exit with status 1 if any figure has grown by more than PERCENT
    #[arg(long, value_name = "PERCENT", requires = "diff")]
    pub threshold: Option<f64>,

    /// Whether the kernel guards against the processor's flaws
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub mitigations: Switch,

    /// Measure on this machine and the kernel that it runs, not in QEMU
    #[arg(long, conflicts_with_all = ["mitigations", "accel", "source", "no_criterion"])]
    pub native: bool,

    /// What runs the machine: tcg emulates and counts instructions, kvm needs
    /// hardware with nested virtualization and measures time
    #[arg(long, value_name = "tcg|kvm", default_value_t = Accel::Tcg, value_parser = accel)]
    pub accel: Accel,

    /// A tree or a tarball of Linux 6.12 to build from [default: Debian's]
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,

    /// A tree of Linux to build as it is, without applying the series
    #[arg(long, value_name = "PATH", conflicts_with_all = ["source", "native"])]
    pub tree: Option<PathBuf>,

    /// How long the machine may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub timeout: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl Options {
    /// Finds what is wrong with them before the work of minutes.
    pub fn check(&self) -> Result<()> {
        if let Some(filter) = &self.filter {
            let selection = Selection {
                filter: Some(filter.clone()),
                ..Selection::default()
            };
            // The floor is always among them.
            ensure!(
                selection.cases().len() > 1,
                "no case has {filter:?} in its name"
            );
        }
        Ok(())
    }

    /// What kind of run this is, as the name of its results.
    pub fn kind(&self) -> String {
        if self.native {
            "native".into()
        } else if self.profile {
            "profile".into()
        } else {
            format!("{}-mitigations-{}", self.accel, self.mitigations)
        }
    }
}

fn accel(text: &str) -> Result<Accel, String> {
    match text.parse()? {
        Accel::Mttcg | Accel::Bochs => Err("that counts nothing; there are tcg and kvm".into()),
        accel => Ok(accel),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Words that mean something somewhere, and others.
    fn word() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            "measure",
            "--filter",
            "kvm_run",
            "x",
            "--no-criterion",
            "--profile",
            "--json",
            "-",
            "--native",
            "--mitigations",
            "on",
            "off",
            "--accel",
            "kvm",
            "mttcg",
            "--source",
            "--timeout",
            "1",
            "-1",
            "99999999999999999999",
            "--help",
            "--version",
        ]);
        prop_oneof![
            4 => known.prop_map(str::to_owned),
            1 => "-{0,2}[a-z=:/,]{0,8}",
            1 => any::<String>(),
        ]
    }

    proptest! {
        /// Whatever is typed is understood or refused.
        #[test]
        fn any_command_line(words in prop::collection::vec(word(), 0..8)) {
            let line = ["compare".to_owned()].into_iter().chain(words);
            if let Ok(cli) = Cli::try_parse_from(line) {
                let _ = cli.options.check();
            }
        }
    }
}
