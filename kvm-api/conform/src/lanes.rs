//! Machines side by side: each lane tests one property after the other.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::host::Host;
use crate::property::{Outcome, Property, Row, Say, Test};

/// Tests `properties`, and gives a row for each, in their order.
pub fn run(host: &Host<'_>, properties: &[&'static Property]) -> Result<Vec<Row>> {
    let queue = Mutex::new(properties.iter().enumerate());
    let rows = Mutex::new(Vec::new());
    let screen = MultiProgress::new();
    thread::scope(|scope| {
        for _ in 0..host.options.jobs {
            scope.spawn(|| {
                while kernel_patch::interrupt::check().is_ok() {
                    let next = queue.lock().expect("no lane panics").next();
                    let Some((place, property)) = next else {
                        return;
                    };
                    let row = one(host, property, &screen);
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

fn one(host: &Host<'_>, property: &'static Property, screen: &MultiProgress) -> Row {
    let progress = Progress::start(property.name, screen);
    let started = Instant::now();
    let say = |what: &str| progress.say(what);
    let result = test(host, property, &say);
    let row = Row::new(property, started.elapsed(), result);
    progress.end(&row);
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

/// One property's line on a terminal; elsewhere a line at its beginning and
/// one at its end.
struct Progress {
    name: &'static str,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn start(name: &'static str, screen: &MultiProgress) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix}: {wide_msg} {elapsed}")
                .expect("the template is well-formed");
            let bar = screen.add(ProgressBar::new_spinner().with_style(style));
            bar.set_prefix(name);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            eprintln!("conform: {name}");
        }
        Self { name, bar }
    }

    fn say(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    fn end(&self, row: &Row) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => {
                let verdict = if row.holds() { "holds" } else { "FAILS" };
                eprintln!("conform: {} {verdict}, {} s", self.name, row.seconds);
            }
        }
    }
}
