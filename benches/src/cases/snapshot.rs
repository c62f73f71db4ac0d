//! The whole state of a vCPU, saved and restored.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use kvm_api::files::FileVcpu;
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

use super::system::dev_kvm;
use crate::case::Case;
use crate::fixture::{Fixture, Guest};
use crate::form::{Files, StaticForm};
use crate::interface::ways;
use crate::workload::{Prepared, Steps};

/// The state of a vCPU, saved and restored.
pub const WORK: &[Case] = &[Case::new(
    "vcpu_saved_restored",
    "a whole vCPU saved and restored",
    ways![
        by_calls => Ioctl, Syscall;
        by_files => Files;
        by_merged_calls => Merged, Bound;
    ],
)];

// The proposal has no calls for these.
ioctl_read_bad!(get_debugregs, KVM_GET_DEBUGREGS, kvm_debugregs);
ioctl_write_ptr_bad!(set_debugregs, KVM_SET_DEBUGREGS, kvm_debugregs);
ioctl_read_bad!(get_vcpu_events, KVM_GET_VCPU_EVENTS, kvm_vcpu_events);
ioctl_write_ptr_bad!(set_vcpu_events, KVM_SET_VCPU_EVENTS, kvm_vcpu_events);
ioctl_read_bad!(get_xcrs, KVM_GET_XCRS, kvm_xcrs);
ioctl_write_ptr_bad!(set_xcrs, KVM_SET_XCRS, kvm_xcrs);

/// The parts of the state.
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

/// The MSRs to save: the MSRs of KVM's list that this vCPU has, and that take their
/// current values.
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
    fn save_merged<V: State>(&mut self, vcpu: &V) {
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

    fn restore_merged<V: State>(&self, vcpu: &V) {
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

    /// Saves the parts that the proposal has calls for.
    fn save_by_calls<V: Vcpu>(&mut self, vcpu: &V) {
        vcpu.kvm_get_regs(&mut self.regs).unwrap();
        vcpu.kvm_get_sregs(&mut self.sregs).unwrap();
        vcpu.kvm_get_fpu(&mut self.fpu).unwrap();
        vcpu.kvm_get_msrs(&mut self.msrs).unwrap();
    }

    /// Restores the parts that the proposal has calls for.
    fn restore_by_calls<V: Vcpu>(&self, vcpu: &V) {
        let set = vcpu.kvm_set_msrs(&self.msrs).unwrap();
        assert!(set == self.msrs.as_slice().len());
        vcpu.kvm_set_sregs(&self.sregs).unwrap();
        vcpu.kvm_set_regs(&self.regs).unwrap();
        vcpu.kvm_set_fpu(&self.fpu).unwrap();
    }

    fn save_files<F: AsFd>(&mut self, vcpu: &FileVcpu<F>) {
        self.save_by_calls(vcpu);
        vcpu.get(&mut self.debugregs).unwrap();
        vcpu.get(&mut self.vcpu_events).unwrap();
        vcpu.get(&mut self.xcrs).unwrap();
    }

    fn restore_files<F: AsFd>(&self, vcpu: &FileVcpu<F>) {
        self.restore_by_calls(vcpu);
        vcpu.set(&self.xcrs).unwrap();
        vcpu.set(&self.debugregs).unwrap();
        vcpu.set(&self.vcpu_events).unwrap();
    }

    fn save<V: Vcpu>(&mut self, vcpu: &V) {
        self.save_by_calls(vcpu);
        let fd = vcpu.as_fd().as_raw_fd();
        // SAFETY: each writes one structure of this type.
        unsafe {
            get_debugregs(fd, &mut self.debugregs).unwrap();
            get_vcpu_events(fd, &mut self.vcpu_events).unwrap();
            get_xcrs(fd, &mut self.xcrs).unwrap();
        }
    }

    fn restore<V: Vcpu>(&self, vcpu: &V) {
        self.restore_by_calls(vcpu);
        let fd = vcpu.as_fd().as_raw_fd();
        // SAFETY: each reads one structure of this type.
        unsafe {
            set_xcrs(fd, &self.xcrs).unwrap();
            set_debugregs(fd, &self.debugregs).unwrap();
            set_vcpu_events(fd, &self.vcpu_events).unwrap();
        }
    }
}

/// By a call for each part and, where the interface has none, an ioctl.
fn by_calls<B: StaticForm>(form: &B, guest: Guest) -> Prepared<'_> {
    let fixture = Fixture::with_guest(form, guest)?;
    let mut saved = Saved::new(&fixture)?;
    let steps = Steps::new(fixture, move |f| {
        saved.save(&f.vcpu);
        saved.regs.r8 += 1;
        saved.restore(&f.vcpu);
    });
    steps.check(|f, calls| f.check_changes(calls))
}

/// By the file of each part.
fn by_files(form: &Files, guest: Guest) -> Prepared<'_> {
    let fixture = Fixture::with_guest(form, guest)?;
    let mut saved = Saved::new(&fixture)?;
    let steps = Steps::new(fixture, move |f| {
        saved.save_files(&f.vcpu);
        saved.regs.r8 += 1;
        saved.restore_files(&f.vcpu);
    });
    steps.check(|f, calls| f.check_changes(calls))
}

/// By two merged calls.
fn by_merged_calls<B: StaticForm>(form: &B, guest: Guest) -> Prepared<'_>
where
    for<'k> B::Vcpu<'k>: State,
{
    let fixture = Fixture::with_guest(form, guest)?;
    let mut saved = Saved::new(&fixture)?;
    let steps = Steps::new(fixture, move |f| {
        saved.save_merged(&f.vcpu);
        saved.regs.r8 += 1;
        saved.restore_merged(&f.vcpu);
    });
    steps.check(|f, calls| f.check_changes(calls))
}
