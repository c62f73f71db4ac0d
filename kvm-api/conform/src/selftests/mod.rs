//! The kernel's own tests of KVM, unmodified: each runs over ioctl, and again
//! with a preloaded library that hands its ioctls to the system calls. The
//! results must be the same.

#[cfg(test)]
mod docs;
mod known;
mod place;
mod report;
mod result;
mod run;

use anyhow::{Context, Result};

use crate::cli::Options;
use crate::clock;
use crate::inside::progress;
use crate::outcome::Outcome;
use crate::property::{Kernels, Property, Test};
use place::{Settings, SharedMemory};
use report::Both;

pub const PROPERTY: Property = Property {
    name: "selftests",
    about: "the kernel's own tests have the same results with the calls",
    backends: "ioctl, syscall",
    kernels: Kernels::UsualOf(known::BASE),
    test: Test::Inside {
        machine: place::machine,
        test,
    },
};

fn test(_: &Options) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let _shm = SharedMemory::mount()?;
    // Tests of guests' clocks skip until then.
    clock::wait_for_tsc()?;
    let names = place::names()?;
    let mut tests = Vec::new();
    for name in &names {
        progress(&format!("{} of {}: {name}", tests.len() + 1, names.len()));
        let test = both(name).with_context(|| name.clone())?;
        if let Some(problem) = test.problem() {
            outcome.fail(format!("{name}: {problem}"));
        }
        tests.push(test);
    }
    for unknown in known::unknown(&names) {
        outcome.fail(format!("{unknown} is listed, but is not a test"));
    }
    outcome.cases = 2 * tests.len() as u64;
    outcome.notes.push(report::of_all(&tests));
    Ok(outcome)
}

fn both(name: &str) -> Result<Both> {
    let (start, _) = known::start(name);
    let _settings = Settings::make(start.settings)?;
    let ioctl = run::over_ioctl(name, &start)?;
    let (flat, counts) = run::preloaded(name, &start)?;
    Ok(Both {
        name: name.to_owned(),
        ioctl,
        flat,
        counts,
    })
}
