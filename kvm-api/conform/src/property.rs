//! A property: a statement about the interface, and the test of it.

use anyhow::{Result, bail};
use kernel_patch::{Base, Machine};

use crate::cli::Options;
use crate::outcome::{OnProgress, Outcome};
use crate::test_kernel::TestKernel;

/// A property of the interface, and its test.
pub struct Property {
    /// The name on the command line.
    pub name: &'static str,
    /// The statement, in half a line.
    pub about: &'static str,
    /// The backends that it covers, for the table.
    pub backends: &'static str,
    pub kernels: Kernels,
    pub test: Test,
}

/// The kernels on which a property is tested.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// The kernel that is measured, the one with debugging checks, and the one that
    /// reports data races.
    All,
    /// The kernel that is measured, and the one with debugging checks.
    Both,
    /// The kernel that is measured.
    Usual,
    /// The kernel that is measured, if it is of this release.
    UsualOf(Base),
    /// The kernel with debugging checks.
    Debug,
}

pub enum Test {
    /// This program runs the test, in a machine of its own.
    Inside {
        /// Prepares the machine and its files.
        machine: fn(&TestKernel<'_>) -> Result<Machine>,
        /// The test inside the machine. It returns an error if it cannot run. Failures
        /// are part of the outcome.
        test: fn(&Options) -> Result<Outcome>,
    },
    /// The host runs the test.
    Outside(fn(&TestKernel<'_>, &OnProgress<'_>) -> Result<Outcome>),
}

impl Test {
    /// A test in a machine without special settings.
    pub const fn inside(test: fn(&Options) -> Result<Outcome>) -> Self {
        Self::Inside {
            machine: |kernel| Ok(kernel.machine()),
            test,
        }
    }
}

impl Property {
    /// The part of the test that runs inside the machine.
    ///
    /// # Errors
    ///
    /// If the host tests the property, with no part of this program inside.
    pub fn inside(&self) -> Result<fn(&Options) -> Result<Outcome>> {
        match self.test {
            Test::Inside { test, .. } => Ok(test),
            Test::Outside(_) => bail!("{} is tested from the host", self.name),
        }
    }
}
