//! What a debugger does at each of its steps.

use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use kvm_api::Kvm;
use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug, kvm_regs,
};

use super::run::run_to;
use crate::fixture::Fixture;
use crate::guest::{Mode, SPIN};
use crate::subject::Subject;

/// One instruction: single-stepping is asked for, the guest runs, and the
/// registers are read.
pub struct Step<'b, B> {
    fixture: Fixture<'b, B>,
    regs: kvm_regs,
}

impl<'b, B: Kvm> Step<'b, B> {
    pub fn new(kvm: &'b B) -> Result<Self> {
        Ok(Self {
            fixture: Fixture::with_code(kvm, SPIN, Mode::Real)?,
            regs: kvm_regs::default(),
        })
    }
}

impl<B: Kvm> Subject for Step<'_, B> {
    fn call(&mut self) {
        let f = &mut self.fixture;
        let debug = kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
            ..Default::default()
        };
        f.kvm.kvm_debug_guest(f.vcpu.as_fd(), &debug).unwrap();
        run_to(f.kvm, &f.vcpu, &mut f.run, KVM_EXIT_DEBUG);
        f.kvm.kvm_get_regs(f.vcpu.as_fd(), &mut self.regs).unwrap();
    }

    /// Each round is two instructions, the first of which counts it.
    fn check(&mut self, calls: u64) -> Result<()> {
        let rounds = Mode::Real.rounds(&self.fixture.try_regs()?);
        let expected = Mode::Real.wrap(calls.div_ceil(2));
        ensure!(rounds == expected, "{rounds} rounds in {calls} steps");
        Ok(())
    }
}
