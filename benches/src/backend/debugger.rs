//! What a debugger does at each of its steps.

use anyhow::{Result, ensure};
use kvm_api::Vcpu;
use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug, kvm_regs,
};

use super::form::StaticForm;
use super::run::run_to;
use crate::fixture::Fixture;
use crate::guest::{Mode, SPIN};
use crate::workload::Workload;

/// One instruction: single-stepping is asked for, the guest runs, and the
/// registers are read.
pub struct Step<'b, B: StaticForm> {
    fixture: Fixture<'b, B>,
    regs: kvm_regs,
}

impl<'b, B: StaticForm> Step<'b, B> {
    pub fn new(form: &'b B) -> Result<Self> {
        Ok(Self {
            fixture: Fixture::with_code(form, SPIN, Mode::Real)?,
            regs: kvm_regs::default(),
        })
    }
}

impl<B: StaticForm> Workload for Step<'_, B> {
    fn call(&mut self) {
        let f = &mut self.fixture;
        let debug = kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
            ..Default::default()
        };
        f.vcpu.kvm_debug_guest(&debug).unwrap();
        run_to(&f.vcpu, &mut f.run, KVM_EXIT_DEBUG);
        f.vcpu.kvm_get_regs(&mut self.regs).unwrap();
    }

    /// Each round is two instructions, the first of which counts it.
    fn check(&mut self, calls: u64) -> Result<()> {
        let rounds = Mode::Real.rounds(&self.fixture.regs()?);
        let expected = Mode::Real.wrap(calls.div_ceil(2));
        ensure!(rounds == expected, "{rounds} rounds in {calls} steps");
        Ok(())
    }
}
