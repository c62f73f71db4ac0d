//! Measures: every case on every interface that has a part in it.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

use crate::counter::{self, Unit};
use crate::estimate::Criteria;
use crate::exact::{self, Count};
use crate::record::{Figure, Record, Row, Run, SCHEMA};
use crate::seccomp::{self, Seccomp};
use crate::{Case, Column, Interfaces, place};

/// What to measure.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only cases with this in their names.
    pub filter: Option<String>,
    /// Count each call by itself, where instructions can be counted.
    pub exact: bool,
    /// After that, count what a vcpu's thread does once more, below a filter of
    /// its system calls.
    pub allowlist: bool,
    /// Measure by criterion, which leaves its files here.
    pub criterion: Option<PathBuf>,
    /// Have criterion be content with little, and draw nothing.
    pub quick: bool,
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
/// # Errors
///
/// When there is no KVM, or a call does not do what it should.
pub fn measure(selection: &Selection, progress: impl Fn(&str)) -> Result<Record> {
    let unit = counter::detect();
    let exact = selection.exact && unit == Unit::Instructions;
    ensure!(
        exact || selection.criterion.is_some(),
        "there are no instructions to count here, and criterion, which measures time, is left out"
    );
    let interfaces = Interfaces::open()?;
    let home = selection.criterion.as_deref();
    let mut criteria = home.map(|home| Criteria::below(home, unit, selection.quick));

    let mut cases = selection.cases();
    cases.retain(|case| interfaces.can(*case));
    let mut rows = Vec::new();
    for case in &cases {
        progress(&case.name());
        let mut figures = BTreeMap::new();
        // One at a time, so that no other VM is there while it is counted.
        for prepared in interfaces.workloads(*case) {
            let (interface, mut workload) = prepared?;
            let exact = exact.then(|| exact::count(&mut *workload)).transpose()?;
            figures.insert(interface.into(), Figure::new(exact));
        }
        if let Some(criteria) = &mut criteria {
            let workloads = interfaces.workloads(*case).collect::<Result<_>>()?;
            criteria.measure(&case.name(), workloads);
        }
        rows.push(Row::new(*case, figures));
    }
    if let Some(criteria) = &criteria {
        criteria.finish();
    }

    let run = |seccomp, rows| -> Result<Run> {
        Ok(Run {
            measured_on: place::here()?,
            seccomp,
            no_syscalls: interfaces.no_syscalls.clone(),
            rows,
        })
    };
    let mut runs = vec![run(Seccomp::None, rows)?];
    // Last, for C libraries go about otherwise once there was a second thread.
    if exact && selection.allowlist {
        cases.retain(|case| case.is_of_vcpu());
        let mut rows = Vec::new();
        for case in cases {
            progress(&format!("{} below the filter", case.name()));
            let mut figures = BTreeMap::new();
            for interface in &interfaces.open {
                if let Some(count) = confined(interface.column(), case)? {
                    figures.insert(interface.name().into(), Figure::new(Some(count)));
                }
            }
            rows.push(Row::new(case, figures));
        }
        runs.push(run(Seccomp::Allowlist, rows)?);
    }
    Ok(Record {
        schema: SCHEMA,
        time: 0,
        unit,
        runs,
    })
}

/// Counts on a thread with the filter, which goes away with its thread.
fn confined(column: Column, case: Case) -> Result<Option<Count>> {
    let count = || {
        // The kernel looks up descriptors faster where only one thread has
        // them, as it is without the filter.
        unshare(CloneFlags::CLONE_FILES).context("unshare")?;
        // What is opened from here on is in this thread's table alone.
        let interface = column.open()?;
        let Some(mut workload) = interface.prepare(case)? else {
            return Ok(None);
        };
        seccomp::confine()?;
        exact::count(&mut *workload).map(Some)
    };
    thread::scope(|scope| scope.spawn(count).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
