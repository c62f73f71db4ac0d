//! The state of a vCPU that the merged calls move, read and set by ioctl for comparison.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use kvm_api::kvm_sys::*;
use kvm_api::{Errno, GetState, Kvm, Result, SetState};

/// The MSRs that the tests move. They hold any value.
pub const SYSENTER_CS: u32 = 0x174;
/// See [`SYSENTER_CS`].
pub const SYSENTER_ESP: u32 = 0x175;
/// An MSR that no processor has.
pub const UNKNOWN: u32 = 0x4000_dead;

/// A list of MSRs.
pub fn msrs(entries: &[(u32, u64)]) -> Msrs {
    let entry = |&(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    Msrs::from_entries(&entries).unwrap()
}

/// Every part.
#[derive(Clone)]
pub struct Whole {
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
    pub fpu: kvm_fpu,
    pub msrs: Msrs,
    pub debugregs: kvm_debugregs,
    pub vcpu_events: kvm_vcpu_events,
    pub xcrs: kvm_xcrs,
}

/// How many parts there are.
pub const PARTS: usize = 7;

/// The bytes of a structure whose padding, if any, is cleared.
fn bytes<T: Copy>(value: &T) -> Vec<u8> {
    let from = (&raw const *value).cast::<u8>();
    // SAFETY: the kernel, or a default, has given every byte a value.
    unsafe { std::slice::from_raw_parts(from, size_of::<T>()) }.to_vec()
}

/// An ioctl that passes a structure.
pub fn ioctl<T>(vcpu: BorrowedFd<'_>, request: libc::c_ulong, value: *mut T) -> Result<()> {
    // SAFETY: the requests below pass a structure of this type.
    Errno::result(unsafe { libc::ioctl(vcpu.as_raw_fd(), request, value) }).map(drop)
}

impl Whole {
    /// An empty state, with room for the MSRs that the tests move.
    pub fn empty() -> Self {
        Self {
            regs: kvm_regs::default(),
            sregs: kvm_sregs::default(),
            fpu: kvm_fpu::default(),
            msrs: msrs(&[(SYSENTER_CS, 0), (SYSENTER_ESP, 0)]),
            debugregs: kvm_debugregs::default(),
            vcpu_events: kvm_vcpu_events::default(),
            xcrs: kvm_xcrs::default(),
        }
    }

    /// What the ioctls read.
    pub fn read(kvm: &dyn Kvm, vcpu: BorrowedFd<'_>) -> Self {
        let mut whole = Self::empty();
        kvm.kvm_get_regs(vcpu, &mut whole.regs).unwrap();
        kvm.kvm_get_sregs(vcpu, &mut whole.sregs).unwrap();
        kvm.kvm_get_fpu(vcpu, &mut whole.fpu).unwrap();
        assert_eq!(kvm.kvm_get_msrs(vcpu, &mut whole.msrs), Ok(2));
        ioctl(vcpu, KVM_GET_DEBUGREGS, &mut whole.debugregs).unwrap();
        ioctl(vcpu, KVM_GET_VCPU_EVENTS, &mut whole.vcpu_events).unwrap();
        ioctl(vcpu, KVM_GET_XCRS, &mut whole.xcrs).unwrap();
        whole
    }

    /// Sets it by the ioctls.
    pub fn set(&mut self, kvm: &dyn Kvm, vcpu: BorrowedFd<'_>) {
        assert_eq!(kvm.kvm_set_msrs(vcpu, &self.msrs), Ok(2));
        kvm.kvm_set_sregs(vcpu, &self.sregs).unwrap();
        kvm.kvm_set_regs(vcpu, &self.regs).unwrap();
        kvm.kvm_set_fpu(vcpu, &self.fpu).unwrap();
        ioctl(vcpu, KVM_SET_XCRS, &mut self.xcrs).unwrap();
        ioctl(vcpu, KVM_SET_DEBUGREGS, &mut self.debugregs).unwrap();
        ioctl(vcpu, KVM_SET_VCPU_EVENTS, &mut self.vcpu_events).unwrap();
    }

    /// The same state with a valid change in every part.
    pub fn changed(&self) -> Self {
        let mut whole = self.clone();
        whole.regs.rbx ^= 0x1234_5678_9abc_def0;
        whole.regs.rip ^= 0x40;
        whole.sregs.cr2 ^= 0x5000;
        whole.sregs.ds.base ^= 0x7000;
        whole.fpu.fcw ^= 0x0c00;
        whole.fpu.xmm[15][3] ^= 0x5a;
        for entry in whole.msrs.as_mut_slice() {
            entry.data ^= 0xf0;
        }
        whole.debugregs.db[2] ^= 0x8000;
        whole.debugregs.dr7 ^= 1;
        // The events of the vCPU that do not depend on registers.
        whole.vcpu_events.nmi.masked ^= 1;
        whole.xcrs.xcrs[0].value ^= 0b10;
        whole
    }

    /// The parts, for comparison.
    pub fn parts(&self) -> [Vec<u8>; PARTS] {
        let msrs = self.msrs.as_slice().iter();
        [
            bytes(&self.regs),
            bytes(&self.sregs),
            bytes(&self.fpu),
            msrs.flat_map(bytes).collect(),
            bytes(&self.debugregs),
            bytes(&self.vcpu_events),
            bytes(&self.xcrs),
        ]
    }

    /// The argument to read the parts whose bits are in `parts`.
    pub fn getting(&mut self, parts: u64) -> GetState<'_> {
        let has = |part| parts & part != 0;
        let mut state = GetState::new();
        if has(state::KVM_STATE_REGS) {
            state = state.regs(&mut self.regs);
        }
        if has(state::KVM_STATE_SREGS) {
            state = state.sregs(&mut self.sregs);
        }
        if has(state::KVM_STATE_FPU) {
            state = state.fpu(&mut self.fpu);
        }
        if has(state::KVM_STATE_MSRS) {
            state = state.msrs(&mut self.msrs);
        }
        if has(state::KVM_STATE_DEBUGREGS) {
            state = state.debugregs(&mut self.debugregs);
        }
        if has(state::KVM_STATE_VCPU_EVENTS) {
            state = state.vcpu_events(&mut self.vcpu_events);
        }
        if has(state::KVM_STATE_XCRS) {
            state = state.xcrs(&mut self.xcrs);
        }
        state
    }

    /// The argument to set the parts whose bits are in `parts`.
    pub fn setting(&self, parts: u64) -> SetState<'_> {
        let has = |part| parts & part != 0;
        let mut state = SetState::new();
        if has(state::KVM_STATE_REGS) {
            state = state.regs(&self.regs);
        }
        if has(state::KVM_STATE_SREGS) {
            state = state.sregs(&self.sregs);
        }
        if has(state::KVM_STATE_FPU) {
            state = state.fpu(&self.fpu);
        }
        if has(state::KVM_STATE_MSRS) {
            state = state.msrs(&self.msrs);
        }
        if has(state::KVM_STATE_DEBUGREGS) {
            state = state.debugregs(&self.debugregs);
        }
        if has(state::KVM_STATE_VCPU_EVENTS) {
            state = state.vcpu_events(&self.vcpu_events);
        }
        if has(state::KVM_STATE_XCRS) {
            state = state.xcrs(&self.xcrs);
        }
        state
    }
}
