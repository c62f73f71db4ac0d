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

/// Reports the progress of the test to the host.
pub fn progress(detail: &str) {
    eprintln!("{detail}");
}

/// Tests one property here. Anything that the test leaves behind is a failure, too.
pub fn run(test: fn(&Options) -> Result<Outcome>, options: &Options) -> Result<Outcome> {
    let audit = Audit::begin(options)?;
    let mut outcome = test(options)?;
    for left in audit.end()? {
        outcome.fail(left);
    }
    Ok(outcome)
}
