//! The form of files: a program reads and writes the files of a vCPU.
//!
//! On a kernel with the patch series, the file descriptor of a vCPU is a directory, whose
//! files are the state of the vCPU: `openat(vcpu, "regs", O_RDWR)`, as in the proposal.
//! The system calls of [`Syscall`] do all other work.

mod file;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use kvm_sys::*;
use nix::sys::signal::SigSet;

pub use self::file::{File, Part, Structure};
use crate::syscall::Syscall;
use crate::{Kvm, Result, Vcpu};

/// A vCPU and its files, all of which are open.
///
/// The files keep the vCPU and its virtual machine, even when the file descriptor of the
/// vCPU is closed.
///
/// [`kvm_get_msrs`](Vcpu::kvm_get_msrs) writes the indices into a file before it reads the
/// MSRs from there, unless they are those of the time before.
#[derive(Debug)]
pub struct FileVcpu<F> {
    flat: Syscall,
    fd: F,
    files: [OwnedFd; File::ALL.len()],
    /// The MSRs that were chosen last.
    chosen_msrs: Mutex<Option<Vec<u32>>>,
}

impl<F: AsFd> FileVcpu<F> {
    /// Opens the files of `vcpu`.
    ///
    /// # Errors
    ///
    /// Those of [`File::open`].
    pub fn open(flat: Syscall, vcpu: F) -> Result<Self> {
        let mut files = Vec::with_capacity(File::ALL.len());
        for file in File::ALL {
            files.push(file.open(vcpu.as_fd())?);
        }
        Ok(Self {
            flat,
            fd: vcpu,
            files: files.try_into().expect("one for each"),
            chosen_msrs: Mutex::default(),
        })
    }

    /// Reads all MSRs that the vCPU has, of those that KVM saves and restores.
    ///
    /// # Errors
    ///
    /// Those of read(2).
    pub fn kvm_get_all_msrs(&self) -> Result<Msrs> {
        file::get_all_msrs(self.file(File::Msrs))
    }

    /// Reads a part of the state that the proposal has no call for, for example a
    /// [`kvm_xcrs`].
    ///
    /// # Errors
    ///
    /// Those of read(2), and of the ioctl of the part.
    pub fn get<P: Part>(&self, part: &mut P) -> Result<()> {
        file::get(self.file(P::FILE), part)
    }

    /// Sets a part of the state that the proposal has no call for.
    ///
    /// # Errors
    ///
    /// Those of write(2), and of the ioctl of the part.
    pub fn set<P: Part>(&self, part: &P) -> Result<()> {
        file::set(self.file(P::FILE), part)
    }

    /// Reads the extended state of the processor. Its size is that of the file.
    ///
    /// # Errors
    ///
    /// Those of read(2).
    pub fn get_xsave(&self, bytes: &mut [u8]) -> Result<()> {
        file::get_xsave(self.file(File::Xsave), bytes)
    }

    /// Sets the extended state of the processor. Its size is that of the file.
    ///
    /// # Errors
    ///
    /// Those of write(2), and of `KVM_SET_XSAVE`.
    pub fn set_xsave(&self, bytes: &[u8]) -> Result<()> {
        file::set_xsave(self.file(File::Xsave), bytes)
    }

    /// Reads the results of the CPUID instruction of the guest.
    ///
    /// # Errors
    ///
    /// Those of read(2).
    pub fn kvm_get_cpuid(&self) -> Result<CpuId> {
        file::get_cpuid(self.file(File::Cpuid))
    }
}

impl<F> FileVcpu<F> {
    /// One of the files, for example for io_uring.
    #[must_use]
    #[inline]
    pub fn file(&self, file: File) -> BorrowedFd<'_> {
        self.files[file as usize].as_fd()
    }
}

impl<F: AsFd> AsFd for FileVcpu<F> {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: AsFd> Vcpu for FileVcpu<F> {
    #[inline]
    fn flat(&self) -> &dyn Kvm {
        &self.flat
    }

    #[inline]
    fn kvm_get_regs(&self, regs: &mut kvm_regs) -> Result<()> {
        file::get(self.file(File::Regs), regs)
    }

    #[inline]
    fn kvm_set_regs(&self, regs: &kvm_regs) -> Result<()> {
        file::set(self.file(File::Regs), regs)
    }

    #[inline]
    fn kvm_get_sregs(&self, sregs: &mut kvm_sregs) -> Result<()> {
        file::get(self.file(File::Sregs), sregs)
    }

    #[inline]
    fn kvm_set_sregs(&self, sregs: &kvm_sregs) -> Result<()> {
        file::set(self.file(File::Sregs), sregs)
    }

    #[inline]
    fn kvm_interrupt(&self, irq: u32) -> Result<()> {
        file::set(self.file(File::Interrupt), &irq)
    }

    #[inline]
    fn kvm_debug_guest(&self, debug: &kvm_guest_debug) -> Result<()> {
        file::set(self.file(File::Debug), debug)
    }

    #[inline]
    fn kvm_get_msrs(&self, msrs: &mut Msrs) -> Result<usize> {
        // A panic in between leaves a choice that is not noted, which is made again.
        let chosen = self.chosen_msrs.lock();
        let mut chosen = chosen.unwrap_or_else(PoisonError::into_inner);
        file::get_msrs(self.file(File::ChosenMsrs), msrs, &mut chosen)
    }

    #[inline]
    fn kvm_set_msrs(&self, msrs: &Msrs) -> Result<usize> {
        file::set_msrs(self.file(File::Msrs), msrs)
    }

    #[inline]
    fn kvm_set_cpuid(&self, cpuid: &CpuId) -> Result<()> {
        file::set_cpuid(self.file(File::Cpuid), cpuid)
    }

    #[inline]
    fn kvm_set_signal_mask(&self, mask: Option<&SigSet>) -> Result<()> {
        file::set_signal_mask(self.file(File::Sigmask), mask)
    }

    #[inline]
    fn kvm_get_fpu(&self, fpu: &mut kvm_fpu) -> Result<()> {
        file::get(self.file(File::Fpu), fpu)
    }

    #[inline]
    fn kvm_set_fpu(&self, fpu: &kvm_fpu) -> Result<()> {
        file::set(self.file(File::Fpu), fpu)
    }
}
