//! Measures each case on each interface that has a part in it.

use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::cases::{self, NULL_SYSCALL};
use crate::counter::{self, Unit};
use crate::estimate::Criteria;
use crate::exact::{self, Count};
use crate::record::{CaseRow, Figure, Record, Run, SCHEMA};
use crate::seccomp::{self, Seccomp};
use crate::workload::Workload;
use crate::{Case, Column, Interfaces, place};

/// The measurements of one machine: the input of the process that makes them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Selection {
    /// Measure only null_syscall and the cases with this text in their names.
    pub filter: Option<String>,
    /// Measure only null_syscall and the cases with these names.
    pub only: Option<Vec<String>>,
    /// Count each call by itself, if instructions can be counted.
    pub exact: bool,
    /// Measure with criterion.
    pub criterion: bool,
    /// Measure with criterion, but less precisely and without plots.
    pub quick: bool,
    /// Leave the kernel's symbols, for the recorder.
    pub record: bool,
    /// Count the cases of a vCPU's thread again, with a seccomp filter.
    pub confined: bool,
}

/// The name of the directory of criterion's files.
pub const CRITERION: &str = "criterion";

impl Selection {
    /// Returns the cases to measure.
    #[must_use]
    pub fn cases(&self) -> Vec<&'static Case> {
        let wanted = |case: &&Case| {
            let fits = |part: &String| case.name.contains(part);
            let is_named = |names: &Vec<String>| names.iter().any(|it| it == case.name);
            case.name == NULL_SYSCALL.name
                || self.filter.as_ref().is_none_or(fits) && self.only.as_ref().is_none_or(is_named)
        };
        cases::all().filter(wanted).collect()
    }
}

/// Measures on this machine, and leaves criterion's files in `out`. Calls `progress` with
/// the name of each case before it begins. The row of a case that fails says why, and the
/// others are measured.
///
/// # Errors
///
/// If there is no KVM, or if nothing can be measured.
pub fn measure(selection: &Selection, out: &Path, progress: impl Fn(&str)) -> Result<Record> {
    let unit = counter::detect();
    let exact = selection.exact && unit == Unit::Instructions;
    ensure!(
        exact || selection.criterion,
        "instructions cannot be counted here, and --no-criterion leaves no way to measure time"
    );
    let interfaces = Interfaces::open()?;
    let criterion = || Criteria::below(&out.join(CRITERION), unit, selection.quick);
    let mut criteria = selection.criterion.then(criterion);

    let mut cases = selection.cases();
    cases.retain(|case| interfaces.can(case));
    let figure = |exact| Figure {
        exact,
        ..Figure::default()
    };
    let mut rows = Vec::new();
    for case in &cases {
        progress(case.name);
        let mut row = CaseRow::new(case);
        // One at a time, so that no other VM exists during the count.
        for (interface, prepared) in interfaces.workloads(case) {
            let count =
                |mut it: Box<dyn Workload>| exact.then(|| exact::count(&mut *it)).transpose();
            row.add(interface, prepared.and_then(count).map(figure));
        }
        if let Some(criteria) = &mut criteria {
            let workloads = interfaces.workloads(case);
            let workloads = workloads.filter(|(name, _)| row.figures.contains_key(*name));
            let workloads = workloads.filter_map(|(name, it)| Some((name, it.ok()?)));
            criteria.measure(case.name, workloads);
        }
        rows.push(row);
    }
    if let Some(criteria) = &criteria {
        criteria.finish();
    }

    let run = |seccomp, rows| -> Result<Run> {
        Ok(Run {
            measured_on: place::here()?,
            seccomp,
            no_syscalls: interfaces.no_syscalls.clone(),
            processor: None,
            rows,
        })
    };
    let mut runs = vec![run(Seccomp::None, rows)?];
    // Last, because C libraries behave differently once a second thread has existed.
    if exact && selection.confined {
        cases.retain(|case| case.is_of_vcpu());
        let mut rows = Vec::new();
        for case in cases {
            progress(&format!("{} with the filter", case.name));
            let mut row = CaseRow::new(case);
            for interface in &interfaces.open {
                if let Some(count) = confined(interface.column(), case).transpose() {
                    row.add(interface.column().name(), count.map(Some).map(figure));
                }
            }
            rows.push(row);
        }
        runs.push(run(Seccomp::Allowlist, rows)?);
    }
    Ok(Record {
        schema: SCHEMA,
        time: 0,
        unit,
        runs,
        others: Vec::new(),
        hosts: Vec::new(),
        native: None,
    })
}

/// Counts on a thread with the filter. The filter ends with the thread.
fn confined(column: Column, case: &Case) -> Result<Option<Count>> {
    let count = || {
        // The kernel looks up descriptors faster if only one thread uses the table. So it
        // is without the filter.
        unshare(CloneFlags::CLONE_FILES).context("unshare")?;
        // From here on, this thread has a table of its own.
        let interface = column.open()?;
        let Some(mut workload) = case.prepare(&interface)? else {
            return Ok(None);
        };
        seccomp::confine()?;
        exact::count(&mut *workload).map(Some)
    };
    thread::scope(|scope| scope.spawn(count).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
