//! The ioctls of KVM that no flat call replaces, with the kernel's names.

use kvm_bindings::{
    kvm_clear_dirty_log, kvm_clock_data, kvm_coalesced_mmio_zone, kvm_cpuid2, kvm_create_device,
    kvm_create_guest_memfd, kvm_debugregs, kvm_device_attr, kvm_enable_cap, kvm_enc_region,
    kvm_hyperv_eventfd, kvm_ioeventfd, kvm_irq_level, kvm_irq_routing, kvm_irq_routing_xen_evtchn,
    kvm_irqchip, kvm_irqfd, kvm_lapic_state, kvm_memory_attributes, kvm_mp_state, kvm_msi,
    kvm_msr_filter, kvm_msr_list, kvm_nested_state, kvm_pit_config, kvm_pit_state, kvm_pit_state2,
    kvm_pmu_event_filter, kvm_pre_fault_memory, kvm_sregs2, kvm_tpr_access_ctl,
    kvm_userspace_memory_region2, kvm_vapic_addr, kvm_vcpu_events, kvm_x86_mce, kvm_xcrs,
    kvm_xen_hvm_attr, kvm_xen_hvm_config, kvm_xen_vcpu_attr, kvm_xsave,
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
    /// Lists the results of the CPUID instruction that KVM supports.
    KVM_GET_SUPPORTED_CPUID = request_code_readwrite 0x05 of kvm_cpuid2;
    /// Lists the features of the CPUID instruction that KVM emulates.
    KVM_GET_EMULATED_CPUID = request_code_readwrite 0x09 of kvm_cpuid2;
    /// Lists the MSRs that describe features of the host.
    KVM_GET_MSR_FEATURE_INDEX_LIST = request_code_readwrite 0x0a of kvm_msr_list;
    /// Limits the number of pages for shadow page tables.
    KVM_SET_NR_MMU_PAGES = request_code_none 0x44;
    /// Reads the limit of [`KVM_SET_NR_MMU_PAGES`].
    KVM_GET_NR_MMU_PAGES = request_code_none 0x45;
    /// Places the task state segment that Intel's processors need for real mode.
    KVM_SET_TSS_ADDR = request_code_none 0x47;
    /// Places the page table that Intel's processors need for real mode.
    KVM_SET_IDENTITY_MAP_ADDR = request_code_write 0x48 of u64;
    /// Gives the guest a range of the caller's memory, or of a `guest_memfd`.
    KVM_SET_USER_MEMORY_REGION2 = request_code_write 0x49 of kvm_userspace_memory_region2;
    /// Gives a VM interrupt controllers in the kernel.
    KVM_CREATE_IRQCHIP = request_code_none 0x60;
    /// Sets the level of an interrupt line.
    KVM_IRQ_LINE = request_code_write 0x61 of kvm_irq_level;
    /// Reads the state of an interrupt controller.
    KVM_GET_IRQCHIP = request_code_readwrite 0x62 of kvm_irqchip;
    /// Sets the state of an interrupt controller.
    KVM_SET_IRQCHIP = request_code_read 0x63 of kvm_irqchip;
    /// Gives a VM the timer that KVM emulates. [`KVM_CREATE_PIT2`] replaced it.
    KVM_CREATE_PIT = request_code_none 0x64;
    /// Reads the state of the timer. [`KVM_GET_PIT2`] replaced it.
    KVM_GET_PIT = request_code_readwrite 0x65 of kvm_pit_state;
    /// Sets the state of the timer. [`KVM_SET_PIT2`] replaced it.
    KVM_SET_PIT = request_code_read 0x66 of kvm_pit_state;
    /// Sets the level of an interrupt line, and tells whether the interrupt was delivered.
    KVM_IRQ_LINE_STATUS = request_code_readwrite 0x67 of kvm_irq_level;
    /// Collects the writes to a range, without an exit for each. It shares its number
    /// with [`KVM_IRQ_LINE_STATUS`].
    KVM_REGISTER_COALESCED_MMIO = request_code_write 0x67 of kvm_coalesced_mmio_zone;
    /// Ends what [`KVM_REGISTER_COALESCED_MMIO`] began.
    KVM_UNREGISTER_COALESCED_MMIO = request_code_write 0x68 of kvm_coalesced_mmio_zone;
    /// Routes interrupt lines to interrupt controllers and messages.
    KVM_SET_GSI_ROUTING = request_code_write 0x6a of kvm_irq_routing;
    /// Sets whether the timer makes up for interrupts that the guest has missed.
    KVM_REINJECT_CONTROL = request_code_none 0x71;
    /// Ties an eventfd to an interrupt line.
    KVM_IRQFD = request_code_write 0x76 of kvm_irqfd;
    /// Gives a VM the timer that KVM emulates.
    KVM_CREATE_PIT2 = request_code_write 0x77 of kvm_pit_config;
    /// Names the vCPU that boots.
    KVM_SET_BOOT_CPU_ID = request_code_none 0x78;
    /// Ties an eventfd to writes of the guest to an address.
    KVM_IOEVENTFD = request_code_write 0x79 of kvm_ioeventfd;
    /// Names the MSR that writes the page for the hypercalls of Xen.
    KVM_XEN_HVM_CONFIG = request_code_write 0x7a of kvm_xen_hvm_config;
    /// Sets the clock of a VM.
    KVM_SET_CLOCK = request_code_write 0x7b of kvm_clock_data;
    /// Reads the clock of a VM.
    KVM_GET_CLOCK = request_code_read 0x7c of kvm_clock_data;
    /// Reads the state of the local APIC.
    KVM_GET_LAPIC = request_code_read 0x8e of kvm_lapic_state;
    /// Sets the state of the local APIC.
    KVM_SET_LAPIC = request_code_write 0x8f of kvm_lapic_state;
    /// Reads the results of the CPUID instruction of the guest.
    KVM_GET_CPUID2 = request_code_readwrite 0x91 of kvm_cpuid2;
    /// Has accesses to the task priority register exit.
    KVM_TPR_ACCESS_REPORTING = request_code_readwrite 0x92 of kvm_tpr_access_ctl;
    /// Places the page in which KVM and the guest share the task priority.
    KVM_SET_VAPIC_ADDR = request_code_write 0x93 of kvm_vapic_addr;
    /// Reads whether a vCPU runs, halts, or waits to be started.
    KVM_GET_MP_STATE = request_code_read 0x98 of kvm_mp_state;
    /// Sets whether a vCPU runs, halts, or waits to be started.
    KVM_SET_MP_STATE = request_code_write 0x99 of kvm_mp_state;
    /// Queues a non-maskable interrupt.
    KVM_NMI = request_code_none 0x9a;
    /// Gives a vCPU banks for machine checks.
    KVM_X86_SETUP_MCE = request_code_write 0x9c of u64;
    /// Reads the features of machine checks that KVM supports.
    KVM_X86_GET_MCE_CAP_SUPPORTED = request_code_read 0x9d of u64;
    /// Injects a machine check.
    KVM_X86_SET_MCE = request_code_write 0x9e of kvm_x86_mce;
    /// Reads the pending exceptions and interrupts of a vCPU.
    KVM_GET_VCPU_EVENTS = request_code_read 0x9f of kvm_vcpu_events;
    /// Reads the state of the timer that KVM emulates. It shares its number with
    /// [`KVM_GET_VCPU_EVENTS`].
    KVM_GET_PIT2 = request_code_read 0x9f of kvm_pit_state2;
    /// Sets the pending exceptions and interrupts of a vCPU.
    KVM_SET_VCPU_EVENTS = request_code_write 0xa0 of kvm_vcpu_events;
    /// Sets the state of the timer. It shares its number with [`KVM_SET_VCPU_EVENTS`].
    KVM_SET_PIT2 = request_code_write 0xa0 of kvm_pit_state2;
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
    /// Sends an interrupt message.
    KVM_SIGNAL_MSI = request_code_write 0xa5 of kvm_msi;
    /// Reads the extended control registers.
    KVM_GET_XCRS = request_code_read 0xa6 of kvm_xcrs;
    /// Sets the extended control registers.
    KVM_SET_XCRS = request_code_write 0xa7 of kvm_xcrs;
    /// Tells the guest that it was paused.
    KVM_KVMCLOCK_CTRL = request_code_none 0xad;
    /// Sets which events a guest may count.
    KVM_SET_PMU_EVENT_FILTER = request_code_write 0xb2 of kvm_pmu_event_filter;
    /// Queues a system management interrupt.
    KVM_SMI = request_code_none 0xb7;
    /// Does an operation of encrypted guests.
    KVM_MEMORY_ENCRYPT_OP = request_code_readwrite 0xba of c_ulong;
    /// Pins memory that an encrypted guest uses.
    KVM_MEMORY_ENCRYPT_REG_REGION = request_code_read 0xbb of kvm_enc_region;
    /// Ends what [`KVM_MEMORY_ENCRYPT_REG_REGION`] began.
    KVM_MEMORY_ENCRYPT_UNREG_REGION = request_code_read 0xbc of kvm_enc_region;
    /// Ties an eventfd to a connection of Hyper-V.
    KVM_HYPERV_EVENTFD = request_code_write 0xbd of kvm_hyperv_eventfd;
    /// Reads the state of the virtualization that a guest uses itself.
    KVM_GET_NESTED_STATE = request_code_readwrite 0xbe of kvm_nested_state;
    /// Sets the state of the virtualization that a guest uses itself.
    KVM_SET_NESTED_STATE = request_code_write 0xbf of kvm_nested_state;
    /// Clears bits of the dirty log of a slot, where reading the log leaves them.
    KVM_CLEAR_DIRTY_LOG = request_code_readwrite 0xc0 of kvm_clear_dirty_log;
    /// Lists the CPUID leaves of Hyper-V that KVM supports.
    KVM_GET_SUPPORTED_HV_CPUID = request_code_readwrite 0xc1 of kvm_cpuid2;
    /// Sets which MSRs a guest may access.
    KVM_X86_SET_MSR_FILTER = request_code_write 0xc6 of kvm_msr_filter;
    /// Resets the pages that a program has taken from the dirty rings.
    KVM_RESET_DIRTY_RINGS = request_code_none 0xc7;
    /// Reads an attribute of the VM's emulation of Xen.
    KVM_XEN_HVM_GET_ATTR = request_code_readwrite 0xc8 of kvm_xen_hvm_attr;
    /// Sets an attribute of the VM's emulation of Xen.
    KVM_XEN_HVM_SET_ATTR = request_code_write 0xc9 of kvm_xen_hvm_attr;
    /// Reads an attribute of the vCPU's emulation of Xen.
    KVM_XEN_VCPU_GET_ATTR = request_code_readwrite 0xca of kvm_xen_vcpu_attr;
    /// Sets an attribute of the vCPU's emulation of Xen.
    KVM_XEN_VCPU_SET_ATTR = request_code_write 0xcb of kvm_xen_vcpu_attr;
    /// Reads what [`KVM_GET_SREGS`](crate::KVM_GET_SREGS) reads, and the page directory pointers.
    KVM_GET_SREGS2 = request_code_read 0xcc of kvm_sregs2;
    /// Sets what [`KVM_SET_SREGS`](crate::KVM_SET_SREGS) sets, and the page directory pointers.
    KVM_SET_SREGS2 = request_code_write 0xcd of kvm_sregs2;
    /// Opens a file with statistics.
    KVM_GET_STATS_FD = request_code_none 0xce;
    /// Reads the extended state of the processor, of any size.
    KVM_GET_XSAVE2 = request_code_read 0xcf of kvm_xsave;
    /// Sends an event of Xen.
    KVM_XEN_HVM_EVTCHN_SEND = request_code_write 0xd0 of kvm_irq_routing_xen_evtchn;
    /// Sets whether guest memory is private.
    KVM_SET_MEMORY_ATTRIBUTES = request_code_write 0xd2 of kvm_memory_attributes;
    /// Makes a file of memory that only a guest reaches.
    KVM_CREATE_GUEST_MEMFD = request_code_readwrite 0xd4 of kvm_create_guest_memfd;
    /// Maps guest memory before the guest touches it.
    KVM_PRE_FAULT_MEMORY = request_code_readwrite 0xd5 of kvm_pre_fault_memory;
    /// Makes a device in the kernel.
    KVM_CREATE_DEVICE = request_code_readwrite 0xe0 of kvm_create_device;
    /// Sets an attribute of a device, a vCPU or a VM.
    KVM_SET_DEVICE_ATTR = request_code_write 0xe1 of kvm_device_attr;
    /// Reads an attribute of a device, a vCPU, a VM or KVM.
    KVM_GET_DEVICE_ATTR = request_code_write 0xe2 of kvm_device_attr;
    /// Asks for an attribute of a device, a vCPU, a VM or KVM.
    KVM_HAS_DEVICE_ATTR = request_code_write 0xe3 of kvm_device_attr;
}
