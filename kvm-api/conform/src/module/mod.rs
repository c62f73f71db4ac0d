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

use crate::cli::Options;
use crate::inside::progress;
use crate::outcome::{NamedCase, Outcome};
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
        machine: |kernel| Ok(kernel.machine().load_modules(false).accel(Accel::Mttcg)),
        test,
    },
};

/// Each case starts without the modules.
const CASES: &[NamedCase] = &[
    ("nothing is loaded", absent::refused),
    ("kvm without a vendor's module", absent::without_vendor),
    ("loaded", absent::loaded),
    ("a stale file descriptor", absent::stale),
    (
        "the last vCPU is destroyed while it is watched",
        watched::last,
    ),
    ("a vCPU is destroyed while it is watched", watched::one),
];

fn test(options: &Options) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (name, case) in CASES {
        progress(name);
        outcome.case(name, case());
        loading::unload_all()?;
    }
    progress("the objects that keep the module loaded");
    holders::all(&mut outcome);
    loading::unload_all()?;
    let result = rounds::test(options, &mut outcome);
    outcome.case("load and unload under callers", result);
    loading::unload_all()?;
    Ok(outcome)
}
