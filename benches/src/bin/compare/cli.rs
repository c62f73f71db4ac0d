//! The command line.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use benches::Selection;
use clap::{Parser, ValueEnum};
use kernel_patch::{Accel, Base};

/// Compares the cost of each call and each exit for each interface of KVM.
///
/// Builds the patched Linux, boots it in QEMU (on an AMD processor) and in Bochs (on an
/// Intel processor), measures there, prints tables, and writes a report for a browser. The
/// first run takes about ten minutes, later runs about two.
/// The figures are instructions counted under emulation, not cycles. With --native or
/// --accel kvm they are nanoseconds on hardware.
#[derive(Parser)]
#[command(name = "cargo compare", bin_name = "cargo compare", version)]
pub struct Options {
    /// Measure only null_syscall and the cases with TEXT in their names
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Measure without criterion, and omit its report with plots
    #[arg(long)]
    pub no_criterion: bool,

    /// Record each instruction, with CPU vulnerability mitigations on and off, and with
    /// and without a seccomp filter (takes some minutes)
    #[arg(long, conflicts_with_all = ["native", "mitigations", "accel"])]
    pub profile: bool,

    /// Also write the figures to FILE as JSON ("-" writes them to standard output
    /// instead of the tables)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Also write the report to FILE, one self-contained HTML file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Show the comparison in the JSON of FILE instead of measuring
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["json", "filter", "no_criterion", "profile", "mitigations", "native",
            "accel", "base", "source", "tree", "timeout"]
    )]
    pub from: Option<PathBuf>,

    /// Print the changes since the comparison in FILE. On an error, exit with status
    /// 125, on which `git bisect run` skips the commit
    #[arg(long, value_name = "FILE")]
    pub diff: Option<PathBuf>,

    /// Exit with status 1 if any figure has grown by more than PERCENT
    #[arg(long, value_name = "PERCENT", requires = "diff")]
    pub threshold: Option<f64>,

    /// Boot with CPU vulnerability mitigations on or off
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub mitigations: Switch,

    /// Measure on this machine and its running kernel, not in QEMU
    #[arg(long, conflicts_with_all = ["mitigations", "accel", "base", "source", "no_criterion"])]
    pub native: bool,

    /// Measure in one machine only: in tcg, QEMU emulates an AMD processor; in bochs, Bochs
    /// emulates an Intel processor; both count instructions. kvm needs hardware with nested
    /// virtualization and measures time [default: tcg, and bochs beside it]
    #[arg(long, value_name = "tcg|bochs|kvm", value_parser = accel)]
    pub accel: Option<Accel>,

    /// The release of Linux
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["native", "tree"])]
    pub base: Base,

    /// Build from the tree or tarball of that release at PATH [default: Debian's]
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,

    /// Build the tree of Linux at PATH as it is, without applying the series
    #[arg(long, value_name = "PATH", conflicts_with_all = ["source", "native"])]
    pub tree: Option<PathBuf>,

    /// The timeout of each machine, in seconds
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
    /// Rejects wrong options before the work begins.
    pub fn check(&self) -> Result<()> {
        if let Some(filter) = &self.filter {
            let selection = Selection {
                filter: Some(filter.clone()),
                ..Selection::default()
            };
            // null_syscall always takes part.
            ensure!(
                selection.cases().len() > 1,
                "no case has {filter:?} in its name"
            );
        }
        Ok(())
    }

    /// Whether criterion measures, too. In Bochs, it would take too long.
    pub fn criterion(&self) -> bool {
        !self.no_criterion && self.accel != Some(Accel::Bochs)
    }

    /// The kind of run, which names the directory of its results.
    pub fn kind(&self) -> String {
        if self.native {
            "native".into()
        } else if self.profile {
            "profile".into()
        } else {
            let accel = self.accel.unwrap_or_default();
            format!("{accel}-mitigations-{}", self.mitigations)
        }
    }
}

fn accel(text: &str) -> Result<Accel, &'static str> {
    match Accel::from_str(text, false) {
        Ok(Accel::Mttcg) => Err("this accelerator measures nothing; use tcg, bochs or kvm"),
        Ok(accel) => Ok(accel),
        Err(_) => Err("neither tcg nor bochs nor kvm"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Known words and arbitrary ones.
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
            "--base",
            "7.3",
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
        /// Every command line is accepted or rejected without a panic.
        #[test]
        fn any_command_line(words in prop::collection::vec(word(), 0..8)) {
            let line = ["compare".to_owned()].into_iter().chain(words);
            if let Ok(options) = Options::try_parse_from(line) {
                let _ = options.check();
            }
        }
    }
}
