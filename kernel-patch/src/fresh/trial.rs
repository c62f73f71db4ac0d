//! The steps of a trial, with their results and durations.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::error::{FreshError, Result};
use crate::host::HostError;

/// The width of the table without a terminal.
const WIDTH: u16 = 100;

/// The steps that were tried.
#[derive(Debug)]
pub struct Trial {
    started: Instant,
    steps: Mutex<Vec<TrialStep>>,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            steps: Mutex::default(),
        }
    }
}

#[derive(Debug)]
struct TrialStep {
    what: String,
    took: Duration,
    outcome: StepOutcome,
}

#[derive(Debug, PartialEq)]
enum StepOutcome {
    Passed,
    Failed(String),
    /// The time was up.
    LeftOut,
}

impl Trial {
    /// Makes one step. Its failure is a result of the trial. Only an interruption is an
    /// error.
    pub(super) fn step(&self, what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.take(what, None, work)
    }

    /// Makes one step in the time that is left. A step that is stopped at the end of that
    /// time has not failed. A step that is stopped at its own limit has.
    pub(super) fn spare_step(
        &self,
        what: &str,
        left: Duration,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if left.is_zero() {
            self.add(what, Duration::ZERO, StepOutcome::LeftOut);
            return Ok(());
        }
        self.take(what, Some(left), work)
    }

    fn take(
        &self,
        what: &str,
        left: Option<Duration>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        eprintln!("\nkernel-patch: on a new machine: {what}");
        let started = Instant::now();
        let outcome = match work() {
            Ok(()) => StepOutcome::Passed,
            Err(error @ FreshError::Host(HostError::Interrupted)) => return Err(error),
            Err(FreshError::Host(HostError::ToolTimedOut(_, after))) if Some(after) == left => {
                StepOutcome::LeftOut
            }
            Err(error) => StepOutcome::Failed(format!("{:#}", anyhow::Error::from(error))),
        };
        let took = started.elapsed();
        eprintln!(
            "kernel-patch: on a new machine: {what}: ended after {}",
            minutes(took)
        );
        self.add(what, took, outcome);
        Ok(())
    }

    fn add(&self, what: &str, took: Duration, outcome: StepOutcome) {
        self.steps().push(TrialStep {
            what: what.into(),
            took,
            outcome,
        });
    }

    /// The time since the start.
    pub(super) fn took(&self) -> Duration {
        self.started.elapsed()
    }

    fn steps(&self) -> MutexGuard<'_, Vec<TrialStep>> {
        self.steps.lock().expect("no holder panics")
    }

    /// Whether no step has failed.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.steps()
            .iter()
            .all(|step| !matches!(step.outcome, StepOutcome::Failed(_)))
    }

    /// The steps as a table, with the duration of each and of all, and the error of each
    /// step that failed.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if table.width().is_none() {
            table.set_width(WIDTH);
        }
        table.set_header(["on a new machine", "time", ""]);
        let mut errors = String::new();
        for step in self.steps().iter() {
            let result = match &step.outcome {
                StepOutcome::Passed => "ok",
                StepOutcome::Failed(error) => {
                    errors += &format!("\n\nFAILED {}: {error}", step.what);
                    "failed"
                }
                StepOutcome::LeftOut => "left out: no time",
            };
            table.add_row([&step.what, &minutes(step.took), result]);
        }
        table.add_row(["all", &minutes(self.took()), ""]);
        let time = table.column_mut(1).expect("there is a column of times");
        time.set_cell_alignment(CellAlignment::Right);
        // Last, where a log that is cut in the middle has them.
        table.to_string() + &errors
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
        Err(FreshError::StepFailed("it failed".into()))
    }

    #[test]
    fn a_step_that_fails_does_not_hide_the_others() {
        let trial = Trial::default();
        trial.step("first", || Ok(())).unwrap();
        assert!(trial.holds());
        trial.step("second", fail).unwrap();
        trial.step("third", || Ok(())).unwrap();
        assert!(!trial.holds());
        trial.spare_step("fourth", Duration::ZERO, fail).unwrap();
        let table = trial.table();
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
    fn a_step_without_time_is_not_a_failure() {
        let trial = Trial::default();
        trial.spare_step("none", Duration::ZERO, fail).unwrap();
        let minute = Duration::from_secs(60);
        let stopped = || Err(HostError::ToolTimedOut("some".into(), minute).into());
        trial.spare_step("some", minute, stopped).unwrap();
        assert!(trial.holds());
        // It is one in other steps. An error before the end of the time is one too.
        trial.step("all", stopped).unwrap();
        assert!(!trial.holds());
        let trial = Trial::default();
        trial.spare_step("bad", minute, fail).unwrap();
        assert!(!trial.holds());
        let trial = Trial::default();
        trial.spare_step("hangs", 2 * minute, stopped).unwrap();
        assert!(!trial.holds());
    }

    #[test]
    fn an_interruption_ends_the_trial() {
        let trial = Trial::default();
        let interrupted = trial.step("first", || Err(HostError::Interrupted.into()));
        assert!(matches!(
            interrupted,
            Err(FreshError::Host(HostError::Interrupted))
        ));
    }

    #[test]
    fn times_are_in_minutes() {
        assert_eq!(minutes(Duration::from_secs(3 * 60 + 7)), "3 min 07 s");
    }
}
