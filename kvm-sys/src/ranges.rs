//! The calls of the host memory form: guest memory by ranges of addresses.

// The kernel's names are kept.
#![allow(non_upper_case_globals)]

use libc::c_long;
use nix::errno::Errno::*;

use crate::call::calls;

calls! {
    /// The calls of the host memory form.
    static RANGE_CALLS;
    /// A call of the form of ranges.
    enum RangeCall;

    /// Shows the guest a range of the caller's memory, in place of the memory that it saw
    /// there.
    kvm_map_range: __NR_kvm_map_range = 626 ("int fd, __u64 guest_phys_addr, __u64 size, __u64 userspace_addr, unsigned int flags") on Vm {
        errors EINVAL EBUSY ENOSPC ENOMEM;
        note "EBUSY: a slot of another interface is in the way";
    }

    /// Takes a range from the guest.
    kvm_unmap_range: __NR_kvm_unmap_range = 627 ("int fd, __u64 guest_phys_addr, __u64 size") on Vm {
        errors EINVAL EBUSY ENOSPC ENOMEM;
        note "EBUSY: a slot of another interface is in the way";
    }

    /// Fetches the bitmap of the pages of a range that were written, and resets it
    /// unless the virtual machine has KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
    kvm_get_dirty_range: __NR_kvm_get_dirty_range = 628 ("int fd, __u64 guest_phys_addr, __u64 size, void *bitmap") on Vm {
        errors EINVAL ENOMEM ENOENT ENXIO;
        note "ENOMEM: there is a hole in the range";
    }

    /// Resets those pages of a range whose bits are set in a bitmap.
    kvm_clear_dirty_range: __NR_kvm_clear_dirty_range = 648 ("int fd, __u64 guest_phys_addr, __u64 size, const void *bitmap") on Vm {
        errors EINVAL ENOMEM ENOENT ENXIO;
        note "ENOMEM: there is a hole in the range";
    }
}
