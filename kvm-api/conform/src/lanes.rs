//! Tests properties in several machines at a time.

use std::time::Instant;

use anyhow::Result;
use kernel_patch::{Progress, lanes};

use crate::host::Host;
use crate::outcome::{Outcome, PropertyResult, Say};
use crate::property::{Property, Test};

/// Tests `properties`, and returns their results in the same order.
pub fn run(host: &Host<'_>, properties: &[&'static Property]) -> Result<Vec<PropertyResult>> {
    let rows = lanes(host.options.jobs.into(), properties, |_, property| {
        one(host, property)
    });
    Ok(rows?)
}

fn one(host: &Host<'_>, property: &'static Property) -> PropertyResult {
    let progress = Progress::start("conform", property.name);
    let started = Instant::now();
    let say = |what: &str| progress.at(what);
    let result = test(host, property, &say);
    let row = PropertyResult {
        property: property.name,
        about: property.about,
        backends: property.backends,
        seconds: started.elapsed().as_secs(),
        outcome: result.unwrap_or_else(|error| {
            let mut outcome = Outcome::default();
            outcome.fail(format!("{error:#}"));
            outcome
        }),
    };
    progress.end(if row.holds() { "holds" } else { "FAILS" });
    row
}

fn test(host: &Host<'_>, property: &Property, say: &Say<'_>) -> Result<Outcome> {
    match property.test {
        Test::Inside { machine, .. } => {
            let machine = machine(host.machine(), host.options);
            host.inside(machine, property.name, say)
        }
        Test::Prepared { machine, .. } => host.inside(machine(host)?, property.name, say),
        Test::Outside(test) => test(host, say),
    }
}
