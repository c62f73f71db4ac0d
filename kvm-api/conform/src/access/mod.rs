//! Creating a virtual machine, and using the machine of another process: the calls grant
//! no more access than the ioctls.

mod cgroup;
mod creators;
mod landlock;
mod mounts;
mod namespace;
mod seccomp;
mod socket;
mod user;

use anyhow::Result;

pub use self::user::create_vm;
use crate::cli::Options;
use crate::inside::progress;
use crate::outcome::{NamedCase, Outcome};
use crate::property::{Kernels, Property, Test};

pub const PROPERTY: Property = Property {
    name: "access",
    about: "the calls grant no more access than the ioctls",
    backends: "ioctl, syscall",
    kernels: Kernels::Both,
    test: Test::inside(test),
};

fn test(_: &Options) -> Result<Outcome> {
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
        progress(name);
        outcome.case(name, case());
    }
    Ok(outcome)
}
