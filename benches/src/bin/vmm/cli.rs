//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use benches::vmm::work::{WORK, Work};
use clap::{Parser, value_parser};
use kernel_patch::{Base, Machine};

/// Measures what VMMs gain by KVM's system calls, without a change to them.
///
/// Builds the patched Linux, boots it in QEMU, and runs VMMs in it: QEMU, which boots Linux
/// again, and a small VMM in Rust; or another VMM of the host. Each does the same work by
/// ioctls, by the calls that a preloaded library makes instead, and by the calls on bound
/// vCPUs. Takes about four minutes, and more the first time, which builds a kernel.
/// The figures are instructions counted under emulation, not cycles.
#[derive(Parser)]
#[command(name = "cargo vmm", bin_name = "cargo vmm", version)]
pub struct Options {
    /// Measure only the work with TEXT in its name
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// How often each work is measured in each way
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub runs: u32,

    /// Also write the figures to FILE as JSON ("-" writes them to standard output instead of
    /// the tables)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Also write the report to FILE, one self-contained HTML file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Show the figures in the JSON of FILE instead of measuring
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filter", "runs", "json", "base",
        "source", "timeout", "memory", "command"])]
    pub from: Option<PathBuf>,

    /// The release of Linux
    #[arg(long, value_enum, default_value_t)]
    pub base: Base,

    /// Build from the tree or tarball of that release at PATH [default: Debian's]
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,

    /// The timeout of each machine, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub timeout: u64,

    /// The size of the memory of the machine in which COMMAND runs
    #[arg(long, value_name = "SIZE", default_value = "2G", requires = "command")]
    pub memory: String,

    /// Measure the work of another VMM instead, a dynamic program of the host
    ///
    /// It runs in a copy of the host's files, without input. It has to end by itself, with
    /// the same exit status each time.
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "filter")]
    pub command: Vec<String>,
}

impl Options {
    /// Rejects wrong options before the work begins.
    pub fn check(&self) -> Result<()> {
        let filter = self.filter.as_deref().unwrap_or_default();
        ensure!(
            self.work().next().is_some(),
            "no work has {filter:?} in its name"
        );
        Ok(())
    }

    /// A machine without the files of a VMM.
    pub fn machine(&self) -> Machine {
        Machine::new().timeout(Duration::from_secs(self.timeout))
    }

    /// The work to measure.
    pub fn work(&self) -> impl Iterator<Item = &'static Work> {
        let filter = self.filter.as_deref().unwrap_or_default();
        WORK.iter().filter(move |work| work.name.contains(filter))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_options_are_well_formed() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_filter_chooses_work() {
        let options = |filter| Options::parse_from(["vmm", "--filter", filter]);
        assert_eq!(options("qemu").work().count(), 2);
        let error = options("nothing").check().unwrap_err().to_string();
        assert_eq!(error, "no work has \"nothing\" in its name");
    }
}
