//! Programs that count their rounds, for the benches.
//!
//! Each program counts its rounds in (e)cx and leaves the guest once a round,
//! so that the counter is `n` after `n` runs. The programs do the same in real
//! mode and in 64-bit mode, unless the text names one mode.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use kvm_api::kvm_sys::{kvm_regs, kvm_sregs};
use kvm_api::{Kvm, Vm};

use crate::assemble::programs;
use crate::long_mode::{self, PageTables};
use crate::{ENTRY, TestVm};

/// The size of the memory, in bytes.
pub const MEMORY: u64 = crate::MEMORY as u64;
/// The address at which the programs are loaded.
pub const CODE: u64 = ENTRY;
/// The page tables of 64-bit mode.
const TABLES: PageTables = PageTables { at: 0x2000 };
/// A guest physical address without memory. 64-bit mode maps it.
pub const MMIO: u64 = 0x10_0000;
/// The port that the programs use.
pub const PORT: u16 = 0x3f8;
/// The vector of an external interrupt.
pub const VECTOR: u32 = 0x20;
/// The address of the handler of [`INTERRUPTED`], in segment 0.
const HANDLER: u64 = 0x1100;

/// A program: pieces, and their addresses.
pub type Program = &'static [(u64, &'static [u8])];

programs! { COUNTING: ".code64";
    /// Never leaves the guest.
    COUNT: 4 = "2: inc %ecx; jmp 2b";
    /// Real mode: never leaves the guest, with interrupts enabled.
    COUNT_ENABLED: 5 = "sti; 2: inc %ecx; jmp 2b";
    /// Counts, and writes to a port.
    PIO_OUT: 5 = "2: inc %ecx; out %al, (%dx); jmp 2b";
    /// Counts, and reads from a port.
    PIO_IN: 5 = "2: inc %ecx; in (%dx), %al; jmp 2b";
    /// Counts, and writes to the address in %rdi, in real mode in %bx.
    MMIO_WRITE: 6 = "2: inc %ecx; mov %al, (%rdi); jmp 2b";
    /// Counts, and reads from the address in %rdi, in real mode in %bx.
    MMIO_READ: 6 = "2: inc %ecx; mov (%rdi), %al; jmp 2b";
    /// Counts, and halts.
    COUNT_HLT: 5 = "2: inc %ecx; hlt; jmp 2b";
}

programs! { COUNTING_REAL: ".code16";
    /// A handler of an interrupt, which leaves the guest.
    HANDLE: 2 = "out %al, (%dx); iret";
    /// Writes to the address in %bx, and leaves the guest.
    WRITE_HALT: 5 = "2: mov %al, (%bx); hlt; jmp 2b";
}

/// Never leaves the guest.
pub static SPIN: Program = &[(CODE, COUNT)];

/// Real mode: never leaves the guest except by the handler for [`VECTOR`].
pub static INTERRUPTED: Program = &[
    (CODE, COUNT_ENABLED),
    (4 * VECTOR as u64, &(HANDLER as u32).to_le_bytes()),
    (HANDLER, HANDLE),
];

/// Real mode: writes to the address in %bx, and leaves the guest.
pub static WRITE: Program = &[(CODE, WRITE_HALT)];

/// The instruction by which a program leaves the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `out %al, (%dx)`
    PioOut,
    /// `in (%dx), %al`
    PioIn,
    /// `mov %al, (%rdi)`, in real mode `mov %al, (%bx)`
    MmioWrite,
    /// `mov (%rdi), %al`, in real mode `mov (%bx), %al`
    MmioRead,
    /// `hlt`
    Hlt,
}

impl Exit {
    /// The program that counts and executes the instruction, in a loop.
    #[must_use]
    pub fn program(self) -> &'static [u8] {
        match self {
            Self::PioOut => PIO_OUT,
            Self::PioIn => PIO_IN,
            Self::MmioWrite => MMIO_WRITE,
            Self::MmioRead => MMIO_READ,
            Self::Hlt => COUNT_HLT,
        }
    }
}

