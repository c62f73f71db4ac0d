//! The results of a comparison, in memory and as JSON. docs/compare-json.md describes the
//! schema.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use profile::Events;
use profile::fold::Folded;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Case;
use crate::counter::Unit;
use crate::cycles::Plain;
use crate::estimate::{self, Estimate};
use crate::exact::Count;
use crate::parts::Part;
use crate::place::Place;
use crate::seccomp::Seccomp;

/// The version of the schema, which grows with each incompatible change.
pub const SCHEMA: u32 = 2;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version, [`SCHEMA`].
    pub schema: u32,
    /// The time of its end, in seconds since 1970.
    pub time: u64,
    /// The unit of all figures.
    pub unit: Unit,
    /// The results under each condition. The first condition is the usual one.
    pub runs: Vec<Run>,
    /// The results on processors of other vendors, under the usual condition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Run>,
    /// The results with the mitigations of hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Run>,
    /// The times on the machine that ran the emulators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<Native>,
}

/// Times on the machine that ran the emulators, by its own KVM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Native {
    /// The frequency of the processor during the measurement, in GHz.
    pub gigahertz: f64,
    /// The times, in nanoseconds.
    pub run: Run,
}

/// The results under one condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The machine and the kernel.
    pub measured_on: Place,
    /// The filter of system calls.
    pub seccomp: Seccomp,
    /// Why the system calls are missing, if they are.
    pub no_syscalls: Option<String>,
    /// The processor in costs.toml for which the cycles of plain instructions are estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// A row for each case, in the order of the proposal.
    pub rows: Vec<CaseRow>,
}

/// The results of one case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CaseRow {
    /// The name of the case, which begins with the name of the call.
    pub name: String,
    /// The call's own work, if it outweighs the interface.
    pub own_work: Option<String>,
    /// The number of processors on which the case was measured, if it needs more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processors: Option<u32>,
    /// The figures by interface.
    pub figures: BTreeMap<String, Figure>,
    /// The interfaces by which the case failed, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, String>,
}

/// The cost of a case by one interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The exact count, if instructions can be counted.
    pub exact: Option<Count>,
    /// Criterion's estimate, if criterion ran.
    pub criterion: Option<Estimate>,
    /// The profile, if the instructions were recorded.
    pub profile: Option<Profile>,
}

/// The functions of the instructions of one call: the most common call, without the cost of
/// the counting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The number of instructions.
    pub instructions: u64,
    /// The number of calls that executed exactly these instructions.
    pub calls: u64,
    /// Whether the call loads a vCPU, which is the work of KVM's module for the vendor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loads_vcpu: bool,
    /// The number of instructions in each part, if the case is a run up to an exit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<Part, u64>,
    /// The events in the kernel.
    #[serde(default, skip_serializing_if = "Events::is_empty")]
    pub events: Events,
    /// The estimated cycles of the instructions between the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<Plain>,
    /// The number of instructions in each stack of functions, the outermost function first.
    /// Empty in a short record.
    #[serde(default, skip_serializing_if = "Folded::is_empty")]
    pub stacks: Folded,
}

impl Figure {
    /// The value to show and to compare.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        let exact = self.exact.as_ref().map(|count| count.mode as f64);
        exact.or(self.criterion.map(|estimate| estimate.mean))
    }
}

impl CaseRow {
    /// Makes the row of a case, without a figure.
    #[must_use]
    pub fn new(case: &Case) -> Self {
        Self {
            name: case.name.into(),
            own_work: case.own_work.map(Into::into),
            processors: (case.processors > 1).then_some(case.processors),
            ..Self::default()
        }
    }

    /// Adds the figure of an interface, or the reason why there is none.
    pub fn add(&mut self, interface: &str, figure: Result<Figure>) {
        match figure {
            Ok(figure) => drop(self.figures.insert(interface.into(), figure)),
            Err(error) => drop(self.failures.insert(interface.into(), format!("{error:#}"))),
        }
    }

