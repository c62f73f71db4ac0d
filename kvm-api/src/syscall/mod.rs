//! The backend that makes the system calls of a patched kernel.
//!
//! A method moves the arguments into registers, executes the `syscall` instruction, and
//! tests the sign of the result.

pub(crate) mod conv;
pub(crate) mod vcpu;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr;

use kvm_sys::*;
use nix::sys::signal::SigSet;
use nix::sys::utsname::uname;

use self::conv::{descriptor, done, fd, input, number, output};
use self::vcpu::{flat, syscall, vcpu_calls};
use crate::signal::signal_mask;
use crate::{Errno, Exit, GuestMemory, Kvm, Result, RunMapping, msr_list};
use kvm_sys::instruction::*;

/// KVM over the system calls of a patched kernel.
#[derive(Clone, Copy, Debug)]
pub struct Syscall(());

/// The reason why the system calls of the running kernel cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel lacks the calls, or KVM has not registered them.
    #[error(
        "Linux {release} has no KVM system calls, or kvm is not loaded: boot a kernel with the \
         series of kernel-patch/, and load kvm with kvm-amd or kvm-intel"
    )]
    Missing {
        /// The release of the running kernel.
        release: String,
    },
    /// The number belongs to another call, or to another revision of the ABI.
    #[error(
        "system call {number} of Linux {release} returned {answer}, not {KVM_SYSCALLS_ABI}: the \
         number belongs to another call, or to another revision of the ABI; boot a kernel with \
         the series of kernel-patch/",
        number = __NR_kvm_check_extension
    )]
    Foreign {
        /// The release of the running kernel.
        release: String,
        /// The result; an errno is negative.
        answer: isize,
    },
}

impl Syscall {
    /// Asks the running kernel once whether it has this revision of the calls.
    ///
    /// The probe does no harm if its number belongs to another call: the file descriptor
    /// is -1, and the registers behind its arguments are 0.
    ///
    /// # Errors
    ///
    /// If the kernel lacks the calls, or has another revision of them.
    pub fn open() -> std::result::Result<Self, OpenError> {
        let number = __NR_kvm_check_extension;
        let extension = KVM_CAP_SYSCALLS as usize;
        // SAFETY: the arguments are no descriptor, a number, and 0, so no call has an
        // address to write to.
        let answer = unsafe { syscall6(number, -1_isize as usize, extension, 0, 0, 0, 0) };
        if answer == KVM_SYSCALLS_ABI as isize {
            return Ok(Self(()));
        }
        let release = uname().map_or_else(
            |error| error.to_string(),
            |name| name.release().to_string_lossy().into_owned(),
        );
        Err(if answer == -(Errno::ENOSYS as isize) {
            OpenError::Missing { release }
        } else {
            OpenError::Foreign { release, answer }
        })
    }
}

// Each call has a number that belongs to KVM, as the probe in `open` has shown, and takes
// the arguments that the table of kvm-sys lists.
impl Kvm for Syscall {
    #[inline]
    fn kvm_create_vm(&self) -> Result<OwnedFd> {
        // SAFETY: the call touches no memory, and gives a new file descriptor.
        unsafe { descriptor(syscall0(__NR_kvm_create_vm)) }
    }

    #[inline]
    fn kvm_get_msr_index_list(&self, kvm: BorrowedFd<'_>, list: &mut MsrList) -> Result<()> {
        msr_list::fill(list, |list| {
            // SAFETY: the kernel writes the header, and no more elements than
            // it says that there are.
            done(unsafe { syscall2(__NR_kvm_get_msr_index_list, fd(kvm), output(list)) })
        })
    }

    #[inline]
    fn kvm_get_vcpu_mmap_size(&self, kvm: BorrowedFd<'_>) -> Result<usize> {
        // SAFETY: the call touches no memory.
        number(unsafe { syscall1(__NR_kvm_get_vcpu_mmap_size, fd(kvm)) })
    }

    #[inline]
    fn kvm_set_memory_region(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
    ) -> Result<()> {
        let (slot, flags) = (slot as usize, flags as usize);
        let (guest_phys_addr, size) = (guest_phys_addr as usize, size as usize);
        // SAFETY: the memory that the guest gets is the kernel's own.
        done(unsafe {
            syscall5(
                __NR_kvm_set_memory_region,
                fd(vm),
                slot,
                flags,
                guest_phys_addr,
                size,
            )
        })
    }

    #[inline]
    fn kvm_create_vcpu(&self, vm: BorrowedFd<'_>) -> Result<OwnedFd> {
        // SAFETY: the call touches no memory, and gives a new file descriptor.
        unsafe { descriptor(syscall1(__NR_kvm_create_vcpu, fd(vm))) }
    }

    #[inline]
    unsafe fn kvm_get_dirty_log(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        dirty_bitmap: &mut [u64],
    ) -> Result<()> {
        let bitmap = output(dirty_bitmap.as_mut_ptr());
        // SAFETY: the caller says that the bitmap is as long as the slot's.
        done(unsafe { syscall3(__NR_kvm_get_dirty_log, fd(vm), slot as usize, bitmap) })
    }

    #[inline]
    fn kvm_get_memory_alias(&self, vm: BorrowedFd<'_>, alias: &mut kvm_memory_alias) -> Result<()> {
        // SAFETY: the kernel reads and writes one such structure.
        done(unsafe { syscall2(__NR_kvm_get_memory_alias, fd(vm), output(alias)) })
    }

    vcpu_calls!(flat, vcpu);

    #[inline]
    fn kvm_check_extension(&self, kvm: BorrowedFd<'_>, extension: u32) -> Result<i32> {
        // SAFETY: the call touches no memory.
        let answer = unsafe { syscall2(__NR_kvm_check_extension, fd(kvm), extension as usize) };
        number(answer).map(|answer| answer as i32)
    }

    #[inline]
    unsafe fn kvm_set_user_memory_region(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
        userspace_addr: u64,
    ) -> Result<()> {
        // SAFETY: the caller answers for the memory.
        done(unsafe {
            syscall6(
                __NR_kvm_set_user_memory_region,
                fd(vm),
                slot as usize,
                flags as usize,
                guest_phys_addr as usize,
                size as usize,
                userspace_addr as usize,
            )
        })
    }

    #[inline]
    fn kvm_set_memory_alias(&self, vm: BorrowedFd<'_>, alias: &kvm_memory_alias) -> Result<()> {
        // SAFETY: the kernel reads one such structure; the memory that the
        // alias shows is the guest's already.
        done(unsafe { syscall2(__NR_kvm_set_memory_alias, fd(vm), input(alias)) })
    }

    fn kvm_map_memory(
        &self,
        vm: BorrowedFd<'_>,
        guest_phys_addr: u64,
        size: usize,
    ) -> Result<GuestMemory> {
        // SAFETY: the call makes a new mapping.
        let answer =
            unsafe { syscall3(__NR_kvm_map_memory, fd(vm), guest_phys_addr as usize, size) };
        let address = number(answer)?;
        // SAFETY: it has this size, and nothing else refers to it.
        Ok(unsafe { GuestMemory::of_mapping(address, size) })
    }
}
