//! Who may create a virtual machine, and what another process may do with it:
//! not more than over the ioctls.

mod capabilities;
mod cgroup;
mod child;
mod creators;
mod landlock;
mod mounts;
mod namespace;
mod seccomp;
mod socket;

use anyhow::Result;

pub use self::child::create_vm;
use crate::inside::Stage;
use crate::outcome::{Case, Outcome};
use crate::property::{Kernels, Property, Test};

pub const PROPERTY: Property = Property {
    name: "access",
    about: "the calls grant no more access than the ioctls",
    backends: "ioctl, syscall",
    kernels: Kernels::Both,
    test: Test::Inside {
        machine: |machine, _| machine,
        test,
    },
};

fn test(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let cases = [
        creators::CASES,
        namespace::CASES,
        mounts::CASES,
        cgroup::CASES,
        socket::CASES,
        landlock::CASES,
        seccomp::CASES,
    ];
    for (name, case) in cases.into_iter().flatten() {
        stage.say(name);
        outcome.case(name, case());
    }
    Ok(outcome)
}