    /// The value of an interface.
    #[must_use]
    pub fn value(&self, interface: &str) -> Option<f64> {
        self.figures.get(interface)?.value()
    }

    /// The profile of an interface.
    #[must_use]
    pub fn profile(&self, interface: &str) -> Option<&Profile> {
        self.figures.get(interface)?.profile.as_ref()
    }

    /// The figure of `interface` divided by the figure of `base`.
    #[must_use]
    pub fn share(&self, interface: &str, base: &str) -> Option<f64> {
        Some(self.value(interface)? / self.value(base)?)
    }
}

/// The change of a figure in per cent, from its share of the figure before.
#[must_use]
pub fn percent(share: f64) -> f64 {
    100.0 * (share - 1.0)
}

impl Record {
    /// Returns the run under a condition.
    #[must_use]
    pub fn run(&self, condition: &str) -> Option<&Run> {
        self.runs.iter().find(|run| run.condition() == condition)
    }

    /// All runs, under whatever condition and on whatever processor.
    pub fn all_runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().chain(&self.others).chain(&self.hosts)
    }

    /// Each run, on whatever processor, with a name that no other run of the record has.
    pub fn named(&self) -> impl Iterator<Item = (String, &Run)> {
        let others = self.others.iter();
        let others = others.map(|run| (format!("{}, {}", run.vendor(), run.condition()), run));
        let here = self.runs.iter().chain(&self.hosts);
        here.map(|run| (run.condition(), run)).chain(others)
    }

    /// The number of figures that are missing because a case failed. Bochs cannot do some
    /// cases, so its failures do not count.
    #[must_use]
    pub fn failures(&self) -> usize {
        let runs = self.all_runs().filter(|run| !run.is_bochs());
        let rows = runs.flat_map(|run| &run.rows);
        rows.map(|row| row.failures.len()).sum()
    }

    /// Reads a record in JSON.
    ///
    /// # Errors
    ///
    /// If the file is not a record of this schema.
    pub fn read(path: &Path) -> Result<Self> {
        read(path, SCHEMA, "the whole JSON of a comparison")
    }
}

/// Reads JSON of a schema. `what` says what it is not if it is damaged.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, version: u32, what: &str) -> Result<T> {
    #[derive(Deserialize)]
    struct Versioned {
        schema: u32,
    }

    let json = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let damaged = || format!("{} is not {what}", path.display());
    let Versioned { schema } = serde_json::from_slice(&json).with_context(damaged)?;
    ensure!(
        schema == version,
        "{} follows schema {schema}; this reads {version}",
        path.display()
    );
    serde_json::from_slice(&json).with_context(damaged)
}

impl Run {
    /// The condition of the measurement, in a few words.
    #[must_use]
    pub fn condition(&self) -> String {
        let build = self.measured_on.build.as_ref();
        let mitigations = build.map_or("as booted", |build| &build.mitigations);
        format!("mitigations {mitigations}, seccomp {}", self.seccomp)
    }

    /// Whether Bochs emulated the machine.
    #[must_use]
    pub fn is_bochs(&self) -> bool {
        let build = self.measured_on.build.as_ref();
        build.is_some_and(|build| build.accelerator.starts_with("Bochs"))
    }

    /// The vendor of the processor, by the first word of its name.
    #[must_use]
    pub fn vendor(&self) -> &str {
        let name = &self.measured_on.cpu;
        let end = name.find(|it: char| !it.is_ascii_alphanumeric());
        &name[..end.unwrap_or(name.len())]
    }

