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
