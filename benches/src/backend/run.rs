//! Runs up to an exit.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use kvm_api::{Errno, Kvm, RunMapping};
use kvm_bindings::{KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_MMIO};

use crate::fixture::{Fixture, check_rounds};
use crate::guest::{Exit, Mode};
use crate::subject::Subject;

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
pub fn run_to<B: Kvm>(kvm: &B, vcpu: &OwnedFd, run: &mut RunMapping, exit: u32) {
    let got = kvm.kvm_run(vcpu.as_fd(), run).unwrap();
    assert!(got.exit_reason() == exit, "{:?}", got.reason());
}

/// Tries whether guests in that mode run.
///
/// # Errors
///
/// When they do not: says how far one came.
pub fn runs<B: Kvm>(kvm: &B, mode: Mode) -> Result<()> {
    let mut f = Fixture::with_program(kvm, Exit::Hlt, mode)?;
    let exit = kvm.kvm_run(f.vcpu.as_fd(), &mut f.run).context("kvm_run")?;
    ensure!(exit.exit_reason() == KVM_EXIT_HLT, "{:?}", exit.reason());
    Ok(())
}

/// A run up to one kind of exit.
pub struct Run<'b, B> {
    fixture: Fixture<'b, B>,
    exit: u32,
    mode: Mode,
}

impl<'b, B: Kvm> Run<'b, B> {
    pub fn new(kvm: &'b B, exit: Exit, mode: Mode) -> Result<Self> {
        Ok(Self {
            fixture: Fixture::with_program(kvm, exit, mode)?,
            exit: reason(exit),
            mode,
        })
    }
}

impl<B: Kvm> Subject for Run<'_, B> {
    fn call(&mut self) {
        let f = &mut self.fixture;
        run_to(f.kvm, &f.vcpu, &mut f.run, self.exit);
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        check_rounds(self.mode, &self.fixture.try_regs()?, calls)
    }
}

/// A run that ends before it begins.
pub struct ImmediateExit<'b, B>(Fixture<'b, B>);

impl<'b, B: Kvm> ImmediateExit<'b, B> {
    pub fn new(kvm: &'b B) -> Result<Self> {
        let mut fixture = Fixture::with_program(kvm, Exit::PioOut, Mode::Real)?;
        fixture.run.set_immediate_exit(true);
        Ok(Self(fixture))
    }
}

impl<B: Kvm> Subject for ImmediateExit<'_, B> {
    fn call(&mut self) {
        let f = &mut self.0;
        let result = f.kvm.kvm_run(f.vcpu.as_fd(), &mut f.run);
        assert!(matches!(result, Err(Errno::EINTR)));
    }

    fn check(&mut self, _calls: u64) -> Result<()> {
        check_rounds(Mode::Real, &self.0.try_regs()?, 0)
    }
}
