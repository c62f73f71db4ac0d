//! What a run of the comparison has found: the JSON that it writes, whose
//! schema docs/compare-json.md explains.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use profile::fold::Folded;
use serde::{Deserialize, Serialize};

use crate::Case;
use crate::counter::Unit;
use crate::estimate::{self, Estimate};
use crate::exact::Count;
use crate::parts::Part;
use crate::place::Place;
use crate::seccomp::Seccomp;

/// The schema's version: it changes when a reader has to.
pub const SCHEMA: u32 = 2;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The [`SCHEMA`] that this follows.
    pub schema: u32,
    /// When it ended, in seconds since 1970.
    pub time: u64,
    /// The unit of all figures.
    pub unit: Unit,
    /// What was found, one condition after the other; the first is the usual one.
    pub runs: Vec<Run>,
}

/// What was found under one condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What it was measured on.
    pub measured_on: Place,
    /// What filtered the system calls.
    pub seccomp: Seccomp,
    /// Why the system calls are missing, if they are.
    pub no_syscalls: Option<String>,
    /// A row a case, in the order of the proposal.
    pub rows: Vec<Row>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name, which begins with the call's.
    pub name: String,
    /// What the call itself does that dwarfs how it was called, if so.
    pub own_work: Option<String>,
    /// What it takes, by interface.
    pub figures: BTreeMap<String, Figure>,
}

/// What a case takes by one interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Counted exactly, where instructions can be counted.
    pub exact: Option<Count>,
    /// Criterion's estimate, if it was asked.
    pub criterion: Option<Estimate>,
    /// Where the instructions went, if that was recorded.
    pub profile: Option<Profile>,
}

/// Where the instructions of one call went: of the most common one, less what
/// the counting takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// How many they are.
    pub instructions: u64,
    /// How many calls executed exactly these.
    pub calls: u64,
    /// How many went to each part of the way, where that is a run up to an exit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<Part, u64>,
    /// How many went to each stack of functions, the outermost first. Left out
    /// where a record is to be short.
    #[serde(default, skip_serializing_if = "Folded::is_empty")]
    pub stacks: Folded,
}

impl Figure {
    /// A figure with no more to it than its count.
    #[must_use]
    pub fn new(exact: Option<Count>) -> Self {
        let (criterion, profile) = (None, None);
        Self {
            exact,
            criterion,
            profile,
        }
    }

    /// The figure to show, and to compare.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        let exact = self.exact.as_ref().map(|count| count.mode as f64);
        exact.or(self.criterion.map(|estimate| estimate.mean))
    }
}

impl Row {
    /// A case's row.
    #[must_use]
    pub fn new(case: Case, figures: BTreeMap<String, Figure>) -> Self {
        let (name, own_work) = (case.name(), case.own_work().map(Into::into));
        Self {
            name,
            own_work,
            figures,
        }
    }

    /// The figure of `interface` over that of `ioctl`.
    #[must_use]
    pub fn ratio(&self, interface: &str) -> Option<f64> {
        let value = |name: &str| self.figures.get(name).and_then(Figure::value);
        Some(value(interface)? / value("ioctl")?)
    }
}

impl Record {
    /// What was found under that condition.
    #[must_use]
    pub fn run(&self, condition: &str) -> Option<&Run> {
        self.runs.iter().find(|run| run.condition() == condition)
    }

    /// Reads what was written as JSON.
    ///
    /// # Errors
    ///
    /// When it is none of this schema.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: u32,
        }

        let json = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let damaged = || format!("{} is not the whole JSON of a comparison", path.display());
        let Versioned { schema } = serde_json::from_slice(&json).with_context(damaged)?;
        ensure!(
            schema == SCHEMA,
            "{} follows schema {schema}; this reads {SCHEMA}",
            path.display()
        );
        serde_json::from_slice(&json).with_context(damaged)
    }
}

impl Run {
    /// Under what it was measured, in few words.
    #[must_use]
    pub fn condition(&self) -> String {
        let build = self.measured_on.build.as_ref();
        let mitigations = build.map_or("as booted", |build| &build.mitigations);
        format!("mitigations {mitigations}, seccomp {}", self.seccomp)
    }

    /// The row of that name.
    #[must_use]
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Takes over the estimates that criterion has written below `home`.
    ///
    /// # Errors
    ///
    /// When one of them is missing.
    pub fn read_estimates(&mut self, home: &Path) -> Result<()> {
        for row in &mut self.rows {
            for (interface, figure) in &mut row.figures {
                figure.criterion = Some(estimate::read(home, &row.name, interface)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{legend, report, table};

    /// A record as a run has left it.
    const RECORD: &str = include_str!("../../docs/results.json");

    #[test]
    fn what_is_written_can_be_read() {
        let record: Record = serde_json::from_str(RECORD).unwrap();
        let json = serde_json::to_string_pretty(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
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
                let _ = table::tables(&record);
                let _ = legend::legend(&record);
                let _ = report::render(&record, None);
            }
        }
    }
}
