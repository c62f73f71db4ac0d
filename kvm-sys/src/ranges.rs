//! The calls of the host memory form: guest memory by ranges of addresses.

// The kernel's names are kept.
#![allow(non_upper_case_globals)]

use libc::c_long;
use nix::errno::Errno::*;

use crate::call::calls;
use crate::structs::*;

calls! {
    /// The calls of the host memory form.
    static RANGE_CALLS;
    /// A call of the form of ranges.
    enum RangeCall;

    /// Shows the guest a range of the caller's memory, in place of the memory that it saw
    /// there.
    kvm_map_range: __NR_kvm_map_range = 626 ("int fd, const struct kvm_userspace_memory_region2 *range") on Vm {
        passes kvm_userspace_memory_region2;
        errors EINVAL EBUSY EEXIST ENOSPC ENOMEM;
        note "EBUSY: a slot of another interface is in the way; EEXIST: another slot has a part of the guest_memfd";
    }

    /// Takes a range from the guest.
    kvm_unmap_range: __NR_kvm_unmap_range = 627 ("int fd, unsigned int address_space, __u64 guest_phys_addr, __u64 size") on Vm {
        errors EINVAL EBUSY ENOSPC ENOMEM;
        note "EBUSY: a slot of another interface is in the way";
    }

    /// Fetches the bitmap of the pages of a range that were written, and resets it
    /// unless a flag, or KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 of the virtual machine, says
    /// not to.
    kvm_get_dirty_range: __NR_kvm_get_dirty_range = 628 ("int fd, unsigned int address_space, __u64 guest_phys_addr, __u64 size, void *bitmap, unsigned int flags") on Vm {
        errors EINVAL ENOMEM ENOENT ENXIO;
        note "ENOMEM: there is a hole in the range";
    }

    /// Resets those pages of a range whose bits are set in a bitmap.
    kvm_clear_dirty_range: __NR_kvm_clear_dirty_range = 648 ("int fd, unsigned int address_space, __u64 guest_phys_addr, __u64 size, const void *bitmap") on Vm {
        errors EINVAL ENOMEM ENOENT ENXIO;
        note "ENOMEM: there is a hole in the range";
    }

    /// Changes the flags of a range, whatever memory it shows.
    kvm_protect_range: __NR_kvm_protect_range = 655 ("int fd, unsigned int address_space, __u64 guest_phys_addr, __u64 size, unsigned int flags") on Vm {
        errors EINVAL EBUSY ENOSPC ENOMEM;
        note "ENOMEM: there is a hole in the range; EBUSY: a slot of another interface is in the way";
    }

    /// Sets the attributes of a range: whether its memory is private.
    kvm_set_memory_attributes: __NR_kvm_set_memory_attributes = 656 ("int fd, __u64 guest_phys_addr, __u64 size, __u64 attributes") on Vm {
        errors EINVAL ENOMEM;
    }
}
