//! What is tested: one entry a property.

use std::time::Duration;

use anyhow::{Context, Result};
use kernel_patch::Machine;
use serde::{Deserialize, Serialize};

use crate::cli::Options;
use crate::host::Host;
use crate::inside::Stage;
use crate::{
    access, bindings, calls, errors, faults, fuzz, hook, module, races, selftests, sequences,
};

/// All properties, those that take longest first.
pub const ALL: &[Property] = &[
    selftests::PROPERTY,
    sequences::PROPERTY,
    fuzz::PROPERTY,
    faults::PROPERTY,
    races::PROPERTY,
    bindings::PROPERTY,
    bindings::ON_VMX,
    calls::PROPERTY,
    errors::PROPERTY,
    module::PROPERTY,
    access::PROPERTY,
    hook::PROPERTY,
];

/// One property of the interface, and how it is tested.
pub struct Property {
    /// What the command line calls it.
    pub name: &'static str,
    /// What holds, in half a line.
    pub about: &'static str,
    /// Which backends it is about, as the table has it.
    pub backends: &'static str,
    /// The kernels that it is tested on.
    pub kernels: Kernels,
    /// How.
    pub test: Test,
}

/// The kernels that a property is tested on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// The one that is measured, and the one that checks itself.
    Both,
    /// The one that is measured.
    Usual,
    /// The one that checks itself.
    Debug,
}

/// How a property is tested.
pub enum Test {
    /// In a machine of its own, by this program.
    Inside {
        /// What the machine has beyond the ordinary.
        machine: fn(Machine, &Options) -> Machine,
        /// What is done there. An error is a test that could not be made; what
        /// does not hold is a [`Failure`] of the outcome.
        test: fn(&Stage<'_>) -> Result<Outcome>,
    },
    /// The same, where the machine takes some making.
    Prepared {
        /// Makes what goes into the machine, and the machine.
        machine: fn(&Host<'_>) -> Result<Machine>,
        /// As above.
        test: fn(&Stage<'_>) -> Result<Outcome>,
    },
    /// From here.
    Outside(fn(&Host<'_>, &Say<'_>) -> Result<Outcome>),
}

/// Tells whoever waits how far a test has come.
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
    pub fn new(property: &Property, took: Duration, result: Result<Outcome>) -> Self {
        let outcome = result.unwrap_or_else(|error| {
            let mut outcome = Outcome::default();
            outcome.fail(format!("{error:#}"));
            outcome
        });
        Self {
            property: property.name,
            about: property.about,
            backends: property.backends,
            seconds: took.as_secs(),
            outcome,
        }
    }

    /// Whether the property holds. One of which nothing was tried does not.
    pub fn holds(&self) -> bool {
        self.outcome.failures.is_empty() && self.outcome.cases > 0
    }
}

/// The property of that name.
pub fn find(name: &str) -> Result<&'static Property> {
    let named = ALL.iter().find(|property| property.name == name);
    named.with_context(|| {
        let names: Vec<_> = ALL.iter().map(|it| it.name).collect();
        format!("no property {name:?}; there are {}", names.join(", "))
    })
}
