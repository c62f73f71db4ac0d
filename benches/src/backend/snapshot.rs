//! All that there is of a vcpu, saved and restored.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use kvm_api::kvm_sys::{
    KVM_GET_DEBUGREGS, KVM_GET_VCPU_EVENTS, KVM_GET_XCRS, KVM_SET_DEBUGREGS, KVM_SET_VCPU_EVENTS,
    KVM_SET_XCRS,
};
use kvm_api::{GetState, Kvm, SetState, State, Vcpu};
use kvm_bindings::{
    KVM_MAX_MSR_ENTRIES, MsrList, Msrs, kvm_debugregs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use nix::{ioctl_read_bad, ioctl_write_ptr_bad};

use super::calls::dev_kvm;
use super::form::StaticForm;
use super::registers::check_r8;
use crate::fixture::Fixture;
use crate::guest::{Exit, Mode};
use crate::workload::Workload;

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

impl Saved {
    fn new<B: StaticForm>(fixture: &Fixture<'_, B>) -> Result<Self> {
        Ok(Self {
            regs: kvm_regs::default(),
            sregs: kvm_sregs::default(),
            fpu: kvm_fpu::default(),
            msrs: msrs(fixture)?,
            debugregs: kvm_debugregs::default(),
            vcpu_events: kvm_vcpu_events::default(),
            xcrs: kvm_xcrs::default(),
        })
    }
}

/// The MSRs that are saved: those of KVM's list that this vcpu has and lets be
/// set to what they are.
fn msrs<B: StaticForm>(fixture: &Fixture<'_, B>) -> Result<Msrs> {
    let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES).context("a list of MSRs")?;
    fixture
        .kvm()
        .kvm_get_msr_index_list(dev_kvm()?.as_fd(), &mut list)
        .context("kvm_get_msr_index_list")?;
    let mut good = Vec::new();
    for &index in list.as_slice() {
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut one = Msrs::from_entries(&[entry]).context("a list of MSRs")?;
        if fixture.vcpu.kvm_get_msrs(&mut one) == Ok(1) && fixture.vcpu.kvm_set_msrs(&one) == Ok(1)
        {
            good.push(entry);
        }
    }
    Msrs::from_entries(&good).context("a list of MSRs")
}

impl Saved {
    fn save_at_once<V: State>(&mut self, vcpu: &V) {
        let mut state = GetState::new()
            .regs(&mut self.regs)
            .sregs(&mut self.sregs)
            .fpu(&mut self.fpu)
            .msrs(&mut self.msrs)
            .debugregs(&mut self.debugregs)
            .vcpu_events(&mut self.vcpu_events)
            .xcrs(&mut self.xcrs);
        vcpu.kvm_get_state(&mut state).unwrap();
    }

    fn restore_at_once<V: State>(&self, vcpu: &V) {
        let state = SetState::new()
            .regs(&self.regs)
            .sregs(&self.sregs)
            .fpu(&self.fpu)
            .msrs(&self.msrs)
            .debugregs(&self.debugregs)
            .vcpu_events(&self.vcpu_events)
            .xcrs(&self.xcrs);
        let set = vcpu.kvm_set_state(&state).unwrap();
        assert!(set == self.msrs.as_slice().len());
    }

    fn save<V: Vcpu>(&mut self, vcpu: &V) {
        vcpu.kvm_get_regs(&mut self.regs).unwrap();
        vcpu.kvm_get_sregs(&mut self.sregs).unwrap();
        vcpu.kvm_get_fpu(&mut self.fpu).unwrap();
        vcpu.kvm_get_msrs(&mut self.msrs).unwrap();
        let fd = vcpu.as_fd().as_raw_fd();
        // SAFETY: each writes one such structure.
        unsafe {
            get_debugregs(fd, &mut self.debugregs).unwrap();
            get_vcpu_events(fd, &mut self.vcpu_events).unwrap();
            get_xcrs(fd, &mut self.xcrs).unwrap();
        }
    }

    fn restore<V: Vcpu>(&self, vcpu: &V) {
        let set = vcpu.kvm_set_msrs(&self.msrs).unwrap();
        assert!(set == self.msrs.as_slice().len());
        vcpu.kvm_set_sregs(&self.sregs).unwrap();
        vcpu.kvm_set_regs(&self.regs).unwrap();
        vcpu.kvm_set_fpu(&self.fpu).unwrap();
        let fd = vcpu.as_fd().as_raw_fd();
        // SAFETY: each reads one such structure.
        unsafe {
            set_xcrs(fd, &self.xcrs).unwrap();
            set_debugregs(fd, &self.debugregs).unwrap();
            set_vcpu_events(fd, &self.vcpu_events).unwrap();
        }
    }
}

/// A vcpu that is saved and restored, by a call for each part and, where the interface has
/// none, an ioctl.
pub struct SaveRestore<'b, B: StaticForm> {
    fixture: Fixture<'b, B>,
    saved: Saved,
}

impl<'b, B: StaticForm> SaveRestore<'b, B> {
    pub fn new(form: &'b B) -> Result<Self> {
        let fixture = Fixture::with_program(form, Exit::PioOut, Mode::Real)?;
        let saved = Saved::new(&fixture)?;
        Ok(Self { fixture, saved })
    }
}

impl<B: StaticForm> Workload for SaveRestore<'_, B> {
    fn call(&mut self) {
        self.saved.save(&self.fixture.vcpu);
        self.saved.regs.r8 += 1;
        self.saved.restore(&self.fixture.vcpu);
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        check_r8(&self.fixture, calls)
    }
}

/// The same by two merged calls.
pub struct MergedSaveRestore<'b, B: StaticForm> {
    fixture: Fixture<'b, B>,
    saved: Saved,
}

impl<'b, B: StaticForm> MergedSaveRestore<'b, B> {
    pub fn new(form: &'b B) -> Result<Self> {
        let fixture = Fixture::with_program(form, Exit::PioOut, Mode::Real)?;
        let saved = Saved::new(&fixture)?;
        Ok(Self { fixture, saved })
    }
}

impl<B: StaticForm> Workload for MergedSaveRestore<'_, B>
where
    for<'k> B::Vcpu<'k>: State,
{
    fn call(&mut self) {
        self.saved.save_at_once(&self.fixture.vcpu);
        self.saved.regs.r8 += 1;
        self.saved.restore_at_once(&self.fixture.vcpu);
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        check_r8(&self.fixture, calls)
    }
}
