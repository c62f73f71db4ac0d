//! The part that runs in the machine.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};

use crate::audit::Audit;
use crate::cli::Options;
use crate::outcome::Outcome;

/// The file in which the outcome goes to the host.
pub const OUTCOME: &str = "outcome.json";

/// What a test inside has.
pub struct Stage<'a> {
    /// What the user asked for.
    pub options: &'a Options,
    /// The directory whose files go to the host.
    pub out: PathBuf,
}

impl Stage<'_> {
    /// Tells whoever waits how far the test has come.
    pub fn say(&self, what: &str) {
        eprintln!("{what}");
    }
}

/// Tests one property here. What is left behind by the test is a failure too.
pub fn run(test: fn(&Stage<'_>) -> Result<Outcome>, options: &Options) -> Result<bool> {
    let out = env::var_os(kernel_patch::OUT_VARIABLE).context("this is for inside")?;
    let stage = Stage {
        options,
        out: out.into(),
    };
    let audit = Audit::begin(options)?;
    let mut outcome = test(&stage)?;
    for left in audit.end()? {
        outcome.fail(left);
    }
    let json = serde_json::to_vec(&outcome)?;
    fs::write(Path::new(&stage.out).join(OUTCOME), json).context("the outcome")?;
    Ok(true)
}