/// The mode in which a vCPU runs its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16 bits, no paging. Every KVM can run this.
    Real,
    /// 64 bits, with paging.
    Long,
}

impl Mode {
    /// The initial general registers.
    #[must_use]
    pub fn regs(self) -> kvm_regs {
        kvm_regs {
            rip: CODE,
            rdx: PORT.into(),
            rdi: MMIO,
            rflags: 2,
            ..Default::default()
        }
    }

    /// The counter of a program that started at 0.
    #[must_use]
    pub fn rounds(self, regs: &kvm_regs) -> u64 {
        self.wrap(regs.rcx)
    }

    /// The counter after `rounds` rounds.
    #[must_use]
    pub fn wrap(self, rounds: u64) -> u64 {
        match self {
            Self::Real => rounds & 0xffff,
            Self::Long => rounds & 0xffff_ffff,
        }
    }
}

/// Constructors of benches.
impl<'k> TestVm<'k> {
    /// Makes a virtual machine with a new vCPU. KVM allocates its memory, which
    /// is empty.
    ///
    /// # Errors
    ///
    /// If a call fails.
    pub fn idle(kvm: &'k dyn Kvm) -> Result<Self> {
        Self::idle_of(kvm, kvm.kvm_create_vm().context("kvm_create_vm")?)
    }

    fn idle_of(kvm: &'k dyn Kvm, vm: OwnedFd) -> Result<Self> {
        kvm.kvm_set_memory_region(vm.as_fd(), 0, 0, 0, MEMORY)
            .context("kvm_set_memory_region")?;
        let memory = kvm
            .kvm_map_memory(vm.as_fd(), 0, MEMORY as usize)
            .context("kvm_map_memory")?;
        Self::with_memory(kvm, None, Vm::Fd(vm), memory)
    }

    /// Makes a virtual machine that is ready to run a program.
    ///
    /// # Errors
    ///
    /// If a call fails.
    pub fn with_code(kvm: &'k dyn Kvm, program: &[(u64, &[u8])], mode: Mode) -> Result<Self> {
        Self::idle(kvm)?.ready(program, mode)
    }

    /// Makes the same of a virtual machine that has neither memory nor a vCPU.
    ///
    /// # Errors
    ///
    /// If a call fails.
    pub fn with_code_in(
        kvm: &'k dyn Kvm,
        vm: OwnedFd,
        program: &[(u64, &[u8])],
        mode: Mode,
    ) -> Result<Self> {
        Self::idle_of(kvm, vm)?.ready(program, mode)
    }

    fn ready(self, program: &[(u64, &[u8])], mode: Mode) -> Result<Self> {
        let mut machine = self;
        for (address, code) in program {
            let written = machine.memory.write(*address as usize, code);
            written.context("writing to the guest's memory")?;
        }
        let vcpu = &*machine.vcpu;
        let mut sregs = kvm_sregs::default();
        vcpu.kvm_get_sregs(&mut sregs).context("kvm_get_sregs")?;
        match mode {
            Mode::Real => {
                sregs.cs.base = 0;
                sregs.cs.selector = 0;
                // %bx is 0, so that (%bx) is the beginning of the segment.
                sregs.ds.base = MMIO;
                sregs.ds.selector = (MMIO >> 4) as u16;
            }
            Mode::Long => {
                const WP: u64 = 1 << 16;
                for (address, entry) in TABLES.identity() {
                    let written = machine.memory.write(address as usize, &entry);
                    written.context("writing to the guest's memory")?;
                }
                vcpu.kvm_set_cpuid(&long_mode::cpuid(&[]))
                    .context("kvm_set_cpuid")?;
                long_mode::enter(&mut sregs, TABLES, WP);
            }
        }
        vcpu.kvm_set_sregs(&sregs).context("kvm_set_sregs")?;
        vcpu.kvm_set_regs(&mode.regs()).context("kvm_set_regs")?;
        Ok(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_program_is_shorter_than_declared() {
        for (name, code) in COUNTING.iter().chain(COUNTING_REAL) {
            assert_ne!(code.last(), Some(&6), "{name} ends with padding");
        }
    }
}
