//! The ioctls of KVM that no system call replaces, and the capabilities that
//! properties enable.

use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result};
use kvm_api::Errno;
use libc::c_ulong;
use nix::{request_code_none, request_code_read, request_code_readwrite, request_code_write};

/// The type byte of KVM's requests.
const KVMIO: u8 = 0xae;
/// The size of `struct kvm_vcpu_events`.
pub const EVENTS: usize = 64;
/// The size of `struct kvm_xen_hvm_config`.
pub const XEN_HVM_CONFIG: usize = 56;

pub const KVM_CREATE_IRQCHIP: c_ulong = request_code_none!(KVMIO, 0x60);
pub const KVM_XEN_HVM_CONFIG: c_ulong = request_code_write!(KVMIO, 0x7a, XEN_HVM_CONFIG);
pub const KVM_NMI: c_ulong = request_code_none!(KVMIO, 0x9a);
pub const KVM_GET_VCPU_EVENTS: c_ulong = request_code_read!(KVMIO, 0x9f, EVENTS);
pub const KVM_SET_VCPU_EVENTS: c_ulong = request_code_write!(KVMIO, 0xa0, EVENTS);
const KVM_ENABLE_CAP: c_ulong = request_code_write!(KVMIO, 0xa3, 104);
pub const KVM_SMI: c_ulong = request_code_none!(KVMIO, 0xb7);
pub const KVM_GET_STATS_FD: c_ulong = request_code_none!(KVMIO, 0xce);
pub const KVM_CREATE_GUEST_MEMFD: c_ulong = request_code_readwrite!(KVMIO, 0xd4, 64);
pub const KVM_CREATE_DEVICE: c_ulong = request_code_readwrite!(KVMIO, 0xe0, 12);

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

/// Makes a request whose argument is 0, or the address of all that the request
/// reads.
pub fn request(fd: BorrowedFd<'_>, request: c_ulong, argument: usize) -> Result<()> {
    // SAFETY: the argument is 0 or points to what the request reads.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) })
        .with_context(|| format!("request {request:#x}"))?;
    Ok(())
}
