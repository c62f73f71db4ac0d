//! Guest programs, and the state that a vcpu needs to run them.
//!
//! Each program counts its rounds in (e)cx and leaves the guest once a round,
//! so that a vcpu that is run `n` times must have counted to `n`. They mean the
//! same in real mode and in 64-bit mode.

use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_regs, kvm_segment, kvm_sregs};

/// Where the programs lie.
pub const CODE: u64 = 0x1000;
/// The page tables of 64-bit mode: three pages from here.
const TABLES: u64 = 0x2000;
/// How much memory a guest has, from 0 on, in bytes.
pub const MEMORY: u64 = 0x10000;
/// An address without memory. 64-bit mode maps it.
pub const MMIO: u64 = 0x10_0000;
/// The port that the programs use.
pub const PORT: u16 = 0x3f8;

/// An external interrupt's vector.
pub const VECTOR: u32 = 0x20;

/// A program: bytes, and where they lie.
pub type Program = &'static [(u64, &'static [u8])];

/// `1: inc %ecx; jmp 1b`, which never leaves the guest.
pub const SPIN: Program = &[(CODE, &[0xff, 0xc1, 0xeb, 0xfc])];

/// In real mode the same with interrupts on, and for [`VECTOR`] a handler, which
/// leaves the guest: `out %al, (%dx); iret`.
pub const INTERRUPTED: Program = &[
    (CODE, &[0xfb, 0xff, 0xc1, 0xeb, 0xfc]),
    (4 * VECTOR as u64, &(HANDLER as u32).to_le_bytes()),
    (HANDLER, &[0xee, 0xcf]),
];
/// Where the handler lies, in segment 0.
const HANDLER: u64 = 0x1100;

/// `1: mov %al,(%bx); hlt; jmp 1b`, which writes in real mode to where (%bx) is and
/// leaves the guest.
pub const WRITE: Program = &[(CODE, &[0x88, 0x07, 0xf4, 0xeb, 0xfb])];

/// How a program leaves the guest.
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
    /// The program: `1: inc %ecx; <the instruction>; jmp 1b`.
    #[must_use]
    pub fn program(self) -> &'static [u8] {
        match self {
            Self::PioOut => &[0xff, 0xc1, 0xee, 0xeb, 0xfb],
            Self::PioIn => &[0xff, 0xc1, 0xec, 0xeb, 0xfb],
            Self::MmioWrite => &[0xff, 0xc1, 0x88, 0x07, 0xeb, 0xfa],
            Self::MmioRead => &[0xff, 0xc1, 0x8a, 0x07, 0xeb, 0xfa],
            Self::Hlt => &[0xff, 0xc1, 0xf4, 0xeb, 0xfb],
        }
    }
}

/// The mode that a vcpu runs its program in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16 bits, no paging. Every KVM can run this.
    Real,
    /// 64 bits, paging on.
    Long,
}

impl Mode {
    /// The general registers to begin with.
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

    /// What the vcpu must be able to: KVM sets EFER.LME only if CPUID has long
    /// mode.
    #[must_use]
    pub fn cpuid(self) -> Option<CpuId> {
        const LONG_MODE: u32 = 1 << 29;
        let leaf = |function, eax, edx| kvm_cpuid_entry2 {
            function,
            eax,
            edx,
            ..Default::default()
        };
        let leaves = [
            leaf(0x8000_0000, 0x8000_0001, 0),
            leaf(0x8000_0001, 0, LONG_MODE),
        ];
        match self {
            Self::Real => None,
            Self::Long => Some(CpuId::from_entries(&leaves).expect("two leaves fit")),
        }
    }

    /// Puts into `sregs`, which a new vcpu gave, what the mode needs.
    pub fn prepare(self, sregs: &mut kvm_sregs) {
        match self {
            Self::Real => {
                sregs.cs.base = 0;
                sregs.cs.selector = 0;
                // %bx is 0, so that (%bx) is where the segment begins.
                sregs.ds.base = MMIO;
                sregs.ds.selector = (MMIO >> 4) as u16;
            }
            Self::Long => {
                const PE_NE_WP_PG: u64 = 1 | 1 << 5 | 1 << 16 | 1 << 31;
                const PAE: u64 = 1 << 5;
                const LME_LMA: u64 = 1 << 8 | 1 << 10;
                sregs.cr0 = PE_NE_WP_PG;
                sregs.cr3 = TABLES;
                sregs.cr4 = PAE;
                sregs.efer = LME_LMA;
                let segment = kvm_segment {
                    limit: u32::MAX,
                    present: 1,
                    s: 1,
                    g: 1,
                    ..Default::default()
                };
                sregs.cs = kvm_segment {
                    selector: 8,
                    type_: 0b1011,
                    l: 1,
                    ..segment
                };
                let data = kvm_segment {
                    selector: 16,
                    type_: 0b0011,
                    db: 1,
                    ..segment
                };
                sregs.ds = data;
                sregs.es = data;
                sregs.ss = data;
            }
        }
    }

    /// What lies in memory beside the program, as address and bytes: for 64-bit
    /// mode, tables that map the first 2 MiB to themselves.
    #[must_use]
    pub fn tables(self) -> Vec<(u64, [u8; 8])> {
        const PRESENT_WRITABLE: u64 = 0b11;
        const LARGE: u64 = 1 << 7;
        match self {
            Self::Real => vec![],
            Self::Long => vec![
                (TABLES, ((TABLES + 0x1000) | PRESENT_WRITABLE).to_le_bytes()),
                (
                    TABLES + 0x1000,
                    ((TABLES + 0x2000) | PRESENT_WRITABLE).to_le_bytes(),
                ),
                (TABLES + 0x2000, (PRESENT_WRITABLE | LARGE).to_le_bytes()),
            ],
        }
    }

    /// How far a program has counted that began at 0.
    #[must_use]
    pub fn rounds(self, regs: &kvm_regs) -> u64 {
        match self {
            Self::Real => regs.rcx & 0xffff,
            Self::Long => regs.rcx & 0xffff_ffff,
        }
    }

    /// What `rounds` is after that many of them.
    #[must_use]
    pub fn wrap(self, rounds: u64) -> u64 {
        match self {
            Self::Real => rounds & 0xffff,
            Self::Long => rounds & 0xffff_ffff,
        }
    }
}
