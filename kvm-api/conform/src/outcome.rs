//! The result of a test.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Reports how far a test has come.
pub type Say<'a> = dyn Fn(&str) + 'a;

/// What a test found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// How many cases were tried.
    pub cases: u64,
    /// What does not hold.
    pub failures: Vec<Failure>,
    /// What is worth a line below the table.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Counts a case, and what of it does not hold.
    pub fn case(&mut self, name: &str, result: Result<()>) {
        self.cases += 1;
        if let Err(error) = result {
            self.fail(format!("{name}: {error:#}"));
        }
    }

    /// Adds what does not hold.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(Failure {
            what: what.into(),
            replay: None,
        });
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What, in words; may have several lines.
    pub what: String,
    /// The options that show it again, beside those that name the property and
    /// the kernel (`--seed 7`).
    pub replay: Option<String>,
}

/// What became of one property: a row of the table.
#[derive(Debug, Serialize)]
pub struct Row {
    pub property: &'static str,
    pub about: &'static str,
    pub backends: &'static str,
    pub seconds: u64,
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Row {
    /// Whether the property holds. One of which nothing was tried does not.
    pub fn holds(&self) -> bool {
        self.outcome.failures.is_empty() && self.outcome.cases > 0
    }
}
