//! The raw ABI of KVM as system calls: the numbers of the patched kernel, the
//! ioctl request that each call replaces, and the structures that pass.
//!
//! Each form has one table: [`CALLS`], in the order of the proposal of July 2007,
//! [`MERGED_CALLS`], [`RANGE_CALLS`], [`BINDING_CALLS`] and [`PROCESS_CALLS`]. An `enum`
//! for each table names its calls, and [`AnyCall`] those of all forms. [`instruction`]
//! makes a call. This crate has no logic beyond that: `kvm-api` has the interface.

#![cfg(target_arch = "x86_64")]

mod any;
mod bound;
mod call;
pub mod instruction;
mod merged;
mod process;
mod ranges;
mod requests;
mod structs;
mod table;

/// The kernel's numbers for the reasons of an exit.
pub mod exit {
    pub use kvm_bindings::{
        KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
        KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_IO_OUT, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO,
        KVM_EXIT_SHUTDOWN,
    };
}

/// The flags of a memory slot.
pub mod slot {
    pub use kvm_bindings::{KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
}

/// The switches of [`kvm_guest_debug`].
pub mod debug {
    pub use kvm_bindings::{
        KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB,
        KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP,
    };
}

/// The bits of [`kvm_vcpu_state::parts`].
pub mod state {
    /// `struct kvm_regs`.
    pub const KVM_STATE_REGS: u64 = 1 << 0;
    /// `struct kvm_sregs`.
    pub const KVM_STATE_SREGS: u64 = 1 << 1;
    /// `struct kvm_fpu`.
    pub const KVM_STATE_FPU: u64 = 1 << 2;
    /// `struct kvm_msrs`.
    pub const KVM_STATE_MSRS: u64 = 1 << 3;
    /// `struct kvm_debugregs`.
    pub const KVM_STATE_DEBUGREGS: u64 = 1 << 4;
    /// `struct kvm_vcpu_events`.
    pub const KVM_STATE_VCPU_EVENTS: u64 = 1 << 5;
    /// `struct kvm_xcrs`.
    pub const KVM_STATE_XCRS: u64 = 1 << 6;
    /// `struct kvm_sregs2`. Not together with [`KVM_STATE_SREGS`].
    pub const KVM_STATE_SREGS2: u64 = 1 << 7;
    /// `struct kvm_state_xsave`.
    pub const KVM_STATE_XSAVE: u64 = 1 << 8;
    /// `struct kvm_lapic_state`.
    pub const KVM_STATE_LAPIC: u64 = 1 << 9;
    /// `struct kvm_mp_state`.
    pub const KVM_STATE_MP_STATE: u64 = 1 << 10;
    /// `struct kvm_nested_state`.
    pub const KVM_STATE_NESTED_STATE: u64 = 1 << 11;
    /// `struct kvm_cpuid2`.
    pub const KVM_STATE_CPUID: u64 = 1 << 12;
    /// `__u32`: the frequency of the TSC in kHz.
    pub const KVM_STATE_TSC_KHZ: u64 = 1 << 13;
    /// `__u64`: the offset of the TSC, as the attribute `KVM_VCPU_TSC_OFFSET` has it.
    pub const KVM_STATE_TSC_OFFSET: u64 = 1 << 14;
}

pub use any::*;
pub use bound::*;
pub use call::*;
pub use merged::*;
pub use process::*;
pub use ranges::*;
pub use requests::*;
pub use structs::*;
pub use table::*;

/// The number of calls in the tables.
pub const CALL_COUNT: usize = CALLS.len()
    + MERGED_CALLS.len()
    + RANGE_CALLS.len()
    + BINDING_CALLS.len()
    + PROCESS_CALLS.len();

/// The calls of every form.
pub fn calls() -> impl Iterator<Item = &'static Call> + Clone {
    AnyCall::all().map(AnyCall::row)
}

/// The capability that stands for the system calls. Asked of KVM itself (fd -1),
/// [`__NR_kvm_check_extension`] answers [`KVM_SYSCALLS_ABI`]; so does
/// [`KVM_CHECK_EXTENSION`] on a kernel that has them.
pub const KVM_CAP_SYSCALLS: u32 = 20070717;

/// The answer of a kernel with these system calls to [`KVM_CAP_SYSCALLS`]: the date of
/// the proposal, then the revision of the ABI in two digits.
pub const KVM_SYSCALLS_ABI: i32 = 2007071712;

/// A flag of [`__NR_kvm_get_dirty_range`]: the log keeps its bits.
pub const KVM_DIRTY_RANGE_PEEK: u32 = 1 << 0;

/// The number of memory aliases of a virtual machine, as on x86 in 2007.
pub const KVM_ALIAS_SLOTS: u32 = 4;

/// The capability that tells how many memory slots a virtual machine has.
pub use kvm_bindings::KVM_CAP_NR_MEMSLOTS;

/// The version of the ioctl interface that Linux has had since 2.6.22.
pub const KVM_API_VERSION: i32 = kvm_bindings::KVM_API_VERSION as i32;
