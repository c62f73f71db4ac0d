//! The structures that calls pass: from kvm-bindings, and those that it lacks.

// The kernel's names are kept.
#![allow(non_camel_case_types)]

pub use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES, MsrList, Msrs, kvm_cpuid_entry2, kvm_cpuid2,
    kvm_create_guest_memfd, kvm_debugregs, kvm_device_attr, kvm_dirty_log, kvm_fpu,
    kvm_guest_debug, kvm_interrupt, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_msr_list,
    kvm_msrs, kvm_regs, kvm_run, kvm_segment, kvm_signal_mask, kvm_sregs, kvm_sregs2,
    kvm_translation, kvm_userspace_memory_region, kvm_userspace_memory_region2, kvm_vcpu_events,
    kvm_xcrs, kvm_xen_hvm_config,
};

pub use kvm_bindings::nested::KvmNestedStateBuffer;

/// The part of `struct kvm_run` for a [`exit::KVM_EXIT_MMIO`](crate::exit::KVM_EXIT_MMIO).
pub use kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_6 as kvm_run_mmio;

/// A range of guest physical addresses that shows the memory of another range.
///
/// Linux had this structure until KVM_SET_MEMORY_ALIAS went in 2010; the layout
/// is unchanged.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_memory_alias {
    /// Which alias: less than [`KVM_ALIAS_SLOTS`](crate::KVM_ALIAS_SLOTS).
    pub slot: u32,
    /// None is defined: 0.
    pub flags: u32,
    /// Where the guest sees the alias. A multiple of the page size.
    pub guest_phys_addr: u64,
    /// Its size in bytes, a multiple of the page size. 0 deletes the alias.
    pub memory_size: u64,
    /// The guest physical address of the memory that it shows.
    pub target_phys_addr: u64,
}

/// Which parts of a vCPU's state pass, and where they are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_vcpu_state {
    /// The parts, of [`state`](crate::state). Only their addresses are used.
    pub parts: u64,
    /// The address of a [`kvm_regs`].
    pub regs: u64,
    /// The address of a [`kvm_sregs`].
    pub sregs: u64,
    /// The address of a [`kvm_fpu`].
    pub fpu: u64,
    /// The address of a [`kvm_msrs`] with its entries.
    pub msrs: u64,
    /// The address of a [`kvm_debugregs`].
    pub debugregs: u64,
    /// The address of a [`kvm_vcpu_events`].
    pub vcpu_events: u64,
    /// The address of a [`kvm_xcrs`].
    pub xcrs: u64,
    /// The address of a [`kvm_sregs2`].
    pub sregs2: u64,
    /// The address of a [`kvm_state_xsave`] with its data.
    pub xsave: u64,
    /// The address of a [`kvm_lapic_state`].
    pub lapic: u64,
    /// The address of a [`kvm_mp_state`].
    pub mp_state: u64,
    /// The address of a [`KvmNestedStateBuffer`].
    pub nested_state: u64,
    /// The address of a [`kvm_cpuid2`] with its entries.
    pub cpuid: u64,
    /// The address of a `u32`.
    pub tsc_khz: u64,
    /// The address of a `u64`.
    pub tsc_offset: u64,
}

/// The size of the first revision of [`kvm_vcpu_state`], and the least that the calls take.
pub const KVM_VCPU_STATE_SIZE_VER0: usize = 64;
/// The size of the second revision of [`kvm_vcpu_state`].
pub const KVM_VCPU_STATE_SIZE_VER1: usize = 128;

/// The header of the area of XSAVE; the data follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_state_xsave {
    /// The size of the data in bytes.
    pub size: u32,
    /// 0.
    pub pad: u32,
}

/// The `sigset_t` of the kernel on x86-64: a bit for each signal, bit 0 for signal 1.
pub type kernel_sigset = u64;

/// [`kvm_signal_mask`] with the set in place of the open-ended array at its
/// end, so that it can be built without an allocation.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_signal_mask_set {
    /// The size of `sigset` in bytes. KVM takes no other than 8.
    pub len: u32,
    /// The signals that are blocked while the guest runs.
    pub sigset: kernel_sigset,
}

const _: () = {
    assert!(size_of::<kvm_memory_alias>() == 32);
    assert!(size_of::<kvm_vcpu_state>() == KVM_VCPU_STATE_SIZE_VER1);
    assert!(size_of::<kvm_state_xsave>() == 8);
    assert!(
        size_of::<kvm_signal_mask_set>()
            == size_of::<kvm_signal_mask>() + size_of::<kernel_sigset>()
    );
};
