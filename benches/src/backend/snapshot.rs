//! All that there is of a vcpu, saved and restored.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::{Context, Result, ensure};
use kvm_api::kvm_sys::{
    KVM_GET_DEBUGREGS, KVM_GET_VCPU_EVENTS, KVM_GET_XCRS, KVM_SET_DEBUGREGS, KVM_SET_VCPU_EVENTS,
    KVM_SET_XCRS,
};
use kvm_api::{GetState, Kvm, SetState};
use kvm_bindings::{
    KVM_MAX_MSR_ENTRIES, MsrList, Msrs, kvm_debugregs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use nix::{ioctl_read_bad, ioctl_write_ptr_bad};

use super::calls::dev_kvm;
use crate::fixture::Fixture;
use crate::guest::{Exit, Mode};
use crate::subject::Subject;

// The proposal has no calls for these.
ioctl_read_bad!(get_debugregs, KVM_GET_DEBUGREGS, kvm_debugregs);
ioctl_write_ptr_bad!(set_debugregs, KVM_SET_DEBUGREGS, kvm_debugregs);
ioctl_read_bad!(get_vcpu_events, KVM_GET_VCPU_EVENTS, kvm_vcpu_events);
ioctl_write_ptr_bad!(set_vcpu_events, KVM_SET_VCPU_EVENTS, kvm_vcpu_events);
ioctl_read_bad!(get_xcrs, KVM_GET_XCRS, kvm_xcrs);
ioctl_write_ptr_bad!(set_xcrs, KVM_SET_XCRS, kvm_xcrs);

/// What is saved.
struct Saved {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    msrs: Msrs,
    debugregs: kvm_debugregs,
    vcpu_events: kvm_vcpu_events,
    xcrs: kvm_xcrs,
}

/// A vcpu that is saved and restored: by two merged calls, or by a call for each
/// part and, where the interface has none, an ioctl.
pub struct SaveRestore<'b, B> {
    fixture: Fixture<'b, B>,
    merged: bool,
    saved: Saved,
}

impl<'b, B: Kvm> SaveRestore<'b, B> {
    pub fn new(kvm: &'b B, merged: bool) -> Result<Self> {
        let fixture = Fixture::with_program(kvm, Exit::PioOut, Mode::Real)?;
        let saved = Saved {
            regs: kvm_regs::default(),
            sregs: kvm_sregs::default(),
            fpu: kvm_fpu::default(),
            msrs: msrs(&fixture)?,
            debugregs: kvm_debugregs::default(),
            vcpu_events: kvm_vcpu_events::default(),
            xcrs: kvm_xcrs::default(),
        };
        Ok(Self {
            fixture,
            merged,
            saved,
        })
    }
}

/// The MSRs that are saved: those of KVM's list that this vcpu has and lets be
/// set to what they are.
fn msrs<B: Kvm>(fixture: &Fixture<'_, B>) -> Result<Msrs> {
    let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES).context("a list of MSRs")?;
    fixture
        .kvm
        .kvm_get_msr_index_list(dev_kvm()?.as_fd(), &mut list)
        .context("kvm_get_msr_index_list")?;
    let mut good = Vec::new();
    for &index in list.as_slice() {
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut one = Msrs::from_entries(&[entry]).context("a list of MSRs")?;
        if fixture.kvm.kvm_get_msrs(fixture.vcpu(), &mut one) == Ok(1)
            && fixture.kvm.kvm_set_msrs(fixture.vcpu(), &one) == Ok(1)
        {
            good.push(entry);
        }
    }
    Msrs::from_entries(&good).context("a list of MSRs")
}

impl Saved {
    fn save_at_once<B: Kvm>(&mut self, kvm: &B, vcpu: BorrowedFd<'_>) {
        let mut state = GetState::new()
            .regs(&mut self.regs)
            .sregs(&mut self.sregs)
            .fpu(&mut self.fpu)
            .msrs(&mut self.msrs)
            .debugregs(&mut self.debugregs)
            .vcpu_events(&mut self.vcpu_events)
            .xcrs(&mut self.xcrs);
        kvm.kvm_get_state(vcpu, &mut state).unwrap();
    }

    fn restore_at_once<B: Kvm>(&self, kvm: &B, vcpu: BorrowedFd<'_>) {
        let state = SetState::new()
            .regs(&self.regs)
            .sregs(&self.sregs)
            .fpu(&self.fpu)
            .msrs(&self.msrs)
            .debugregs(&self.debugregs)
            .vcpu_events(&self.vcpu_events)
            .xcrs(&self.xcrs);
        let set = kvm.kvm_set_state(vcpu, &state).unwrap();
        assert!(set == self.msrs.as_slice().len());
    }

    fn save<B: Kvm>(&mut self, kvm: &B, vcpu: BorrowedFd<'_>) {
        kvm.kvm_get_regs(vcpu, &mut self.regs).unwrap();
        kvm.kvm_get_sregs(vcpu, &mut self.sregs).unwrap();
        kvm.kvm_get_fpu(vcpu, &mut self.fpu).unwrap();
        kvm.kvm_get_msrs(vcpu, &mut self.msrs).unwrap();
        let fd = vcpu.as_raw_fd();
        // SAFETY: each writes one such structure.
        unsafe {
            get_debugregs(fd, &mut self.debugregs).unwrap();
            get_vcpu_events(fd, &mut self.vcpu_events).unwrap();
            get_xcrs(fd, &mut self.xcrs).unwrap();
        }
    }

    fn restore<B: Kvm>(&self, kvm: &B, vcpu: BorrowedFd<'_>) {
        let set = kvm.kvm_set_msrs(vcpu, &self.msrs).unwrap();
        assert!(set == self.msrs.as_slice().len());
        kvm.kvm_set_sregs(vcpu, &self.sregs).unwrap();
        kvm.kvm_set_regs(vcpu, &self.regs).unwrap();
        kvm.kvm_set_fpu(vcpu, &self.fpu).unwrap();
        let fd = vcpu.as_raw_fd();
        // SAFETY: each reads one such structure.
        unsafe {
            set_xcrs(fd, &self.xcrs).unwrap();
            set_debugregs(fd, &self.debugregs).unwrap();
            set_vcpu_events(fd, &self.vcpu_events).unwrap();
        }
    }
}

impl<B: Kvm> Subject for SaveRestore<'_, B> {
    fn call(&mut self) {
        let (kvm, vcpu) = (self.fixture.kvm, self.fixture.vcpu.as_fd());
        if self.merged {
            self.saved.save_at_once(kvm, vcpu);
            self.saved.regs.r8 += 1;
            self.saved.restore_at_once(kvm, vcpu);
        } else {
            self.saved.save(kvm, vcpu);
            self.saved.regs.r8 += 1;
            self.saved.restore(kvm, vcpu);
        }
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        let changes = self.fixture.try_regs()?.r8;
        ensure!(changes == calls, "{changes} of {calls} changes stayed");
        Ok(())
    }
}
