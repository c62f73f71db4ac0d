//! Tasks bind vCPUs, run them, and lose them, in random order, and are compared
//! with a model. Each call checks the task's own state in the processor, and
//! each step the registers of each vCPU.

mod calls;
mod host_state;
mod model;
mod program;
mod steps;
mod suspend;
mod task_set;
mod tasks;
mod watch;

use std::fs;

use anyhow::{Result, ensure};
use kernel_patch::{Accel, Machine};
use kvm_api::Kvm;
use kvm_api::syscall::Syscall;
use proptest_state_machine::StateMachineTest;

use self::host_state::has_pkru;
use self::model::Model;
use self::steps::Step;
use self::task_set::TaskSet;
use self::watch::Watch;
use crate::cli::Options;
use crate::delays;
use crate::inside::progress;
use crate::outcome::Outcome;
use crate::property::{Kernels, Property, Test};
use crate::test_kernel::TestKernel;
use crate::{processors, random, signal};

pub const PROPERTY: Property = Property {
    name: "bindings",
    about: "a bound vCPU belongs to its task, and the task's state stays its own",
    backends: "model, bound, process, ioctl, syscall",
    kernels: Kernels::All,
    test: Test::Inside { machine, test },
};

/// The same property on VMX, which QEMU does not emulate, with one processor.
pub const ON_VMX: Property = Property {
    name: "vmx",
    about: "the same holds on VMX",
    backends: "model, bound, process, ioctl, syscall",
    kernels: Kernels::Usual,
    test: Test::Inside {
        machine: |kernel| Ok(kernel.machine().accel(Accel::Bochs).memory("512M")),
        test: test_on_vmx,
    },
};

/// The maximum number of steps of a sequence.
const STEPS: usize = 40;

/// The second processor, which is initially offline.
const SECOND: u32 = 1;

fn machine(kernel: &TestKernel<'_>) -> Result<Machine> {
    let accel = Accel::Mttcg;
    Ok(delays::machine(kernel)
        .accel(accel)
        .smp(2)
        .cmdline("maxcpus=1")
        .cpu(format!("{},+pku", accel.cpu())))
}

/// The tasks, and the model before the step.
struct Lockstep;

impl StateMachineTest for Lockstep {
    type SystemUnderTest = (TaskSet, Model);
    type Reference = Model;

    fn init_test(model: &Model) -> Self::SystemUnderTest {
        (TaskSet::new(), model.clone())
    }

    fn apply(
        (mut task_set, before): Self::SystemUnderTest,
        model: &Model,
        step: Step,
    ) -> Self::SystemUnderTest {
        let answer = task_set.take(&step, &before);
        assert_eq!(answer, model.answer, "{step:?}");
        (task_set, model.clone())
    }

    fn check_invariants((task_set, _): &Self::SystemUnderTest, model: &Model) {
        if let Some(difference) = task_set.difference(model) {
            panic!("{difference}");
        }
    }
}

fn test(options: &Options) -> Result<Outcome> {
    ensure!(has_pkru(), "the machine's processor has no PKRU");
    // While a VM lives and a task has a breakpoint, the kernel does not patch
    // its code for the first or the last of either. The emulator does not get
    // this right on two processors.
    let kept = (Syscall::open()?.kvm_create_vm()?, Watch::set());
    processors::bring_online(SECOND)?;
    let mut outcome = sequences(options, options.cases(200, 200, 20))?;
    if options.debug {
        progress("suspending");
        random::quietly(|| suspend::all(&mut outcome));
    }
    processors::take_offline(SECOND)?;
    drop(kept);
    delays::note(options, &mut outcome)?;
    Ok(outcome)
}

fn test_on_vmx(options: &Options) -> Result<Outcome> {
    const MODULE: &str = "/sys/module/kvm_intel";
    ensure!(fs::exists(MODULE)?, "KVM does not run on VMX");
    sequences(options, options.cases(200, 200, 20))
}

/// Runs `cases` random sequences.
fn sequences(options: &Options, cases: u64) -> Result<Outcome> {
    signal::handle(signal::KICK)?;
    let mut outcome = Outcome {
        cases,
        ..Outcome::default()
    };
    let failure = random::quietly(|| {
        let describe = |steps: &[Step]| format!(" {steps:#?}");
        random::sequences::<Lockstep>(options.seed, cases, STEPS, |_| {}, describe)
    });
    outcome.failures.extend(failure);
    Ok(outcome)
}
