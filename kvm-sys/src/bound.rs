//! The calls that bind vCPUs to tasks and that kick vCPUs. The tables of the other calls
//! list the calls on a bound vCPU, each beside the call that it replaces.

// The kernel's names are kept.
#![allow(non_upper_case_globals)]

use libc::c_long;
use nix::errno::Errno::*;

use crate::call::calls;

calls! {
    /// The calls that bind vCPUs to tasks and that kick vCPUs.
    static BINDING_CALLS;
    /// A call that binds a vCPU to a task, ends a binding, or kicks a vCPU.
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

    /// Makes a vCPU return to user space. The descriptor is the vCPU's, or the pidfd of
    /// the task that the vCPU is bound to.
    kvm_kick: __NR_kvm_kick = 631 ("int fd") on VcpuOrTask {
        errors EBADF ESRCH EIO;
        note "EBADF: neither a vCPU nor a pidfd; ESRCH: the task is gone, or has no bound vCPU";
    }
}
