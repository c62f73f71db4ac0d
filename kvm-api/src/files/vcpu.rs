//! A vcpu whose files the program keeps itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kvm_sys::{CpuId, Msrs, kvm_fpu, kvm_guest_debug, kvm_regs, kvm_sregs};
use nix::sys::signal::SigSet;

use super::file::{self, File};
use crate::Result;

/// The files of one vcpu, all of them open.
///
/// They keep the vcpu and its virtual machine, even when the vcpu's own file
/// descriptor is closed. The methods do what those of [`Kvm`](crate::Kvm) with
/// the same name do, and fail as they do.
#[derive(Debug)]
pub struct Vcpu {
    files: [OwnedFd; File::ALL.len()],
}

impl Vcpu {
    /// Opens the files of `vcpu`.
    ///
    /// # Errors
    ///
    /// Those of [`File::open`].
    pub fn open(vcpu: BorrowedFd<'_>) -> Result<Self> {
        let mut files = Vec::with_capacity(File::ALL.len());
        for file in File::ALL {
            files.push(file.open(vcpu)?);
        }
        Ok(Self {
            files: files.try_into().expect("one for each"),
        })
    }

    /// One of the files, e.g. to hand over to io_uring.
    #[must_use]
    #[inline]
    pub fn file(&self, file: File) -> BorrowedFd<'_> {
        self.files[file as usize].as_fd()
    }

    /// Reads the general registers.
    #[inline]
    pub fn kvm_get_regs(&self, regs: &mut kvm_regs) -> Result<()> {
        file::get(self.file(File::Regs), regs)
    }

    /// Sets the general registers.
    #[inline]
    pub fn kvm_set_regs(&self, regs: &kvm_regs) -> Result<()> {
        file::set(self.file(File::Regs), regs)
    }

    /// Reads the segment, descriptor table and control registers.
    #[inline]
    pub fn kvm_get_sregs(&self, sregs: &mut kvm_sregs) -> Result<()> {
        file::get(self.file(File::Sregs), sregs)
    }

    /// Sets the segment, descriptor table and control registers.
    #[inline]
    pub fn kvm_set_sregs(&self, sregs: &kvm_sregs) -> Result<()> {
        file::set(self.file(File::Sregs), sregs)
    }

    /// Queues an interrupt.
    #[inline]
    pub fn kvm_interrupt(&self, irq: u32) -> Result<()> {
        file::set(self.file(File::Interrupt), &irq)
    }

    /// Sets breakpoints and single-stepping.
    #[inline]
    pub fn kvm_debug_guest(&self, debug: &kvm_guest_debug) -> Result<()> {
        file::set(self.file(File::Debug), debug)
    }

    /// Reads all MSRs that the vcpu has, of those that KVM saves and restores.
    pub fn kvm_get_all_msrs(&self) -> Result<Msrs> {
        file::get_all_msrs(self.file(File::Msrs))
    }

    /// Sets model-specific registers.
    pub fn kvm_set_msrs(&self, msrs: &Msrs) -> Result<usize> {
        file::set_msrs(self.file(File::Msrs), msrs)
    }

    /// Reads what the guest's CPUID instruction answers.
    pub fn kvm_get_cpuid(&self) -> Result<CpuId> {
        file::get_cpuid(self.file(File::Cpuid))
    }

    /// Sets what the guest's CPUID instruction answers.
    pub fn kvm_set_cpuid(&self, cpuid: &CpuId) -> Result<()> {
        file::set_cpuid(self.file(File::Cpuid), cpuid)
    }

    /// Sets which signals are blocked while the guest runs.
    pub fn kvm_set_signal_mask(&self, mask: Option<&SigSet>) -> Result<()> {
        file::set_signal_mask(self.file(File::Sigmask), mask)
    }

    /// Reads the floating point and SSE registers.
    #[inline]
    pub fn kvm_get_fpu(&self, fpu: &mut kvm_fpu) -> Result<()> {
        file::get(self.file(File::Fpu), fpu)
    }

    /// Sets the floating point and SSE registers.
    #[inline]
    pub fn kvm_set_fpu(&self, fpu: &kvm_fpu) -> Result<()> {
        file::set(self.file(File::Fpu), fpu)
    }
}
