//! The entry points are built in and KVM is a module: what they say while it is
//! not there, what keeps it there, and what happens on the way.

mod absent;
mod callers;
mod holders;
mod loading;
mod rounds;

use anyhow::Result;
use kernel_patch::Accel;

use crate::inside::Stage;
use crate::outcome::{Case, Outcome};
use crate::property::{Kernels, Property, Test};

pub const PROPERTY: Property = Property {
    name: "module",
    about: "no call without kvm loaded, and no unloading under a call",
    backends: "ioctl, syscall",
    kernels: Kernels::Both,
    test: Test::Inside {
        // In real time one processor changes between the callers and the loading
        // at other points in each run. With more than one, QEMU 7.2 does not
        // always get through code that another processor patches, which loading
        // KVM does all the time.
        machine: |machine, _| machine.load_modules(false).accel(Accel::Mttcg),
        test,
    },
};

/// Each begins with nothing loaded.
const CASES: &[Case] = &[
    ("nothing is loaded", absent::refused),
    ("kvm without a vendor's module", absent::without_vendor),
    ("loaded", absent::loaded),
    ("a stale file descriptor", absent::stale),
];

fn test(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (name, case) in CASES {
        stage.say(name);
        outcome.case(name, case());
        loading::unload_all()?;
    }
    stage.say("what holds the module");
    holders::all(&mut outcome);
    loading::unload_all()?;
    let result = rounds::test(stage, &mut outcome);
    outcome.case("load and unload under callers", result);
    loading::unload_all()?;
    Ok(outcome)
}
