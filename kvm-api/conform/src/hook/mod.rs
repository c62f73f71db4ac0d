//! A security module that denies an ioctl also denies the system call that
//! replaces it, and no other. One that denies opening `/dev/kvm` also denies
//! creating a VM.

mod attempts;
mod forms;
mod ima;
mod securityfs;
mod tomoyo;

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use guests::TestVm;
use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::{KVM_CREATE_IRQCHIP, slot};
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Kvm};

use self::attempts::{Attempt, DEVICE, answers};
pub use self::ima::PROPERTY as IMA;
use self::tomoyo::{LOADER, Rules, TRIGGER};
use crate::access::create_vm;
use crate::arguments::{CallResult, machine};
use crate::cli::Options;
use crate::inside::progress;
use crate::outcome::Outcome;
use crate::property::{Kernels, Property, Test};
use crate::requests::request;

pub const PROPERTY: Property = Property {
    name: "hook",
    about: "a security module that denies an ioctl denies the call that replaces it",
    backends: "ioctl, syscall",
    kernels: Kernels::Both,
    test: Test::Inside {
        machine: |kernel| {
            let machine = kernel.machine().cmdline("lsm=tomoyo");
            let machine = machine.cmdline(format!("TOMOYO_trigger={TRIGGER}"));
            Ok(machine.cmdline(format!("TOMOYO_loader={LOADER}")))
        },
        test,
    },
};

const REFUSED: CallResult = CallResult::refused(Errno::EPERM);

fn test(_: &Options) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let (ioctl, syscall) = (Ioctl::open()?, Syscall::open()?);
    let attempts = Attempt::all();
    let questions: BTreeSet<_> = attempts.iter().map(Attempt::question).collect();

    let usual = answers(&attempts, &machine(&ioctl), &ioctl)?;
    for (attempt, answer) in attempts.iter().zip(&usual) {
        let attempted = attempt.describe();
        let succeeds = answer.succeeds(attempt.call);
        ensure!(succeeds, "{attempted} gives {answer:?}");
    }
    let before = machine(&ioctl);
    let with_apic = machine_with_apic(&ioctl)?;
    let mut rules = Rules::enforce()?;
    outcome.case("no rule", {
        let denied = answers(&attempts, &before, &ioctl)?;
        compare(&attempts, &denied, |_, _| REFUSED)
    });
    // This call has no file that a rule could name.
    outcome.case("the probe", Syscall::open().map(drop).map_err(Into::into));

    for &(path, command) in &questions {
        rules.allow(path, command)?;
    }
    // The interface that has created the VM makes no difference.
    let backends: [(&str, &dyn Kvm); 2] = [("ioctl", &ioctl), ("system call", &syscall)];
    for (done, &question) in questions.iter().enumerate() {
        progress(&format!("{done} of {}", questions.len()));
        let (maker, kvm) = backends[done % 2];
        let (path, command) = question;
        let name = format!("{command:#x} on {path}, of a VM made by {maker}");
        let machine_to_deny = machine(kvm);
        rules.forbid(path, command)?;
        let denied = answers(&attempts, &machine_to_deny, &ioctl)?;
        rules.allow(path, command)?;
        let result = compare(&attempts, &denied, |attempt, index| {
            let asks = attempt.question() == question;
            if asks { REFUSED } else { usual[index] }
        });
        outcome.case(&format!("denied: {name}"), result);
        let allowed = answers(&attempts, &machine(kvm), &ioctl)?;
        let result = compare(&attempts, &allowed, |_, index| usual[index]);
        outcome.case(&format!("allowed again: {name}"), result);
    }
    forms::test(&mut rules, &with_apic, &mut outcome)?;
    outcome.case("opening /dev/kvm", opening(&mut rules));
    Ok(outcome)
}

/// A machine whose vCPU has every part of the state.
fn machine_with_apic(kvm: &dyn Kvm) -> Result<TestVm<'_>> {
    let vm = kvm.kvm_create_vm()?;
    request(vm.as_fd(), KVM_CREATE_IRQCHIP, 0)?;
    Ok(TestVm::of_vm(kvm, vm, slot::KVM_MEM_LOG_DIRTY_PAGES))
}

/// Creating a VM needs read and write permission to the device.
fn opening(rules: &mut Rules) -> Result<()> {
    rules.about_opening()?;
    for (allowed, expected) in [
        ("nothing", REFUSED),
        ("read", REFUSED),
        ("write", CallResult::DONE),
    ] {
        if allowed != "nothing" {
            rules.allow_opening(allowed, DEVICE)?;
        }
        let answer = create_vm()?;
        ensure!(
            answer == expected,
            "creating a VM gives {answer:?} when {allowed} has been allowed"
        );
    }
    Ok(())
}

/// Asserts that each attempt has the expected result.
fn compare(
    attempts: &[Attempt],
    found: &[CallResult],
    expected: impl Fn(&Attempt, usize) -> CallResult,
) -> Result<()> {
    for (index, (attempt, found)) in attempts.iter().zip(found).enumerate() {
        let expected = expected(attempt, index);
        ensure!(
            *found == expected,
            "{} gives {found:?}, not {expected:?}",
            attempt.describe()
        );
    }
    Ok(())
}
