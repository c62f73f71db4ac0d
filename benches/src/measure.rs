//! Measures: every case on every interface that has a part in it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::counter::{self, Unit};
use crate::estimate::Criteria;
use crate::record::{Figure, Record, Row, SCHEMA};
use crate::{Case, Interfaces, exact, place};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Only cases with this in their names.
    pub filter: Option<String>,
    /// By criterion as well, which leaves its files here.
    pub criterion: Option<PathBuf>,
}

impl Selection {
    /// The cases to measure.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        let wanted = |case: &Case| match &self.filter {
            Some(part) => case.name().contains(part) || *case == Case::NullSyscall,
            None => true,
        };
        Case::all().into_iter().filter(wanted).collect()
    }
}

/// Measures on the machine that this runs on. Calls `progress` with the name of
/// each case before it begins.
///
/// Exact counts are taken only where instructions can be counted.
///
/// # Errors
///
/// When there is no KVM, or a call does not do what it should.
pub fn measure(selection: &Selection, progress: impl Fn(&str)) -> Result<Record> {
    let unit = counter::detect();
    ensure!(
        unit == Unit::Instructions || selection.criterion.is_some(),
        "there are no instructions to count here, and criterion, which measures time, is left out"
    );
    let interfaces = Interfaces::open()?;
    let home = selection.criterion.as_deref();
    let mut criteria = home.map(|home| Criteria::below(home, unit));

    let mut rows = Vec::new();
    for case in selection.cases() {
        if !interfaces.can(case) {
            continue;
        }
        let name = case.name();
        progress(&name);
        let mut figures = BTreeMap::new();
        // One at a time, so that no other VM is there while it is counted.
        for prepared in interfaces.subjects(case) {
            let (interface, mut subject) = prepared?;
            let exact = (unit == Unit::Instructions)
                .then(|| exact::count(&mut *subject))
                .transpose()?;
            let criterion = None;
            figures.insert(interface.into(), Figure { exact, criterion });
        }
        if let Some(criteria) = &mut criteria {
            criteria.measure(&name, interfaces.subjects(case).collect::<Result<_>>()?);
        }
        rows.push(Row {
            name,
            own_work: case.own_work().map(Into::into),
            figures,
        });
    }
    if let Some(criteria) = &criteria {
        criteria.finish();
    }
    Ok(Record {
        schema: SCHEMA,
        time: 0,
        unit,
        measured_on: place::here()?,
        no_syscalls: interfaces.no_syscalls,
        rows,
    })
}
