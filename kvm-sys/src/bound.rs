//! The calls that bind vCPUs to tasks. The tables of the other calls list the calls on a
//! bound vCPU, each beside the call that it replaces.

// The kernel's names are kept.
#![allow(non_upper_case_globals)]

use libc::c_long;
use nix::errno::Errno::*;

use crate::call::calls;

calls! {
    /// The calls that bind vCPUs to tasks.
    static BINDING_CALLS;
    /// A call that binds a vCPU to a task, or concerns a binding.
    enum BindingCall;

    /// Binds a vCPU to the calling task.
    kvm_bind: __NR_kvm_bind = 629 ("int fd") on Vcpu {
        errors EEXIST EBUSY ENOMEM;
        note "EEXIST: the task has one; EBUSY: it is another task's";
    }

    /// Unbinds the calling task's vCPU.
    kvm_unbind: __NR_kvm_unbind = 630 ("void") on None {
        errors ENXIO;
    }

    /// Has the vCPU that is bound to another task return to user space.
    kvm_kick: __NR_kvm_kick = 631 ("int pidfd") on None {
        errors EBADF ESRCH EIO;
        note "EBADF: it is no pidfd; ESRCH: its task is gone, or has no bound vCPU";
    }
}
