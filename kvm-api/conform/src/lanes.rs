//! Tests properties in several machines at a time.

use std::sync::Mutex;
use std::time::Instant;

use anyhow::Result;
use kernel_patch::{Progress, lanes};

use crate::outcome::{Outcome, PropertyResult};
use crate::property::{Property, Test};
use crate::test_kernel::TestKernel;

/// Tests `properties`, and returns their results in the same order, and whether all were
/// tested: after an interrupt, the results so far are there.
pub fn run(
    kernel: &TestKernel<'_>,
    properties: &[&'static Property],
) -> (Vec<PropertyResult>, Result<()>) {
    let jobs = kernel.options.jobs.into();
    let rows = Mutex::new(Vec::new());
    let ended = lanes(jobs, properties, |place, property| {
        let row = one(kernel, property);
        let mut rows = rows.lock().expect("adding a row does not panic");
        rows.push((place, row));
    });
    let mut rows = rows.into_inner().expect("adding a row does not panic");
    rows.sort_by_key(|(place, _)| *place);
    let rows = rows.into_iter().map(|(_, row)| row).collect();
    (rows, ended.map(drop).map_err(Into::into))
}

fn one(kernel: &TestKernel<'_>, property: &'static Property) -> PropertyResult {
    let progress = Progress::start("conform", property.name);
    let started = Instant::now();
    let on_progress = |detail: &str| progress.at(detail);
    let result = match property.test {
        Test::Inside { machine, .. } => {
            machine(kernel).and_then(|machine| kernel.test(machine, property.name, &on_progress))
        }
        Test::Outside(test) => test(kernel, &on_progress),
    };
    let outcome = result.unwrap_or_else(|error| {
        let mut outcome = Outcome::default();
        outcome.fail(format!("{error:#}"));
        outcome
    });
    let row = PropertyResult {
        property: property.name,
        about: property.about,
        backends: property.backends,
        seconds: started.elapsed().as_secs(),
        outcome,
    };
    progress.end(if row.holds() { "holds" } else { "FAILS" });
    row
}
