//! The ioctls of KVM that no call replaces, with the kernel's names.

use kvm_bindings::{
    kvm_clear_dirty_log, kvm_cpuid2, kvm_create_device, kvm_create_guest_memfd, kvm_debugregs,
    kvm_enable_cap, kvm_lapic_state, kvm_mp_state, kvm_nested_state, kvm_pit_state2,
    kvm_vcpu_events, kvm_xcrs, kvm_xen_hvm_config, kvm_xsave,
};
use libc::c_ulong;
use nix::{request_code_none, request_code_read, request_code_readwrite, request_code_write};

/// The type byte of the requests of KVM.
pub(crate) const KVMIO: u8 = kvm_bindings::KVMIO as u8;

macro_rules! requests {
    ($($(#[doc = $doc:literal])* $name:ident = $make:ident $number:literal $(of $structure:ident)?;)*) => {
        $(
            $(#[doc = $doc])*
            pub const $name: c_ulong = $make!(KVMIO, $number $(, size_of::<$structure>())?);
        )*

        /// Their names and codes.
        pub static REQUESTS: &[(&str, c_ulong)] = &[$((stringify!($name), $name)),*];
    };
}

requests! {
    /// Gives the version of the ioctl interface. The proposal drops it.
    KVM_GET_API_VERSION = request_code_none 0x00;
    /// Gives a VM interrupt controllers in the kernel.
    KVM_CREATE_IRQCHIP = request_code_none 0x60;
    /// Names the MSR that writes the page for the hypercalls of Xen.
    KVM_XEN_HVM_CONFIG = request_code_write 0x7a of kvm_xen_hvm_config;
    /// Reads the state of the local APIC.
    KVM_GET_LAPIC = request_code_read 0x8e of kvm_lapic_state;
    /// Sets the state of the local APIC.
    KVM_SET_LAPIC = request_code_write 0x8f of kvm_lapic_state;
    /// Reads the results of the CPUID instruction of the guest.
    KVM_GET_CPUID2 = request_code_readwrite 0x91 of kvm_cpuid2;
    /// Reads whether a vCPU runs, halts, or waits to be started.
    KVM_GET_MP_STATE = request_code_read 0x98 of kvm_mp_state;
    /// Sets whether a vCPU runs, halts, or waits to be started.
    KVM_SET_MP_STATE = request_code_write 0x99 of kvm_mp_state;
    /// Queues a non-maskable interrupt.
    KVM_NMI = request_code_none 0x9a;
    /// Reads the pending exceptions and interrupts of a vCPU.
    KVM_GET_VCPU_EVENTS = request_code_read 0x9f of kvm_vcpu_events;
    /// Reads the state of the timer that KVM emulates. It shares its number with
    /// [`KVM_GET_VCPU_EVENTS`].
    KVM_GET_PIT2 = request_code_read 0x9f of kvm_pit_state2;
    /// Sets the pending exceptions and interrupts of a vCPU.
    KVM_SET_VCPU_EVENTS = request_code_write 0xa0 of kvm_vcpu_events;
    /// Reads the debug registers.
    KVM_GET_DEBUGREGS = request_code_read 0xa1 of kvm_debugregs;
    /// Sets the debug registers.
    KVM_SET_DEBUGREGS = request_code_write 0xa2 of kvm_debugregs;
    /// Sets the frequency of the time stamp counter.
    KVM_SET_TSC_KHZ = request_code_none 0xa2;
    /// Reads the frequency of the time stamp counter.
    KVM_GET_TSC_KHZ = request_code_none 0xa3;
    /// Enables a capability.
    KVM_ENABLE_CAP = request_code_write 0xa3 of kvm_enable_cap;
    /// Reads the extended state of the processor.
    KVM_GET_XSAVE = request_code_read 0xa4 of kvm_xsave;
    /// Sets the extended state of the processor.
    KVM_SET_XSAVE = request_code_write 0xa5 of kvm_xsave;
    /// Reads the extended control registers.
    KVM_GET_XCRS = request_code_read 0xa6 of kvm_xcrs;
    /// Sets the extended control registers.
    KVM_SET_XCRS = request_code_write 0xa7 of kvm_xcrs;
    /// Queues a system management interrupt.
    KVM_SMI = request_code_none 0xb7;
    /// Reads the state of the virtualization that a guest uses itself.
    KVM_GET_NESTED_STATE = request_code_readwrite 0xbe of kvm_nested_state;
    /// Sets the state of the virtualization that a guest uses itself.
    KVM_SET_NESTED_STATE = request_code_write 0xbf of kvm_nested_state;
    /// Clears bits of the dirty log of a slot, where reading the log leaves them.
    KVM_CLEAR_DIRTY_LOG = request_code_readwrite 0xc0 of kvm_clear_dirty_log;
    /// Opens a file with statistics.
    KVM_GET_STATS_FD = request_code_none 0xce;
    /// Makes a file of memory that only a guest reaches.
    KVM_CREATE_GUEST_MEMFD = request_code_readwrite 0xd4 of kvm_create_guest_memfd;
    /// Makes a device in the kernel.
    KVM_CREATE_DEVICE = request_code_readwrite 0xe0 of kvm_create_device;
}
