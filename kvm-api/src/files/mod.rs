//! The backend that reads and writes the files of a vcpu.
//!
//! To a kernel with the patch series a vcpu's file descriptor is a directory,
//! and the vcpu's state the files in it: `openat(vcpu, "regs", O_RDWR)`, as the
//! proposal has it. What is no state is the system call of
//! [`Syscall`].

mod file;
mod table;
mod vcpu;

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use kvm_sys::*;
use nix::sys::signal::SigSet;

pub use self::file::File;
use self::table::Table;
pub use self::vcpu::Vcpu;
use crate::delegate::delegate;
use crate::syscall::{OpenError, Syscall};
use crate::{Exit, GetState, GuestMemory, Kvm, Result, RunMapping, SetState};

/// KVM over the files of a vcpu, and the system calls for all else.
///
/// It opens a file when that is first used, and keeps it open. It knows a vcpu
/// by the number of its file descriptor, until
/// [`kvm_create_vcpu`](Kvm::kvm_create_vcpu) returns the same number again. So
///
/// * a vcpu and its virtual machine live on while files of it are open: close
///   it by [`close`](Self::close), or drop this value;
/// * a vcpu that was made by other means is welcome, but if its number has been
///   that of another one here, give it to a `Files` that has just been opened,
///   or use [`Vcpu`].
///
/// Where the file descriptor is not a vcpu's, a method that goes through a file
/// fails as openat(2) does: with `ENOTDIR` in place of `ENOTTY` and `EINVAL`.
/// [`kvm_get_msrs`](Kvm::kvm_get_msrs) knows no MSRs but those that
/// [`kvm_get_msr_index_list`](Kvm::kvm_get_msr_index_list) lists, and has no
/// limit, hence no `E2BIG`: a read cannot be told what to read.
pub struct Files {
    calls: Syscall,
    table: Table,
}

impl Files {
    /// Asks the running kernel, once, whether it has the calls, and so the
    /// files.
    ///
    /// # Errors
    ///
    /// When it has not: see [`OpenError`].
    pub fn open() -> std::result::Result<Self, OpenError> {
        Ok(Self {
            calls: Syscall::open()?,
            table: Table::new(),
        })
    }

    /// Closes a vcpu with all its files that are open here.
    pub fn close(&self, vcpu: OwnedFd) {
        // SAFETY: whoever owns it has not lent it.
        unsafe { self.table.forget(vcpu.as_raw_fd()) };
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

impl Kvm for Files {
    delegate! { calls:
        kvm_create_vm kvm_get_msr_index_list kvm_get_vcpu_mmap_size kvm_set_memory_region
        kvm_get_dirty_log kvm_get_memory_alias kvm_run kvm_translate kvm_check_extension
        kvm_set_user_memory_region kvm_set_memory_alias kvm_get_state kvm_set_state
        kvm_map_range kvm_unmap_range kvm_get_dirty_range kvm_clear_dirty_range
        kvm_map_memory
    }

    fn kvm_create_vcpu(&self, vm: BorrowedFd<'_>) -> Result<OwnedFd> {
        let vcpu = self.calls.kvm_create_vcpu(vm)?;
        // SAFETY: the number has just become this vcpu's, so that nobody can
        // have borrowed an older one of that number.
        unsafe { self.table.forget(vcpu.as_raw_fd()) };
        Ok(vcpu)
    }

    #[inline]
    fn kvm_get_regs(&self, vcpu: BorrowedFd<'_>, regs: &mut kvm_regs) -> Result<()> {
        file::get(self.table.file(vcpu, File::Regs)?, regs)
    }

    #[inline]
    fn kvm_set_regs(&self, vcpu: BorrowedFd<'_>, regs: &kvm_regs) -> Result<()> {
        file::set(self.table.file(vcpu, File::Regs)?, regs)
    }

    #[inline]
    fn kvm_get_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &mut kvm_sregs) -> Result<()> {
        file::get(self.table.file(vcpu, File::Sregs)?, sregs)
    }

    #[inline]
    fn kvm_set_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &kvm_sregs) -> Result<()> {
        file::set(self.table.file(vcpu, File::Sregs)?, sregs)
    }

    #[inline]
    fn kvm_interrupt(&self, vcpu: BorrowedFd<'_>, irq: u32) -> Result<()> {
        file::set(self.table.file(vcpu, File::Interrupt)?, &irq)
    }

    #[inline]
    fn kvm_debug_guest(&self, vcpu: BorrowedFd<'_>, debug: &kvm_guest_debug) -> Result<()> {
        file::set(self.table.file(vcpu, File::Debug)?, debug)
    }

    #[inline]
    fn kvm_get_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &mut Msrs) -> Result<usize> {
        file::get_msrs(self.table.file(vcpu, File::Msrs)?, msrs)
    }

    #[inline]
    fn kvm_set_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &Msrs) -> Result<usize> {
        file::set_msrs(self.table.file(vcpu, File::Msrs)?, msrs)
    }

    #[inline]
    fn kvm_set_cpuid(&self, vcpu: BorrowedFd<'_>, cpuid: &CpuId) -> Result<()> {
        file::set_cpuid(self.table.file(vcpu, File::Cpuid)?, cpuid)
    }

    #[inline]
    fn kvm_set_signal_mask(&self, vcpu: BorrowedFd<'_>, mask: Option<&SigSet>) -> Result<()> {
        file::set_signal_mask(self.table.file(vcpu, File::Sigmask)?, mask)
    }

    #[inline]
    fn kvm_get_fpu(&self, vcpu: BorrowedFd<'_>, fpu: &mut kvm_fpu) -> Result<()> {
        file::get(self.table.file(vcpu, File::Fpu)?, fpu)
    }

    #[inline]
    fn kvm_set_fpu(&self, vcpu: BorrowedFd<'_>, fpu: &kvm_fpu) -> Result<()> {
        file::set(self.table.file(vcpu, File::Fpu)?, fpu)
    }
}
