//! The capabilities that properties enable, requests that no system call replaces, their
//! results, and lists of MSRs and of leaves of CPUID.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use kvm_api::Errno;
use kvm_api::kvm_sys::{CpuId, KVM_ENABLE_CAP, Msrs, kvm_cpuid_entry2, kvm_msr_entry};
use libc::{c_long, c_ulong};

pub const KVM_CAP_SPLIT_IRQCHIP: u64 = 121;
pub const KVM_CAP_MAX_VCPU_ID: u64 = 128;
pub const KVM_CAP_EXCEPTION_PAYLOAD: u64 = 164;
pub const KVM_CAP_DIRTY_LOG_RING: u64 = 192;
pub const KVM_CAP_X86_TRIPLE_FAULT_EVENT: u64 = 218;

/// Enables a capability of a virtual machine.
pub fn enable(vm: BorrowedFd<'_>, capability: u64, argument: u64) -> Result<()> {
    let mut words = [0_u64; 13];
    // The first word is the capability and, in its upper half, the flags.
    words[0] = capability;
    words[1] = argument;
    request(vm, KVM_ENABLE_CAP, words.as_ptr().expose_provenance())
}

/// Makes a request whose argument is 0, or the address of the data that the request
/// reads or writes.
pub fn request(fd: BorrowedFd<'_>, request: c_ulong, argument: usize) -> Result<()> {
    // SAFETY: the argument is 0 or points to the data of the request.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) })
        .with_context(|| format!("request {request:#x}"))?;
    Ok(())
}

/// The structure that a call fills.
pub fn filled<T: Default>(call: impl FnOnce(&mut T) -> kvm_api::Result<()>) -> kvm_api::Result<T> {
    let mut value = T::default();
    call(&mut value)?;
    Ok(value)
}

/// The descriptor that a call or a request has returned.
///
/// # Safety
///
/// The descriptor is new: nothing else owns it.
pub unsafe fn new_descriptor(answer: impl Into<c_long>) -> nix::Result<OwnedFd> {
    let fd = Errno::result(answer.into())?;
    // SAFETY: the caller says that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A list of MSRs and their values.
pub fn msrs(entries: impl IntoIterator<Item = (u32, u64)>) -> Msrs {
    let entries: Vec<_> = entries
        .into_iter()
        .map(|(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    Msrs::from_entries(&entries).expect("the entries fit")
}

/// A CPUID with empty leaves of these functions.
pub fn cpuid(functions: impl IntoIterator<Item = u32>) -> CpuId {
    let leaves: Vec<_> = functions
        .into_iter()
        .map(|function| kvm_cpuid_entry2 {
            function,
            ..Default::default()
        })
        .collect();
    CpuId::from_entries(&leaves).expect("the entries fit")
}
