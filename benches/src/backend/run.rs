//! Runs up to an exit.

use anyhow::{Context, Result, ensure};
use kvm_api::{Errno, RunMapping, Vcpu};
use kvm_bindings::{KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_MMIO};

use super::form::StaticForm;
use crate::fixture::{Fixture, check_rounds};
use crate::guest::{Exit, Mode};
use crate::workload::Workload;

/// The reason that KVM gives for an exit of that kind.
pub fn reason(exit: Exit) -> u32 {
    match exit {
        Exit::PioOut | Exit::PioIn => KVM_EXIT_IO,
        Exit::MmioWrite | Exit::MmioRead => KVM_EXIT_MMIO,
        Exit::Hlt => KVM_EXIT_HLT,
    }
}

/// Runs the vcpu up to its next exit, which must be of that kind.
#[inline(always)]
pub fn run_to<V: Vcpu>(vcpu: &V, run: &mut RunMapping, exit: u32) {
    let got = vcpu.kvm_run(run).unwrap();
    assert!(got.exit_reason() == exit, "{:?}", got.reason());
}

/// Tries whether guests in that mode run.
///
/// # Errors
///
/// When they do not: says how far one came.
pub fn runs<B: StaticForm>(form: &B, mode: Mode) -> Result<()> {
    let mut f = Fixture::with_program(form, Exit::Hlt, mode)?;
    let exit = f.vcpu.kvm_run(&mut f.run).context("kvm_run")?;
    ensure!(exit.exit_reason() == KVM_EXIT_HLT, "{:?}", exit.reason());
    Ok(())
}

/// A run up to one kind of exit.
pub struct Run<'b, B: StaticForm> {
    fixture: Fixture<'b, B>,
    exit: u32,
    mode: Mode,
}

impl<'b, B: StaticForm> Run<'b, B> {
    pub fn new(form: &'b B, exit: Exit, mode: Mode) -> Result<Self> {
        Ok(Self {
            fixture: Fixture::with_program(form, exit, mode)?,
            exit: reason(exit),
            mode,
        })
    }
}

impl<B: StaticForm> Workload for Run<'_, B> {
    fn call(&mut self) {
        let f = &mut self.fixture;
        run_to(&f.vcpu, &mut f.run, self.exit);
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        check_rounds(self.mode, &self.fixture.regs()?, calls)
    }
}

/// A run that ends before it begins.
pub struct ImmediateExit<'b, B: StaticForm>(Fixture<'b, B>);

impl<'b, B: StaticForm> ImmediateExit<'b, B> {
    pub fn new(form: &'b B) -> Result<Self> {
        let mut fixture = Fixture::with_program(form, Exit::PioOut, Mode::Real)?;
        fixture.run.set_immediate_exit(true);
        Ok(Self(fixture))
    }
}

impl<B: StaticForm> Workload for ImmediateExit<'_, B> {
    fn call(&mut self) {
        let f = &mut self.0;
        let result = f.vcpu.kvm_run(&mut f.run);
        assert!(matches!(result, Err(Errno::EINTR)));
    }

    fn check(&mut self, _calls: u64) -> Result<()> {
        check_rounds(Mode::Real, &self.0.regs()?, 0)
    }
}
