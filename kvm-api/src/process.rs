//! The process form: a VM is bound to the address space of the process, and its vCPUs to
//! threads, so that no call takes a file descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kvm_sys::instruction::*;
use kvm_sys::{
    __NR_kvm_bind, __NR_kvm_bind_vm, __NR_kvm_bound_mmap, __NR_kvm_create_bound_vcpu,
    __NR_kvm_create_bound_vm, __NR_kvm_unbind_vm, KVM_BOUND_VM,
};

use crate::bound::BoundVcpu;
use crate::syscall::Syscall;
use crate::syscall::conv::{done, fd, number};
use crate::{GuestMemory, Kvm, Result, RunMapping};

/// The VM that is bound to the address space of this process. A drop unbinds it.
///
/// Each call of [`Kvm`] on a VM takes [`as_fd`](AsFd::as_fd) of this value. That is no
/// descriptor of the process but a number that the kernel takes in place of one, as it
/// takes `AT_FDCWD`: other calls, also ioctls, fail with `EBADF`.
///
/// The VM belongs to all threads of the process, and to processes that clone(2) has made
/// with `CLONE_VM`. A child after fork(2) has no VM.
#[derive(Debug)]
pub struct BoundVm {
    flat: Syscall,
}

/// The file descriptor of a vCPU that has none: each call on it fails with `EBADF`.
#[derive(Clone, Copy, Debug)]
pub struct NoFd;

impl BoundVm {
    // SAFETY: nothing can close the number, because the process has no such descriptor.
    const NUMBER: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(KVM_BOUND_VM) };

    /// Makes a VM that is bound to the address space of this process. It never has a file
    /// descriptor.
    ///
    /// # Errors
    ///
    /// `EEXIST` when the address space has a VM, and the errors of
    /// [`Kvm::kvm_create_vm`] except `EMFILE`.
    pub fn create(flat: Syscall) -> Result<Self> {
        // SAFETY: the call touches no memory.
        done(unsafe { syscall0(__NR_kvm_create_bound_vm) })?;
        Ok(Self { flat })
    }

    /// Binds a VM to the address space of this process. Its file descriptor can be closed
    /// then.
    ///
    /// # Errors
    ///
    /// `EEXIST` when the address space has a VM, and the errors of [`Kvm`]
    /// for a descriptor that is no VM's.
    pub fn bind(flat: Syscall, vm: BorrowedFd<'_>) -> Result<Self> {
        // SAFETY: the call touches no memory.
        done(unsafe { syscall1(__NR_kvm_bind_vm, fd(vm)) })?;
        Ok(Self { flat })
    }

    /// Makes a vCPU with the lowest free id, bound to this thread and without a file
    /// descriptor. A vCPU that is dropped can't be used again: it stays in the VM until
    /// the VM ends.
    ///
    /// # Errors
    ///
    /// `EEXIST` when this thread has a bound vCPU; `EINVAL` if the VM cannot have more
    /// vCPUs; `ENFILE`.
    pub fn create_vcpu(&self) -> Result<BoundVcpu<NoFd>> {
        // SAFETY: the call touches no memory.
        done(unsafe { syscall0(__NR_kvm_create_bound_vcpu) })?;
        Ok(BoundVcpu::of_thread(self.flat, NoFd))
    }

    /// Maps what a vCPU of this thread shares with user space.
    ///
    /// # Errors
    ///
    /// Those of mmap(2).
    pub fn map_run(&self, _: &BoundVcpu<NoFd>) -> Result<RunMapping> {
        let size = self.flat.kvm_get_vcpu_mmap_size(self.as_fd())?;
        // SAFETY: the call makes a new mapping.
        let address = number(unsafe { syscall0(__NR_kvm_bound_mmap) })?;
        // SAFETY: it has this size, and nothing else refers to it.
        let mapping = unsafe { GuestMemory::of_mapping(address, size) };
        Ok(RunMapping::of(mapping))
    }
}

impl BoundVcpu<NoFd> {
    /// Binds a vCPU to this thread, and closes its file descriptor.
    ///
    /// # Errors
    ///
    /// Those of [`BoundVcpu::bind`].
    pub fn bind_and_close(flat: Syscall, vcpu: OwnedFd) -> Result<Self> {
        // SAFETY: the call touches no memory.
        done(unsafe { syscall1(__NR_kvm_bind, fd(vcpu.as_fd())) })?;
        Ok(Self::of_thread(flat, NoFd))
    }
}

impl AsFd for BoundVm {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        Self::NUMBER
    }
}

impl AsFd for NoFd {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // No call on a vCPU takes the number.
        BoundVm::NUMBER
    }
}

impl Drop for BoundVm {
    fn drop(&mut self) {
        // SAFETY: the call touches no memory. It fails only where nothing is bound.
        unsafe { syscall0(__NR_kvm_unbind_vm) };
    }
}
