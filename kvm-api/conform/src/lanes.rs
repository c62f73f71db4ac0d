//! Machines side by side: each lane tests one property after the other.

use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::Result;
use kernel_patch::Progress;

use crate::host::Host;
use crate::property::{Outcome, Property, Row, Say, Test};

/// Tests `properties`, and gives a row for each, in their order.
pub fn run(host: &Host<'_>, properties: &[&'static Property]) -> Result<Vec<Row>> {
    let queue = Mutex::new(properties.iter().enumerate());
    let rows = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..host.options.jobs {
            scope.spawn(|| {
                while kernel_patch::interrupt::check().is_ok() {
                    let next = queue.lock().expect("no lane panics").next();
                    let Some((place, property)) = next else {
                        return;
                    };
                    let row = one(host, property);
                    rows.lock().expect("no lane panics").push((place, row));
                }
            });
        }
    });
    kernel_patch::interrupt::check()?;
    let mut rows = rows.into_inner().expect("no lane panics");
    rows.sort_unstable_by_key(|(place, _)| *place);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn one(host: &Host<'_>, property: &'static Property) -> Row {
    let progress = Progress::start("conform", property.name);
    let started = Instant::now();
    let say = |what: &str| progress.at(what);
    let result = test(host, property, &say);
    let row = Row::new(property, started.elapsed(), result);
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
