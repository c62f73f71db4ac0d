//! The virtual machine of a case, and checks of its guest.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::{Context, Result, ensure};
use guests::TestVm;
use kvm_api::kvm_sys::KVM_CREATE_IRQCHIP;
use kvm_api::{GuestMemory, Kvm, RunMapping, Vcpu};
use kvm_bindings::{kvm_regs, kvm_sregs};
use nix::ioctl_none_bad;

use crate::form::StaticForm;
use crate::guest::{CODE, Exit, Mode, Program};

ioctl_none_bad!(create_irqchip, KVM_CREATE_IRQCHIP);

/// The guest of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The exit that its program makes once a round.
    pub exit: Exit,
    /// The mode that it runs in.
    pub mode: Mode,
}

/// A virtual machine with a vCPU of the form.
pub struct Fixture<'b, B: StaticForm> {
    pub form: &'b B,
    pub vcpu: B::Vcpu<'b>,
    pub vm: B::Vm,
    pub run: RunMapping,
    pub memory: GuestMemory,
}

impl<'b, B: StaticForm> Fixture<'b, B> {
    /// Makes a virtual machine with a new vCPU and empty memory.
    pub fn new(form: &'b B) -> Result<Self> {
        Self::of(form, TestVm::idle(form.kvm())?)
    }

    /// Makes a virtual machine that is ready to run the program of `guest`.
    pub fn with_guest(form: &'b B, guest: Guest) -> Result<Self> {
        let program = [(CODE, guest.exit.program())];
        Self::of(form, TestVm::with_code(form.kvm(), &program, guest.mode)?)
    }

    /// Makes a virtual machine with a local APIC in the kernel, ready to run the program of
    /// `guest`.
    pub fn with_apic(form: &'b B, guest: Guest) -> Result<Self> {
        let kvm = form.kvm();
        let vm = kvm.kvm_create_vm().context("kvm_create_vm")?;
        // SAFETY: the request touches no memory.
        unsafe { create_irqchip(vm.as_raw_fd()) }.context("KVM_CREATE_IRQCHIP")?;
        let program = [(CODE, guest.exit.program())];
        let machine = TestVm::with_code_in(kvm, vm, &program, guest.mode)?;
        Self::of(form, machine)
    }

    /// Makes a virtual machine that is ready to run a program in real mode.
    pub fn with_code(form: &'b B, program: Program) -> Result<Self> {
        Self::of(form, TestVm::with_code(form.kvm(), program, Mode::Real)?)
    }

    fn of(form: &'b B, machine: TestVm<'b>) -> Result<Self> {
        let vcpu = machine.vcpu_fd();
        let vm = machine.vm.into_fd().context("the descriptor of the VM")?;
        Ok(Self {
            form,
            vcpu: form.vcpu(vcpu).context("the vCPU of the form")?,
            vm: form.vm(vm).context("the VM of the form")?,
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

    /// Compares the rounds that the guest has counted with the expected number.
    pub fn check_rounds(&self, mode: Mode, expected: u64) -> Result<()> {
        let (counted, expected) = (mode.rounds(&self.regs()?), mode.wrap(expected));
        ensure!(
            counted == expected,
            "the guest counted {counted} rounds instead of {expected}"
        );
        Ok(())
    }

    /// Compares r8, which each change of the registers increments, with the expected
    /// number of changes.
    pub fn check_changes(&self, expected: u64) -> Result<()> {
        let changes = self.regs()?.r8;
        ensure!(
            changes == expected,
            "r8 shows {changes} changes instead of {expected}"
        );
        Ok(())
    }
}
