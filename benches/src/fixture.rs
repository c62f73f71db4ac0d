//! The virtual machine of a case, and the check of what its guest has done.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use guests::TestVm;
use kvm_api::{GuestMemory, RunMapping, Vcpu};
use kvm_bindings::{kvm_regs, kvm_sregs};

use crate::backend::form::StaticForm;
use crate::guest::{Exit, Mode, Program};

/// A virtual machine, and its vCPU as the form has it.
pub struct Fixture<'b, B: StaticForm> {
    pub form: &'b B,
    pub vcpu: B::Vcpu<'b>,
    pub vm: OwnedFd,
    pub run: RunMapping,
    pub memory: GuestMemory,
}

impl<'b, B: StaticForm> Fixture<'b, B> {
    /// Makes a virtual machine with a new vCPU, and with memory that is empty.
    pub fn new(form: &'b B) -> Result<Self> {
        Self::of(form, TestVm::idle(form.kvm())?)
    }

    /// Makes a virtual machine that is ready to run the program of `exit`.
    pub fn with_program(form: &'b B, exit: Exit, mode: Mode) -> Result<Self> {
        Self::of(form, TestVm::with_program(form.kvm(), exit, mode)?)
    }

    /// Makes a virtual machine that is ready to run a program.
    pub fn with_code(form: &'b B, program: Program, mode: Mode) -> Result<Self> {
        Self::of(form, TestVm::with_code(form.kvm(), program, mode)?)
    }

    fn of(form: &'b B, machine: TestVm<'b>) -> Result<Self> {
        Ok(Self {
            form,
            vcpu: form
                .vcpu(machine.vcpu_fd())
                .context("the vCPU of the form")?,
            vm: machine.vm,
            run: machine.run,
            memory: machine.memory,
        })
    }

    pub fn kvm(&self) -> &'b B::Kvm {
        self.form.kvm()
    }

    pub fn vm(&self) -> BorrowedFd<'_> {
        self.vm.as_fd()
    }

    pub fn regs(&self) -> Result<kvm_regs> {
        let mut regs = kvm_regs::default();
        self.vcpu.kvm_get_regs(&mut regs).context("kvm_get_regs")?;
        Ok(regs)
    }

    pub fn sregs(&self) -> Result<kvm_sregs> {
        let mut sregs = kvm_sregs::default();
        self.vcpu
            .kvm_get_sregs(&mut sregs)
            .context("kvm_get_sregs")?;
        Ok(sregs)
    }
}

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
