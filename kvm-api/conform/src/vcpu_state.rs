//! The state of a vCPU that a call must not change if it fails.

use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result};
use guests::msr::SYSENTER_CS;
use kvm_api::Errno;
use kvm_api::kvm_sys::*;
use libc::c_ulong;

/// The MSR that is part of the state.
pub const MSR: u32 = SYSENTER_CS;

/// The other parts, and the requests that read and set each.
const PARTS: [(&str, c_ulong, c_ulong); 4] = [
    ("special registers", KVM_GET_SREGS, KVM_SET_SREGS),
    ("registers", KVM_GET_REGS, KVM_SET_REGS),
    ("FPU", KVM_GET_FPU, KVM_SET_FPU),
    ("events", KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS),
];

/// The state, read by ioctl.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VcpuState {
    parts: [Vec<u8>; PARTS.len()],
    /// A header and one entry.
    msrs: [u64; 3],
}

impl VcpuState {
    pub fn of(vcpu: BorrowedFd<'_>) -> Result<Self> {
        let mut parts = PARTS.map(|_| Vec::new());
        for (part, (_, get, _)) in parts.iter_mut().zip(PARTS) {
            *part = read(vcpu, get)?;
        }
        let mut msrs = [1, MSR.into(), 0];
        // SAFETY: the kernel reads and writes a header and one entry.
        Errno::result(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_MSRS, &raw mut msrs) })
            .context("KVM_GET_MSRS")?;
        Ok(Self { parts, msrs })
    }

    /// Sets the state.
    pub fn restore(&self, vcpu: BorrowedFd<'_>) -> Result<()> {
        for (part, (_, _, set)) in self.parts.iter().zip(PARTS) {
            write(vcpu, set, part)?;
        }
        // SAFETY: the kernel reads a header and one entry.
        Errno::result(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_MSRS, &self.msrs) })
            .context("KVM_SET_MSRS")?;
        Ok(())
    }

    /// The parts that differ from another state.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let parts = self.parts.iter().zip(&other.parts).zip(PARTS);
        let differing = parts.filter(|((part, other), _)| part != other);
        let differing = differing.map(|(_, (name, ..))| name);
        let msr = (self.msrs != other.msrs).then_some("MSR");
        differing.chain(msr).collect()
    }
}

/// The size of a structure, which is part of the code of its request.
fn size(request: c_ulong) -> usize {
    request as usize >> 16 & 0x3fff
}

/// The structure that a request reads from a vCPU.
pub fn read(vcpu: BorrowedFd<'_>, request: c_ulong) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size(request)];
    // SAFETY: the kernel writes as many bytes as the request says.
    Errno::result(unsafe { libc::ioctl(vcpu.as_raw_fd(), request, bytes.as_mut_ptr()) })
        .with_context(|| format!("request {request:#x}"))?;
    Ok(bytes)
}

/// Sets the structure of a request.
pub fn write(vcpu: BorrowedFd<'_>, request: c_ulong, bytes: &[u8]) -> Result<()> {
    assert_eq!(size(request), bytes.len(), "{request:#x}");
    // SAFETY: the kernel reads as many bytes as the request says.
    Errno::result(unsafe { libc::ioctl(vcpu.as_raw_fd(), request, bytes.as_ptr()) })
        .with_context(|| format!("request {request:#x}"))?;
    Ok(())
}
