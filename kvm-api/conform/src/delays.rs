//! Delays that the debug kernel puts between two steps of one thread, where another
//! thread can come in between (`kernel-patch/linux-*/debug.patch`).

use std::fs;

use anyhow::{Context, Result};
use kernel_patch::Machine;

use crate::cli::Options;
use crate::outcome::Outcome;
use crate::test_kernel::TestKernel;

/// How often a thread was delayed.
const COUNT: &str = "/sys/module/kvm_delay/parameters/delays";

/// The machine of a test, with the delays enabled if its kernel has them.
pub fn machine(kernel: &TestKernel<'_>) -> Machine {
    let machine = kernel.machine();
    if kernel.options.debug {
        machine.cmdline("kvm_delay.enabled=1")
    } else {
        machine
    }
}

/// Notes how often threads were delayed. No delay at all is a failure: the windows
/// were as narrow as on any other kernel.
pub fn note(options: &Options, outcome: &mut Outcome) -> Result<()> {
    if !options.debug {
        return Ok(());
    }
    let count = fs::read_to_string(COUNT).context(COUNT)?;
    let count: u64 = count.trim().parse().context(COUNT)?;
    if count == 0 {
        outcome.fail("no thread was delayed");
    }
    outcome
        .notes
        .push(format!("threads were delayed {count} times"));
    Ok(())
}
