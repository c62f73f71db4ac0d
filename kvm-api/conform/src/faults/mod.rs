//! Makes each call fail at its first allocation or copy, then at its second,
//! and so on until none is left. The call must report the right errno and
//! change nothing.

mod inject;
mod situations;
mod state;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use guests::TestVm;
use kvm_api::{Backend, Errno};
use kvm_sys::FlatCall;

use crate::cli::Options;
use crate::inside::progress;
use crate::outcome::Outcome;
use crate::property::{Kernels, Property, Test};
use crate::tested_call::TestedCall;
use inject::{Faults, Kind};
use situations::{ALL, Situation};
use state::State;

pub const PROPERTY: Property = Property {
    name: "faults",
    about: "a failed allocation or copy gives the right errno and changes nothing",
    backends: "ioctl, syscall, merged, ranges, files, bound, process",
    kernels: Kernels::Debug,
    test: Test::inside(test),
};

/// More chances to fail than any call has.
const MANY: u32 = 1000;

fn test(options: &Options) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut lines = String::from("the results of the calls with faults");
    for situation in ALL {
        let mut line = format!("{:27} {:10}", situation.call.name, situation.name);
        for form in situation.forms() {
            let backend = form.open()?;
            let form = form.name();
            let what = format!("{} {} by {form}", situation.call.name, situation.name);
            progress(&what);
            // Inject faults into the copies alone as well: where a call
            // allocates only sometimes, the same chance is not always the same
            // copy.
            let mut each = |kind| one(options, situation, &backend, kind, &what, &mut outcome);
            each(Kind::Copies)?;
            let counts = each(Kind::All)?;
            let counts: Vec<_> = counts.iter().map(|(how, n)| format!("{n} {how}")).collect();
            line += &format!("  {form}: {:44}", counts.join(", "));
        }
        lines += "\n  ";
        lines += line.trim_end();
    }
    outcome.notes.push(lines);
    Ok(outcome)
}

/// How often a call had each result.
type Counts = BTreeMap<String, u32>;

/// Makes one call with a fault at each chance in turn.
fn one(
    options: &Options,
    situation: &Situation,
    backend: &Backend,
    kind: Kind,
    what: &str,
    outcome: &mut Outcome,
) -> Result<Counts> {
    let faults = Faults::new(kind)?;
    let mut counts = Counts::new();
    let make = || {
        let mut machine = TestVm::of_form(backend, 0);
        let act = (situation.prepare)(&mut machine);
        (machine, act)
    };
    let (mut machine, mut act) = make();
    // A sample takes every seventh chance of the calls that have an ioctl.
    let sampled = options.sample && situation.call.request.is_some();
    let step = if sampled { 7 } else { 1 };
    for n in (1..MANY).step_by(step) {
        if situation.fresh && n > 1 {
            // A task has one bound vCPU at the most.
            drop((machine, act));
            (machine, act) = make();
        }
        let before = State::of(&machine)?;
        let (result, injected) = faults.during(n, || act(&mut machine))?;
        let now = State::of(&machine)?;
        if !injected {
            result.with_context(|| format!("{what} fails without a fault"))?;
            return Ok(counts);
        }
        outcome.cases += 1;
        let how = match result {
            // The kernel did without the allocation.
            Ok(()) => "succeeded".to_owned(),
            Err(errno) => {
                let differences = before.differences(&now);
                if !differences.is_empty() {
                    outcome.fail(format!(
                        "{what}, fault {n}: {errno}, but {} changed",
                        differences.join(", ")
                    ));
                }
                if !right(errno, kind, situation) {
                    outcome.fail(format!("{what}, fault {n} of {kind:?}: {errno}"));
                }
                if let Err(errno) = act(&mut machine) {
                    outcome.fail(format!("{what}, after fault {n}: {errno}"));
                }
                format!("{errno:?}")
            }
        };
        *counts.entry(how).or_default() += 1;
    }
    ensure!(false, "{what}: faults never end");
    Ok(counts)
}

/// The errnos of failed copies and allocations. The kernel's memory is a file
/// of tmpfs, which reports ENOSPC if it cannot allocate an inode.
fn right(errno: Errno, kind: Kind, situation: &Situation) -> bool {
    match (kind, errno) {
        (_, Errno::EFAULT) | (Kind::All, Errno::ENOMEM) => true,
        (Kind::All, Errno::ENOSPC) => {
            situation.call == TestedCall::Flat(FlatCall::kvm_set_memory_region)
        }
        _ => false,
    }
}
