//! The table of the flat calls: one row for each, in the order of the proposal. The
//! numbers, the request codes, [`CALLS`] and [`FlatCall`] come from these rows. The
//! calls of the other forms have tables of the same kind beside this one.

// The kernel's names are kept.
#![allow(non_upper_case_globals)]

use libc::{c_long, c_ulong};
use nix::errno::Errno::*;
use nix::{request_code_none, request_code_read, request_code_readwrite, request_code_write};

use crate::call::calls;
use crate::ranges::{__NR_kvm_get_dirty_range, __NR_kvm_map_range};
use crate::state::*;
use crate::structs::*;

calls! {
    /// Every flat call, in the order of the proposal.
    static CALLS;
    /// A flat call.
    enum FlatCall;

    /// Makes a virtual machine with neither memory nor vCPUs.
    kvm_create_vm: __NR_kvm_create_vm = 600 ("void") on None {
        ioctl KVM_CREATE_VM = request_code_none 0x01;
        errors EACCES ENODEV ENOENT EPERM ENOMEM EMFILE ENFILE;
        note "opens /dev/kvm itself: EACCES, ENODEV, ENOENT, EPERM, and whatever else open() gives";
    }

    /// Lists the MSRs that KVM saves and restores.
    kvm_get_msr_index_list: __NR_kvm_get_msr_index_list = 601 ("int fd, struct kvm_msr_list *list") on System {
        ioctl KVM_GET_MSR_INDEX_LIST = request_code_readwrite 0x02 of kvm_msr_list;
        errors E2BIG;
    }

    /// The size of a vCPU's run mapping in bytes.
    kvm_get_vcpu_mmap_size: __NR_kvm_get_vcpu_mmap_size = 602 ("int fd") on System {
        ioctl KVM_GET_VCPU_MMAP_SIZE = request_code_none 0x04;
    }

    /// Gives the guest memory that the kernel allocates.
    kvm_set_memory_region: __NR_kvm_set_memory_region = 603 ("int fd, unsigned int slot, unsigned int flags, __u64 guest_phys_addr, __u64 size") on Vm {
        removed KVM_SET_MEMORY_REGION;
        errors EINVAL EEXIST EBUSY ENOMEM;
        note "over ioctl: KVM_SET_USER_MEMORY_REGION over a memfd of the backend";
    }

    /// Makes a vCPU with the lowest id not in use.
    kvm_create_vcpu: __NR_kvm_create_vcpu = 604 ("int fd") on Vm {
        ioctl KVM_CREATE_VCPU = request_code_none 0x41;
        errors EINVAL ENOMEM EMFILE ENFILE;
        note "the ioctl takes the id";
    }

    /// Fetches and resets the bitmap of the pages that were written.
    kvm_get_dirty_log: __NR_kvm_get_dirty_log = 605 ("int fd, unsigned int slot, void *dirty_bitmap") on Vm {
        range __NR_kvm_get_dirty_range;
        ioctl KVM_GET_DIRTY_LOG = request_code_write 0x42 of kvm_dirty_log;
        errors EINVAL ENOENT ENXIO;
    }

    /// Reads back an alias.
    kvm_get_memory_alias: __NR_kvm_get_memory_alias = 606 ("int fd, struct kvm_memory_alias *alias") on Vm {
        range __NR_kvm_map_range;
        removed KVM_SET_MEMORY_ALIAS;
        passes kvm_memory_alias;
        errors EINVAL;
        note "2007 had the setting side only; over ioctl: the backend's own record";
    }

    /// Runs the guest until it exits.
    kvm_run: __NR_kvm_run = 607 ("int fd") on Vcpu {
        bound __NR_kvm_bound_run = 632;
        ioctl KVM_RUN = request_code_none 0x80;
        errors EINTR EAGAIN EFAULT EINVAL ENOMEM;
    }

    /// Reads the general registers.
    kvm_get_regs: __NR_kvm_get_regs = 608 ("int fd, struct kvm_regs *regs") on Vcpu {
        bound __NR_kvm_bound_get_regs = 633;
        merged KVM_STATE_REGS;
        file c"regs";
        ioctl KVM_GET_REGS = request_code_read 0x81 of kvm_regs;
    }

    /// Sets the general registers.
    kvm_set_regs: __NR_kvm_set_regs = 609 ("int fd, const struct kvm_regs *regs") on Vcpu {
        bound __NR_kvm_bound_set_regs = 634;
        merged KVM_STATE_REGS;
        file c"regs";
        ioctl KVM_SET_REGS = request_code_write 0x82 of kvm_regs;
    }

    /// Reads the segment, descriptor table and control registers.
    kvm_get_sregs: __NR_kvm_get_sregs = 610 ("int fd, struct kvm_sregs *sregs") on Vcpu {
        bound __NR_kvm_bound_get_sregs = 635;
        merged KVM_STATE_SREGS;
        file c"sregs";
        ioctl KVM_GET_SREGS = request_code_read 0x83 of kvm_sregs;
    }

    /// Sets the segment, descriptor table and control registers.
    kvm_set_sregs: __NR_kvm_set_sregs = 611 ("int fd, const struct kvm_sregs *sregs") on Vcpu {
        bound __NR_kvm_bound_set_sregs = 636;
        merged KVM_STATE_SREGS;
        file c"sregs";
        ioctl KVM_SET_SREGS = request_code_write 0x84 of kvm_sregs;
        errors EINVAL;
    }

    /// Walks the guest's page tables.
    kvm_translate: __NR_kvm_translate = 612 ("int fd, __u64 linear_address, __u64 *physical_address, __u8 *valid, __u8 *writeable, __u8 *usermode") on Vcpu {
        bound __NR_kvm_bound_translate = 637;
        ioctl KVM_TRANSLATE = request_code_readwrite 0x85 of kvm_translation;
    }

    /// Queues an interrupt.
    kvm_interrupt: __NR_kvm_interrupt = 613 ("int fd, __u32 irq") on Vcpu {
        bound __NR_kvm_bound_interrupt = 638;
        file c"interrupt";
        ioctl KVM_INTERRUPT = request_code_write 0x86 of kvm_interrupt;
        errors EINVAL ENXIO EEXIST;
    }

    /// Sets breakpoints and single-stepping.
    kvm_debug_guest: __NR_kvm_debug_guest = 614 ("int fd, const struct kvm_guest_debug *debug") on Vcpu {
        bound __NR_kvm_bound_debug_guest = 639;
        file c"debug";
        ioctl KVM_SET_GUEST_DEBUG = request_code_write 0x9b of kvm_guest_debug;
        errors EBUSY EINVAL;
        note "was KVM_DEBUG_GUEST; KVM_SET_GUEST_DEBUG replaced it";
    }

    /// Reads model-specific registers.
    kvm_get_msrs: __NR_kvm_get_msrs = 615 ("int fd, struct kvm_msrs *msrs") on Vcpu {
        bound __NR_kvm_bound_get_msrs = 640;
        merged KVM_STATE_MSRS;
        file c"chosen_msrs";
        ioctl KVM_GET_MSRS = request_code_readwrite 0x88 of kvm_msrs;
        errors E2BIG;
    }

    /// Sets model-specific registers.
    kvm_set_msrs: __NR_kvm_set_msrs = 616 ("int fd, const struct kvm_msrs *msrs") on Vcpu {
        bound __NR_kvm_bound_set_msrs = 641;
        merged KVM_STATE_MSRS;
        file c"msrs";
        ioctl KVM_SET_MSRS = request_code_write 0x89 of kvm_msrs;
        errors E2BIG;
    }

    /// Sets the results of the guest's CPUID instruction.
    kvm_set_cpuid: __NR_kvm_set_cpuid = 617 ("int fd, const struct kvm_cpuid2 *cpuid") on Vcpu {
        bound __NR_kvm_bound_set_cpuid = 642;
        file c"cpuid";
        ioctl KVM_SET_CPUID2 = request_code_write 0x90 of kvm_cpuid2;
        errors E2BIG EINVAL;
        note "was KVM_SET_CPUID, which has no subleaves; KVM_SET_CPUID2 replaced it";
    }

    /// Sets which signals are blocked while the guest runs.
    kvm_set_signal_mask: __NR_kvm_set_signal_mask = 618 ("int fd, const struct kvm_signal_mask *mask") on Vcpu {
        bound __NR_kvm_bound_set_signal_mask = 643;
        file c"sigmask";
        ioctl KVM_SET_SIGNAL_MASK = request_code_write 0x8b of kvm_signal_mask;
        errors EINVAL;
        note "NULL clears";
    }

    /// Reads the floating point and SSE registers.
    kvm_get_fpu: __NR_kvm_get_fpu = 619 ("int fd, struct kvm_fpu *fpu") on Vcpu {
        bound __NR_kvm_bound_get_fpu = 644;
        merged KVM_STATE_FPU;
        file c"fpu";
        ioctl KVM_GET_FPU = request_code_read 0x8c of kvm_fpu;
    }

    /// Sets the floating point and SSE registers.
    kvm_set_fpu: __NR_kvm_set_fpu = 620 ("int fd, const struct kvm_fpu *fpu") on Vcpu {
        bound __NR_kvm_bound_set_fpu = 645;
        merged KVM_STATE_FPU;
        file c"fpu";
        ioctl KVM_SET_FPU = request_code_write 0x8d of kvm_fpu;
    }

    /// Asks for a capability of KVM.
    kvm_check_extension: __NR_kvm_check_extension = 621 ("int fd, unsigned long extension") on System {
        ioctl KVM_CHECK_EXTENSION = request_code_none 0x03;
        note "fd -1 asks KVM itself";
    }

    /// Gives the guest a range of the caller's memory.
    kvm_set_user_memory_region: __NR_kvm_set_user_memory_region = 622 ("int fd, unsigned int slot, unsigned int flags, __u64 guest_phys_addr, __u64 size, __u64 userspace_addr") on Vm {
        range __NR_kvm_map_range;
        ioctl KVM_SET_USER_MEMORY_REGION = request_code_write 0x46 of kvm_userspace_memory_region;
        errors EINVAL EEXIST ENOMEM;
    }

    /// Shows the guest a range of its memory a second time.
    kvm_set_memory_alias: __NR_kvm_set_memory_alias = 623 ("int fd, const struct kvm_memory_alias *alias") on Vm {
        range __NR_kvm_map_range;
        removed KVM_SET_MEMORY_ALIAS;
        passes kvm_memory_alias;
        errors EINVAL EEXIST ENOMEM;
        note "over ioctl: a second memory slot over the same host memory";
    }
}
