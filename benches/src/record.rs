//! What a run of the comparison has found: the JSON that it writes, whose
//! schema docs/compare-json.md explains.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::counter::Unit;
use crate::estimate::{self, Estimate};
use crate::exact::Count;
use crate::place::Place;

/// The schema's version: it changes when a reader has to.
pub const SCHEMA: u32 = 1;

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The [`SCHEMA`] that this follows.
    pub schema: u32,
    /// When it ended, in seconds since 1970.
    pub time: u64,
    /// The unit of all figures.
    pub unit: Unit,
    /// What it was measured on.
    pub measured_on: Place,
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
}

impl Figure {
    /// The figure to show, and to compare.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        let exact = self.exact.as_ref().map(|count| count.mode as f64);
        exact.or(self.criterion.map(|estimate| estimate.mean))
    }
}

impl Row {
    /// The figure of `interface` over that of `ioctl`.
    #[must_use]
    pub fn ratio(&self, interface: &str) -> Option<f64> {
        let value = |name: &str| self.figures.get(name).and_then(Figure::value);
        Some(value(interface)? / value("ioctl")?)
    }
}

impl Record {
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
    use crate::table;

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
                let _ = table::legend(&record);
            }
        }
    }
}
