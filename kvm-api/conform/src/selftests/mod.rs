//! The kernel's own tests of KVM and those of the crate kvm-ioctls, unmodified: each runs
//! over ioctl, and again with a preloaded library that hands its ioctls to the system
//! calls. The results must be the same.

#[cfg(test)]
mod docs;
mod kernels;
mod known;
mod kvm_ioctls;
mod place;
mod report;
mod result;
mod run;
mod suites;

use anyhow::{Context, Result};

use crate::cli::Options;
use crate::clock;
use crate::inside::progress;
use crate::outcome::{Failure, Outcome};
use crate::property::{Kernels, Property, Test};
use place::{Settings, SharedMemory};
use report::Both;
use suites::SelfTest;

pub const PROPERTY: Property = Property {
    name: "selftests",
    about: "the tests of the kernel and of kvm-ioctls have the same results with the calls",
    backends: "ioctl, syscall",
    kernels: Kernels::UsualOf(known::BASE),
    test: Test::Inside {
        machine: place::machine,
        test,
    },
};

fn test(options: &Options) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let _shm = SharedMemory::mount()?;
    // Tests of guests' clocks skip until then.
    clock::wait_for_tsc()?;
    let tests = suites::tests()?;
    let mut results = Vec::new();
    let wanted = || tests.iter().filter(|test| options.wants(&test.name));
    let count = wanted().count();
    for test in wanted() {
        let name = &test.name;
        progress(&format!("{} of {count}: {name}", results.len() + 1));
        let result = both(test).with_context(|| name.clone())?;
        if let Some(problem) = result.problem() {
            outcome.failures.push(Failure {
                what: format!("{name}: {problem}"),
                replay: Some(format!("--case {name}")),
            });
        }
        results.push(result);
    }
    for unknown in known::unknown(&tests) {
        outcome.fail(format!("{unknown} is listed, but is not a test"));
    }
    outcome.cases = 2 * results.len() as u64;
    outcome.notes.push(report::of_all(&results));
    Ok(outcome)
}

fn both(test: &SelfTest) -> Result<Both> {
    let (start, _) = known::start(&test.name);
    let _settings = Settings::make(start.settings)?;
    let ioctl = run::over_ioctl(test, &start)?;
    let (flat, counts) = run::preloaded(test, &start)?;
    Ok(Both {
        name: test.name.clone(),
        ioctl,
        flat,
        counts,
    })
}
