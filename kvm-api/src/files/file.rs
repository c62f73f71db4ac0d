//! The files of a vCPU: their names, and the structure of each.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use kvm_sys::{
    Call, CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_cpuid2,
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_msrs, kvm_vcpu_events,
    kvm_xcrs,
};
use nix::fcntl::{OFlag, openat};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;

use crate::named::named;
use crate::signal::signal_mask;
use crate::syscall::conv::{fd, input, number, output};
use crate::{Errno, Result};
use kvm_sys::instruction::syscall3;

named! {
    /// One of the files, in the order of the directory.
    pub enum File: &'static CStr {
        /// `struct kvm_regs`.
        Regs = c"regs",
        /// `struct kvm_sregs`.
        Sregs = c"sregs",
        /// `struct kvm_fpu`.
        Fpu = c"fpu",
        /// `struct kvm_msrs` and its entries.
        Msrs = c"msrs",
        /// `struct kvm_cpuid2` and its entries.
        Cpuid = c"cpuid",
        /// `struct kvm_signal_mask` and the set; only written.
        Sigmask = c"sigmask",
        /// `struct kvm_guest_debug`; only written.
        Debug = c"debug",
        /// The vector, a `__u32`; only written.
        Interrupt = c"interrupt",
        /// `struct kvm_xcrs`.
        Xcrs = c"xcrs",
        /// `struct kvm_debugregs`.
        Debugregs = c"debugregs",
        /// `struct kvm_vcpu_events`.
        Events = c"events",
        /// `struct kvm_mp_state`.
        MpState = c"mp_state",
        /// `struct kvm_lapic_state`.
        Lapic = c"lapic",
        /// `struct kvm_xsave`, and what follows it on some processors.
        Xsave = c"xsave",
        /// `struct kvm_msr_list` and its indices when it is written, which chooses MSRs;
        /// `struct kvm_msrs` and its entries when it is read.
        ChosenMsrs = c"chosen_msrs",
    }
}

impl File {
    /// The file that a program reads or writes in place of `call`.
    #[must_use]
    pub fn of(call: &Call) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|file| Some(file.name()) == call.file)
    }

    /// Whether a program can read the file. It can write each.
    #[must_use]
    pub fn is_readable(self) -> bool {
        !matches!(self, Self::Sigmask | Self::Debug | Self::Interrupt)
    }

    /// Opens the file to read and write, or only to write, close-on-exec.
    ///
    /// # Errors
    ///
    /// `ENOTDIR` if `vcpu` is no directory, as other files of KVM; `ENOENT` if it is
    /// another directory; `EACCES` if another user has made the vCPU; `EIO` if another
    /// process has made it, or the VM is dead; `EMFILE`, `ENFILE`.
    pub fn open(self, vcpu: BorrowedFd<'_>) -> Result<OwnedFd> {
        let mode = if self.is_readable() {
            OFlag::O_RDWR
        } else {
            OFlag::O_WRONLY
        };
        openat(vcpu, self.name(), mode | OFlag::O_CLOEXEC, Mode::empty())
    }
}

/// Reads a whole structure. The kernel refuses to read a part.
///
/// # Safety
///
/// `value` has to be valid for `size` bytes, and any bytes have to be a value of it.
#[inline(always)]
unsafe fn read<T>(file: BorrowedFd<'_>, value: *mut T, size: usize) -> Result<usize> {
    // SAFETY: the kernel writes at most `size` bytes.
    number(unsafe { syscall3(libc::SYS_read, fd(file), output(value), size) })
}

/// Writes a whole structure.
///
/// # Safety
///
/// `value` has to be valid for `size` bytes.
#[inline(always)]
unsafe fn write<T>(file: BorrowedFd<'_>, value: *const T, size: usize) -> Result<usize> {
    // SAFETY: the kernel reads `size` bytes.
    number(unsafe { syscall3(libc::SYS_write, fd(file), input(value), size) })
}

/// A structure of integers, with a file of its own and one size.
///
/// # Safety
///
/// Any bytes have to be a value of it.
pub unsafe trait Structure {}

// SAFETY: registers are integers, and so is the padding between them.
unsafe impl Structure for kvm_sys::kvm_regs {}
// SAFETY: as above.
unsafe impl Structure for kvm_sys::kvm_sregs {}
// SAFETY: as above.
unsafe impl Structure for kvm_sys::kvm_fpu {}
// SAFETY: as above.
unsafe impl Structure for kvm_sys::kvm_guest_debug {}
// SAFETY: it is an integer.
unsafe impl Structure for u32 {}

/// A part of the state that the proposal has no call for, and a file of its own.
pub trait Part: Structure {
    /// The file.
    const FILE: File;
}

macro_rules! parts {
    ($($structure:ident in $file:ident;)*) => {$(
        // SAFETY: it is integers, and so is the padding between them.
        unsafe impl Structure for $structure {}

        impl Part for $structure {
            const FILE: File = File::$file;
        }
    )*};
}

parts! {
    kvm_xcrs in Xcrs;
    kvm_debugregs in Debugregs;
    kvm_vcpu_events in Events;
    kvm_mp_state in MpState;
    kvm_lapic_state in Lapic;
}

