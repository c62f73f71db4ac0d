//! A vCPU that is made to return to user space, in every form that runs vCPUs.

use std::os::fd::BorrowedFd;

use kvm_sys::__NR_kvm_kick;
use kvm_sys::instruction::syscall1;

use crate::Result;
use crate::syscall::Syscall;
use crate::syscall::conv::{done, fd};

/// Makes a vCPU return from [`kvm_run`](crate::Vcpu::kvm_run), by system call or ioctl,
/// with `EINTR`. If the vCPU does not run, the next attempt to run it returns so, once:
/// no kick is lost. Several kicks that no run has taken count as one.
///
/// `target` is the descriptor of the vCPU. It may also be the pidfd of a thread, see
/// pidfd_open(2), to which the vCPU is bound. Either way the kick is the vCPU's, and
/// stays with it when the vCPU is bound or unbound.
///
/// No ioctl does this. With ioctls, a program sends the thread of the vCPU a signal, and
/// sets [`immediate_exit`](crate::RunMapping::set_immediate_exit) in case the signal
/// comes too early.
///
/// # Errors
///
/// `EBADF` when the descriptor is neither a vCPU's nor a pidfd; `ESRCH` when the thread
/// has ended or has no bound vCPU; `EIO` when the vCPU belongs to another process, or its
/// VM is dead.
pub fn kick(_: Syscall, target: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the call touches no memory.
    done(unsafe { syscall1(__NR_kvm_kick, fd(target)) })
}
