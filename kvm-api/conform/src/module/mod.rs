//! The entry points are built in, and KVM is a module: the results of calls
//! without it, the objects that keep it loaded, and calls during loading and
//! unloading.

mod absent;
mod callers;
mod holders;
pub mod loading;
mod rounds;
mod watched;

use anyhow::Result;
use kernel_patch::Accel;

use crate::inside::Stage;
use crate::outcome::{Case, Outcome};
use crate::property::{Kernels, Property, Test};

pub const PROPERTY: Property = Property {
    name: "module",
    about: "the calls return ENOSYS without KVM's modules, and keep them loaded",
    backends: "ioctl, syscall",
    kernels: Kernels::Both,
    test: Test::Inside {
        // In real time, one processor switches between the callers and the
        // loading at other points in each run. With several processors, QEMU
        // 7.2 may fail in code that another processor patches, and loading KVM
        // patches code.
        machine: |machine, _| machine.load_modules(false).accel(Accel::Mttcg),
        test,
    },
};

/// Each case starts without the modules.
const CASES: &[Case] = &[
    ("nothing is loaded", absent::refused),
    ("kvm without a vendor's module", absent::without_vendor),
    ("loaded", absent::loaded),
    ("a stale file descriptor", absent::stale),
    ("the last vcpu goes while it is watched", watched::last),
    ("a vcpu goes while it is watched", watched::one),
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