#[inline(always)]
pub(super) fn get<T: Structure>(file: BorrowedFd<'_>, value: &mut T) -> Result<()> {
    // SAFETY: any bytes are good for it, and it is borrowed for that.
    unsafe { read(file, value, size_of::<T>()) }.map(drop)
}

#[inline(always)]
pub(super) fn set<T: Structure>(file: BorrowedFd<'_>, value: &T) -> Result<()> {
    // SAFETY: it is borrowed for that.
    unsafe { write(file, value, size_of::<T>()) }.map(drop)
}

/// Reads all MSRs that the vCPU has, of those that KVM saves and restores.
pub(super) fn get_all_msrs(file: BorrowedFd<'_>) -> Result<Msrs> {
    // KVM guarantees that this length is enough.
    let mut msrs = Msrs::new(KVM_MAX_MSR_ENTRIES).map_err(|_| Errno::ENOMEM)?;
    let size = size_of::<kvm_msrs>() + KVM_MAX_MSR_ENTRIES * size_of::<kvm_msr_entry>();
    // SAFETY: the list has room for that size, and the kernel writes the number of
    // entries into the header.
    unsafe { read(file, msrs.as_mut_fam_struct_ptr(), size) }?;
    Ok(msrs)
}

/// Chooses the MSRs that reads of the open file return.
fn choose_msrs(file: BorrowedFd<'_>, indices: &[u32]) -> Result<()> {
    let list = [&[indices.len() as u32], indices].concat();
    // SAFETY: the list is that long.
    unsafe { write(file, list.as_ptr(), size_of_val(&list[..])) }.map(drop)
}

/// Reads the MSRs whose indices `msrs` holds, up to the first that cannot be read. `chosen`
/// has the last choice on this open file, which is changed only if it has to be.
pub(super) fn get_msrs(
    file: BorrowedFd<'_>,
    msrs: &mut Msrs,
    chosen: &mut Option<Vec<u32>>,
) -> Result<usize> {
    let wanted = msrs.as_slice().len();
    let is_chosen = chosen.as_ref().is_some_and(|chosen| {
        let indices = msrs.as_slice().iter().map(|it| &it.index);
        indices.eq(chosen)
    });
    if !is_chosen {
        let indices: Vec<_> = msrs.as_slice().iter().map(|it| it.index).collect();
        choose_msrs(file, &indices)?;
        *chosen = Some(indices);
    }
    let size = size_of::<kvm_msrs>() + size_of_val(msrs.as_slice());
    let list = msrs.as_mut_fam_struct_ptr();
    // SAFETY: the list is that long, and nothing else refers to it. The kernel writes the
    // number of the entries that it has read into the header, which has to be that of the
    // entries that are there.
    let read = unsafe {
        let read = read(file, list, size);
        (*list).nmsrs = wanted as u32;
        read
    };
    Ok((read? - size_of::<kvm_msrs>()) / size_of::<kvm_msr_entry>())
}

/// Reads or writes the extended state of the processor, of the size of `bytes`.
pub(super) fn get_xsave(file: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<()> {
    // SAFETY: any bytes are good for it, and it is borrowed for that.
    unsafe { read(file, bytes.as_mut_ptr(), bytes.len()) }.map(drop)
}

pub(super) fn set_xsave(file: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    // SAFETY: it is borrowed for that.
    unsafe { write(file, bytes.as_ptr(), bytes.len()) }.map(drop)
}

pub(super) fn set_msrs(file: BorrowedFd<'_>, msrs: &Msrs) -> Result<usize> {
    let size = size_of::<kvm_msrs>() + size_of_val(msrs.as_slice());
    // SAFETY: the list is that long.
    let taken = unsafe { write(file, msrs.as_fam_struct_ptr(), size) }?;
    Ok((taken - size_of::<kvm_msrs>()) / size_of::<kvm_msr_entry>())
}

pub(super) fn get_cpuid(file: BorrowedFd<'_>) -> Result<CpuId> {
    let mut cpuid = CpuId::new(KVM_MAX_CPUID_ENTRIES).map_err(|_| Errno::ENOMEM)?;
    let size = size_of::<kvm_cpuid2>() + KVM_MAX_CPUID_ENTRIES * size_of::<kvm_cpuid_entry2>();
    // SAFETY: the list has room for that size, and the kernel writes the number of
    // entries into the header.
    unsafe { read(file, cpuid.as_mut_fam_struct_ptr(), size) }?;
    Ok(cpuid)
}

pub(super) fn set_cpuid(file: BorrowedFd<'_>, cpuid: &CpuId) -> Result<()> {
    let size = size_of::<kvm_cpuid2>() + size_of_val(cpuid.as_slice());
    // SAFETY: the list is that long.
    unsafe { write(file, cpuid.as_fam_struct_ptr(), size) }.map(drop)
}

pub(super) fn set_signal_mask(file: BorrowedFd<'_>, mask: Option<&SigSet>) -> Result<()> {
    match mask.map(signal_mask) {
        // SAFETY: it is a value of its own.
        Some(mask) => unsafe { write(file, &raw const mask, size_of_val(&mask)) }.map(drop),
        // A mask of length 0, which is no mask.
        None => set(file, &0_u32),
    }
}