    /// Returns the row of a case.
    #[must_use]
    pub fn row(&self, name: &str) -> Option<&CaseRow> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Adds the estimates that criterion has written below `home`. A figure whose estimate
    /// is missing keeps its exact count, and the row says why. Returns these reasons.
    pub fn read_estimates(&mut self, home: &Path) -> Vec<String> {
        let mut reasons = Vec::new();
        for row in &mut self.rows {
            let (name, failures) = (&row.name, &mut row.failures);
            row.figures.retain(|interface, figure| {
                match estimate::read(home, name, interface) {
                    Ok(estimate) => figure.criterion = Some(estimate),
                    Err(error) => {
                        let why = format!("no estimate: {error:#}");
                        reasons.push(format!("{name} by {interface}: {why}"));
                        failures.insert(interface.clone(), why);
                    }
                }
                figure.value().is_some()
            });
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{cases, legend, report};

    /// The kept record.
    const RECORD: &str = include_str!("../../docs/results.json");

    #[test]
    fn a_written_record_can_be_read() {
        let record: Record = serde_json::from_str(RECORD).unwrap();
        let json = serde_json::to_string_pretty(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }

    #[test]
    fn only_a_row_on_more_processors_says_so() {
        for case in cases::all() {
            let row = serde_json::to_value(CaseRow::new(case)).unwrap();
            let says = row.get("processors").is_some();
            assert_eq!(says, case.processors > 1, "{}", case.name);
        }
    }

    #[test]
    fn a_failure_counts_except_in_bochs() {
        let mut record: Record = serde_json::from_str(RECORD).unwrap();
        assert!(
            record.others[0]
                .rows
                .iter()
                .any(|row| !row.failures.is_empty())
        );
        assert_eq!(record.failures(), 0);
        record.runs[0].rows[1].add("ioctl", Err(anyhow::anyhow!("no effect")));
        assert_eq!(record.failures(), 1);
    }

    #[test]
    fn a_missing_estimate_costs_its_own_figure() {
        let home = tempfile::tempdir().unwrap();
        let mut row = CaseRow {
            name: "exit".into(),
            ..CaseRow::default()
        };
        let exact = || Figure {
            exact: Some(Count {
                mode: 7,
                at_mode: 1,
                calls: 1,
                min: 7,
                max: 7,
            }),
            ..Figure::default()
        };
        row.add("ioctl", Ok(exact()));
        row.add("syscall", Ok(exact()));
        row.add("bound", Ok(Figure::default()));
        let dir = home.path().join("exit/ioctl/new");
        fs::create_dir_all(&dir).unwrap();
        let interval = r#"{"lower_bound": 1.0, "upper_bound": 3.0}"#;
        let mean = format!(r#"{{"point_estimate": 2.0, "confidence_interval": {interval}}}"#);
        let estimates = format!(r#"{{"mean": {mean}, "std_dev": {{"point_estimate": 0.5}}}}"#);
        fs::write(dir.join("estimates.json"), estimates).unwrap();

        let mut record: Record = serde_json::from_str(RECORD).unwrap();
        let run = &mut record.runs[0];
        run.rows = vec![row];
        assert_eq!(run.read_estimates(home.path()).len(), 2);
        let figures = &run.rows[0].figures;
        assert_eq!(figures["ioctl"].criterion.unwrap().mean, 2.0);
        assert!(figures["syscall"].exact.is_some() && figures["syscall"].criterion.is_none());
        assert!(!figures.contains_key("bound"));
        assert_eq!(record.failures(), 2);
    }

    proptest! {
        #[test]
        fn a_truncated_record_is_refused(length in 0..RECORD.trim_end().len()) {
            let json = &RECORD.as_bytes()[..length];
            prop_assert!(serde_json::from_slice::<Record>(json).is_err());
        }

        /// What still is a record can still be shown.
        #[test]
        fn a_damaged_record_does_no_harm(
            changes in prop::collection::vec((0..RECORD.len(), any::<u8>()), 1..4),
        ) {
            let mut json = RECORD.as_bytes().to_vec();
            for (at, byte) in changes {
                json[at] = byte;
            }
            if let Ok(record) = serde_json::from_slice::<Record>(&json) {
                let _ = report::documents::tables(&record);
                let _ = legend::legend(&record);
                let _ = report::render(&record);
            }
        }
    }
}
