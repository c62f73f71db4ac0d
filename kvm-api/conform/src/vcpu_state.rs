//! The state of a vCPU that a call must not change if it fails.

use std::os::fd::BorrowedFd;

use anyhow::Result;
use guests::msr::SYSENTER_CS;
use kvm_api::kvm_sys::*;
use libc::c_ulong;

use crate::requests::request;

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
        request(vcpu, KVM_GET_MSRS, msrs.as_mut_ptr().expose_provenance())?;
        Ok(Self { parts, msrs })
    }

    pub fn restore(&self, vcpu: BorrowedFd<'_>) -> Result<()> {
        for (part, (_, _, set)) in self.parts.iter().zip(PARTS) {
            assert_eq!(size(set), part.len(), "{set:#x}");
            request(vcpu, set, part.as_ptr().expose_provenance())?;
        }
        request(vcpu, KVM_SET_MSRS, self.msrs.as_ptr().expose_provenance())
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
pub fn read(vcpu: BorrowedFd<'_>, get: c_ulong) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size(get)];
    request(vcpu, get, bytes.as_mut_ptr().expose_provenance())?;
    Ok(bytes)
}
