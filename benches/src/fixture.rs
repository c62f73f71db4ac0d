//! The virtual machine of a case, and the check of what its guest has done.

use anyhow::{Result, ensure};
use guests::TestVm;
use kvm_bindings::kvm_regs;

use crate::guest::Mode;

/// A virtual machine and its vCPU, on a backend of a known type, so that calls
/// are direct.
pub type Fixture<'b, B> = TestVm<'b, B>;

/// Compares the rounds that a guest has counted with the number of its runs.
///
/// # Errors
///
/// If they differ.
pub fn check_rounds(mode: Mode, regs: &kvm_regs, runs: u64) -> Result<()> {
    let (counted, expected) = (mode.rounds(regs), mode.wrap(runs));
    ensure!(
        counted == expected,
        "the guest counted {counted} rounds in {runs} runs"
    );
    Ok(())
}
