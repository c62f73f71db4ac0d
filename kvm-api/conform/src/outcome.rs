//! The result of a test.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Receives the progress of a test.
pub type OnProgress<'a> = dyn Fn(&str) + Sync + 'a;

/// A case of a test: its name, and the function that tests it.
pub type NamedCase = (&'static str, fn() -> Result<()>);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub cases: u64,
    pub failures: Vec<Failure>,
    /// Remarks, which are printed below the table.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Counts a case, and adds its failure.
    pub fn case(&mut self, name: &str, result: Result<()>) {
        self.cases += 1;
        if let Err(error) = result {
            self.fail(format!("{name}: {error:#}"));
        }
    }

    pub fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(Failure {
            what: what.into(),
            replay: None,
        });
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The message, of one or more lines.
    pub what: String,
    /// The options that repeat it, except those for the property and the kernel
    /// (`--seed 7`).
    pub replay: Option<String>,
}

impl Failure {
    /// A failure that the seed repeats.
    pub fn of_seed(what: String, seed: u64) -> Self {
        Self {
            what,
            replay: Some(format!("--seed {seed}")),
        }
    }
}

/// The result of one property: a row of the table.
#[derive(Debug, Serialize)]
pub struct PropertyResult {
    pub property: &'static str,
    pub about: &'static str,
    pub backends: &'static str,
    pub seconds: u64,
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl PropertyResult {
    pub fn holds(&self) -> bool {
        self.failure().is_none()
    }

    /// The first reason why the property does not hold. It does not if no case ran.
    pub fn failure(&self) -> Option<&str> {
        match &self.outcome.failures[..] {
            [first, ..] => Some(&first.what),
            [] if self.outcome.cases == 0 => Some("no case ran"),
            [] => None,
        }
    }
}
