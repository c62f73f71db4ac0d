//! What was tried on the new machine, and how long each took.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use crate::host::error::{Error, Result};

/// How wide the table may be where there is no terminal to say so.
const WIDTH: u16 = 100;

/// What was tried.
#[derive(Debug)]
pub struct Report {
    started: Instant,
    steps: Mutex<Vec<Step>>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            steps: Mutex::default(),
        }
    }
}

#[derive(Debug)]
struct Step {
    what: String,
    took: Duration,
    outcome: Outcome,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Passed,
    Failed(String),
    /// There was no time for it, or not enough.
    LeftOut,
}

impl Report {
    /// Does one thing. That it failed is no error but a part of the report, unless
    /// the whole was interrupted.
    pub(super) fn step(&self, what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.take(what, work, |error| Outcome::Failed(error.to_string()))
    }

    /// Does one thing in the time that is left, if there is any. That it is stopped at
    /// the end of that time is no failure; at its own limit, before, it is one.
    pub(super) fn spare_step(
        &self,
        what: &str,
        left: Duration,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if left.is_zero() {
            self.add(what, Duration::ZERO, Outcome::LeftOut);
            return Ok(());
        }
        self.take(what, work, |error| match error {
            Error::ToolTimedOut { after, .. } if after == left => Outcome::LeftOut,
            error => Outcome::Failed(error.to_string()),
        })
    }

    fn take(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<()>,
        failed: impl FnOnce(Error) -> Outcome,
    ) -> Result<()> {
        eprintln!("\nkernel-patch: on a new machine: {what}");
        let started = Instant::now();
        let outcome = match work() {
            Ok(()) => Outcome::Passed,
            Err(error @ Error::Interrupted(_)) => return Err(error),
            Err(error) => failed(error),
        };
        let took = started.elapsed();
        eprintln!(
            "kernel-patch: on a new machine: {what}: ended after {}",
            minutes(took)
        );
        self.add(what, took, outcome);
        Ok(())
    }

    fn add(&self, what: &str, took: Duration, outcome: Outcome) {
        self.steps().push(Step {
            what: what.into(),
            took,
            outcome,
        });
    }

    /// The time since the beginning.
    pub(super) fn took(&self) -> Duration {
        self.started.elapsed()
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.steps.lock().expect("nobody panics with it")
    }

    /// Whether all of it was as it has to be.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.steps()
            .iter()
            .all(|step| !matches!(step.outcome, Outcome::Failed(_)))
    }

    /// The steps, with the time of each and of all.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if table.width().is_none() {
            table.set_width(WIDTH);
        }
        table.set_header(["on a new machine", "time", ""]);
        for step in self.steps().iter() {
            let result = match &step.outcome {
                Outcome::Passed => "ok",
                Outcome::Failed(error) => error,
                Outcome::LeftOut => "left out: no time",
            };
            table.add_row([&step.what, &minutes(step.took), result]);
        }
        table.add_row(["all", &minutes(self.took()), ""]);
        let time = table.column_mut(1).expect("there is a column of times");
        time.set_cell_alignment(CellAlignment::Right);
        table.to_string()
    }
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail() -> Result<()> {
        Err(Error::NotFresh("it failed".into()))
    }

    #[test]
    fn a_step_that_fails_does_not_hide_the_others() {
        let report = Report::default();
        report.step("first", || Ok(())).unwrap();
        assert!(report.holds());
        report.step("second", fail).unwrap();
        report.step("third", || Ok(())).unwrap();
        assert!(!report.holds());
        report.spare_step("fourth", Duration::ZERO, fail).unwrap();
        let table = report.table();
        for text in [
            "first",
            "ok",
            "it failed",
            "third",
            "fourth",
            "left out",
            "all",
        ] {
            assert!(table.contains(text), "{table}");
        }
    }

    #[test]
    fn what_there_is_no_time_for_is_no_failure() {
        let report = Report::default();
        report.spare_step("none", Duration::ZERO, fail).unwrap();
        let minute = Duration::from_secs(60);
        let stopped = || {
            Err(Error::ToolTimedOut {
                what: "some".into(),
                after: minute,
            })
        };
        report.spare_step("some", minute, stopped).unwrap();
        assert!(report.holds());
        // Elsewhere it is one, and so is what fails in time.
        report.step("all", stopped).unwrap();
        assert!(!report.holds());
        let report = Report::default();
        report.spare_step("bad", minute, fail).unwrap();
        assert!(!report.holds());
        let report = Report::default();
        report.spare_step("hangs", 2 * minute, stopped).unwrap();
        assert!(!report.holds());
    }

    #[test]
    fn an_interruption_ends_it() {
        let report = Report::default();
        let interrupted = report.step("first", || Err(Error::Interrupted(2)));
        assert!(matches!(interrupted, Err(Error::Interrupted(2))));
    }

    #[test]
    fn times_are_in_minutes() {
        assert_eq!(minutes(Duration::from_secs(3 * 60 + 7)), "3 min 07 s");
    }
}
