//! The part that runs in the machine.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::cli::Options;
use crate::outcome::Outcome;

/// The input of the program in the machine.
#[derive(Serialize, Deserialize)]
pub struct Input {
    pub property: String,
    pub options: Options,
}

/// What a test inside has.
pub struct Stage<'a> {
    /// What the user asked for.
    pub options: &'a Options,
}

impl Stage<'_> {
    /// Tells whoever waits how far the test has come.
    pub fn say(&self, what: &str) {
        eprintln!("{what}");
    }
}

/// Tests one property here. What the test leaves behind is a failure too.
pub fn run(test: fn(&Stage<'_>) -> Result<Outcome>, options: &Options) -> Result<Outcome> {
    let stage = Stage { options };
    let audit = Audit::begin(options)?;
    let mut outcome = test(&stage)?;
    for left in audit.end()? {
        outcome.fail(left);
    }
    Ok(outcome)
}
