//! The suites of tests. Their tests run alike, each in a process of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::Result;

use super::result::Verdict;
use super::{kernels, kvm_ioctls};
use crate::test_kernel::TestKernel;

pub struct Suite {
    /// Builds the tests. Returns each executable's path in the machine, and on the host.
    pub build: fn(&TestKernel<'_>) -> Result<BTreeMap<PathBuf, PathBuf>>,
    /// The names of the tests, found in the machine.
    pub names: fn() -> Result<Vec<String>>,
    /// The command of a test, without its environment.
    pub command: fn(&str) -> Command,
    /// The verdict of a test that has ended, and the place at which it failed, which is
    /// empty if the test does not say.
    pub judge: fn(ExitStatus, &str) -> (Verdict, String),
}

pub const SUITES: &[Suite] = &[kernels::SUITE, kvm_ioctls::SUITE];

/// One of the tests in the machine.
pub struct SelfTest {
    pub name: String,
    pub suite: &'static Suite,
}

/// The tests in the machine.
pub fn tests() -> Result<Vec<SelfTest>> {
    let mut tests = Vec::new();
    for suite in SUITES {
        let names = (suite.names)()?.into_iter();
        tests.extend(names.map(|name| SelfTest { name, suite }));
    }
    Ok(tests)
}
