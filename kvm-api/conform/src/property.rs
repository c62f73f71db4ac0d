//! A property: a statement about the interface, and the test of it.

use anyhow::{Result, bail};
use kernel_patch::Machine;

use crate::cli::Options;
use crate::host::Host;
use crate::inside::Stage;
use crate::outcome::{Outcome, Say};

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

impl Property {
    /// The part of the test that runs inside the machine.
    ///
    /// # Errors
    ///
    /// If the host tests the property, with no part of this program inside.
    pub fn inside(&self) -> Result<fn(&Stage<'_>) -> Result<Outcome>> {
        match self.test {
            Test::Inside { test, .. } | Test::Prepared { test, .. } => Ok(test),
            Test::Outside(_) => bail!("{} is tested from the host", self.name),
        }
    }
}
