//! A VM with one vcpu, made through a backend.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use kvm_api::{GuestMemory, Kvm, RunMapping};
use kvm_bindings::{kvm_regs, kvm_sregs};

use crate::guest::{self, Exit, Mode, Program};

/// A VM and its vcpu.
pub struct Fixture<'b, B> {
    pub kvm: &'b B,
    pub vm: OwnedFd,
    pub vcpu: OwnedFd,
    pub run: RunMapping,
    pub memory: GuestMemory,
}

impl<'b, B: Kvm> Fixture<'b, B> {
    /// Makes them, with memory in slot 0 and nothing in it.
    pub fn new(kvm: &'b B) -> Result<Self> {
        let vm = kvm.kvm_create_vm().context("kvm_create_vm")?;
        kvm.kvm_set_memory_region(vm.as_fd(), 0, 0, 0, guest::MEMORY)
            .context("kvm_set_memory_region")?;
        let memory = kvm
            .kvm_map_memory(vm.as_fd(), 0, guest::MEMORY as usize)
            .context("kvm_map_memory")?;
        let vcpu = kvm.kvm_create_vcpu(vm.as_fd()).context("kvm_create_vcpu")?;
        let size = kvm
            .kvm_get_vcpu_mmap_size(vm.as_fd())
            .context("kvm_get_vcpu_mmap_size")?;
        let run = RunMapping::new(vcpu.as_fd(), size).context("mmap of the vcpu")?;
        Ok(Self {
            kvm,
            vm,
            vcpu,
            run,
            memory,
        })
    }

    /// The same with a program that is ready to run.
    pub fn with_program(kvm: &'b B, exit: Exit, mode: Mode) -> Result<Self> {
        Self::ready(kvm, &[(guest::CODE, exit.program())], mode)
    }

    /// The same with a program of more than one piece.
    pub fn with_code(kvm: &'b B, program: Program, mode: Mode) -> Result<Self> {
        Self::ready(kvm, program, mode)
    }

    fn ready(kvm: &'b B, program: &[(u64, &[u8])], mode: Mode) -> Result<Self> {
        let mut fixture = Self::new(kvm)?;
        for (address, code) in program {
            fixture.memory.write(*address as usize, code)?;
        }
        for (address, entry) in mode.tables() {
            fixture.memory.write(address as usize, &entry)?;
        }
        if let Some(cpuid) = mode.cpuid() {
            kvm.kvm_set_cpuid(fixture.vcpu(), &cpuid)
                .context("kvm_set_cpuid")?;
        }
        let mut sregs = fixture.sregs()?;
        mode.prepare(&mut sregs);
        kvm.kvm_set_sregs(fixture.vcpu(), &sregs)
            .context("kvm_set_sregs")?;
        kvm.kvm_set_regs(fixture.vcpu(), &mode.regs())
            .context("kvm_set_regs")?;
        Ok(fixture)
    }

    pub fn vm(&self) -> BorrowedFd<'_> {
        self.vm.as_fd()
    }

    pub fn vcpu(&self) -> BorrowedFd<'_> {
        self.vcpu.as_fd()
    }

    pub fn regs(&self) -> Result<kvm_regs> {
        let mut regs = kvm_regs::default();
        self.kvm
            .kvm_get_regs(self.vcpu(), &mut regs)
            .context("kvm_get_regs")?;
        Ok(regs)
    }

    pub fn sregs(&self) -> Result<kvm_sregs> {
        let mut sregs = kvm_sregs::default();
        self.kvm
            .kvm_get_sregs(self.vcpu(), &mut sregs)
            .context("kvm_get_sregs")?;
        Ok(sregs)
    }
}

/// Holds the rounds that a guest has counted against the number of its runs.
pub fn check_rounds(mode: Mode, regs: &kvm_regs, runs: u64) -> Result<()> {
    let (counted, expected) = (mode.rounds(regs), mode.wrap(runs));
    ensure!(
        counted == expected,
        "the guest went round {counted} times in {runs} runs"
    );
    Ok(())
}
