//! The calls that bind VMs to address spaces, and those that need no descriptor then. The
//! calls on a bound VM are those on any VM, with [`KVM_BOUND_VM`].

// The kernel's names are kept.
#![allow(non_upper_case_globals)]

use libc::{c_int, c_long};
use nix::errno::Errno::*;

use crate::call::calls;

/// The VM that is bound to the caller's address space, where a call takes the descriptor
/// of a VM.
pub const KVM_BOUND_VM: c_int = -20717;

calls! {
    /// The calls that bind VMs to address spaces, and that need no descriptor.
    static PROCESS_CALLS;
    /// A call that binds a VM to an address space, or needs no descriptor.
    enum ProcessCall;

    /// Binds a virtual machine to the caller's address space.
    kvm_bind_vm: __NR_kvm_bind_vm = 649 ("int fd") on Vm {
        errors EEXIST;
        note "EEXIST: the address space has one";
    }

    /// Unbinds the virtual machine of the caller's address space.
    kvm_unbind_vm: __NR_kvm_unbind_vm = 650 ("void") on None {
        errors ENXIO;
    }

    /// Makes a virtual machine that is bound to the caller's address space, without a
    /// descriptor.
    kvm_create_bound_vm: __NR_kvm_create_bound_vm = 651 ("void") on None {
        errors EEXIST EACCES ENODEV ENOENT EPERM ENOMEM ENFILE;
        note "EEXIST: the address space has one; the others as kvm_create_vm";
    }

    /// Maps memory that kvm_set_memory_region has given to the guest, and returns its
    /// address.
    kvm_map_memory: __NR_kvm_map_memory = 652 ("int fd, __u64 guest_phys_addr, size_t size") on Vm {
        errors EINVAL ENODEV ENOMEM;
        note "as mmap() of the descriptor";
    }

    /// Makes a vCPU of the virtual machine that is bound to the caller's address space,
    /// and binds it to the calling task, without a descriptor.
    kvm_create_bound_vcpu: __NR_kvm_create_bound_vcpu = 653 ("void") on None {
        errors EBADF EEXIST EIO EINVAL ENOMEM ENFILE;
        note "EBADF: the address space has no virtual machine; EEXIST: the task has a bound vCPU";
    }

    /// Maps the run mapping of the bound vCPU, and returns its address.
    kvm_bound_mmap: __NR_kvm_bound_mmap = 654 ("void") on None {
        errors ENXIO ENOMEM;
    }
}
