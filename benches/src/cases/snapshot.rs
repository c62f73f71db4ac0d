//! The whole state of a vCPU, saved and restored, as a VMM does it for a snapshot: the parts
//! and the order are those of Firecracker, but for CPUID, which does not change.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use kvm_api::files::FileVcpu;
use kvm_api::kvm_sys::{
    KVM_GET_DEBUGREGS, KVM_GET_LAPIC, KVM_GET_MP_STATE, KVM_GET_TSC_KHZ, KVM_GET_VCPU_EVENTS,
    KVM_GET_XCRS, KVM_GET_XSAVE, KVM_SET_DEBUGREGS, KVM_SET_LAPIC, KVM_SET_MP_STATE,
    KVM_SET_TSC_KHZ, KVM_SET_VCPU_EVENTS, KVM_SET_XCRS, KVM_SET_XSAVE,
};
use kvm_api::{GetState, Kvm, SetState, State, Vcpu, XsaveArea};
use kvm_bindings::{
    KVM_MAX_MSR_ENTRIES, MsrList, Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use nix::{ioctl_none_bad, ioctl_read_bad, ioctl_write_int_bad, ioctl_write_ptr_bad};

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
ioctl_read_bad!(get_xsave, KVM_GET_XSAVE, u64);
ioctl_write_ptr_bad!(set_xsave, KVM_SET_XSAVE, u64);
ioctl_read_bad!(get_lapic, KVM_GET_LAPIC, kvm_lapic_state);
ioctl_write_ptr_bad!(set_lapic, KVM_SET_LAPIC, kvm_lapic_state);
ioctl_read_bad!(get_mp_state, KVM_GET_MP_STATE, kvm_mp_state);
ioctl_write_ptr_bad!(set_mp_state, KVM_SET_MP_STATE, kvm_mp_state);
ioctl_none_bad!(get_tsc_khz, KVM_GET_TSC_KHZ);
ioctl_write_int_bad!(set_tsc_khz, KVM_SET_TSC_KHZ);

/// The size of the area of XSAVE in bytes, without features that a program has to ask for.
const XSAVE: usize = 4096;

/// The parts of the state.
struct Saved {
    regs: kvm_regs,
    sregs: kvm_sregs,
    msrs: Msrs,
    debugregs: kvm_debugregs,
    vcpu_events: kvm_vcpu_events,
    xcrs: kvm_xcrs,
    xsave: XsaveArea,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
    tsc_khz: u32,
}

impl Saved {
    fn new<B: StaticForm>(fixture: &Fixture<'_, B>) -> Result<Self> {
        Ok(Self {
            regs: kvm_regs::default(),
            sregs: kvm_sregs::default(),
            msrs: msrs(fixture)?,
            debugregs: kvm_debugregs::default(),
            vcpu_events: kvm_vcpu_events::default(),
            xcrs: kvm_xcrs::default(),
            xsave: XsaveArea::new(XSAVE),
            lapic: kvm_lapic_state::default(),
            mp_state: kvm_mp_state::default(),
            tsc_khz: 0,
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
            .msrs(&mut self.msrs)
            .debugregs(&mut self.debugregs)
            .vcpu_events(&mut self.vcpu_events)
            .xcrs(&mut self.xcrs)
            .xsave(&mut self.xsave)
            .lapic(&mut self.lapic)
            .mp_state(&mut self.mp_state)
            .tsc_khz(&mut self.tsc_khz);
        vcpu.kvm_get_state(&mut state).unwrap();
    }

    fn restore_merged<V: State>(&self, vcpu: &V) {
        let state = SetState::new()
            .regs(&self.regs)
            .sregs(&self.sregs)
            .msrs(&self.msrs)
            .debugregs(&self.debugregs)
            .vcpu_events(&self.vcpu_events)
            .xcrs(&self.xcrs)
            .xsave(&self.xsave)
            .lapic(&self.lapic)
            .mp_state(&self.mp_state)
            .tsc_khz(&self.tsc_khz);
        let set = vcpu.kvm_set_state(&state).unwrap();
        assert!(set == self.msrs.as_slice().len());
    }

    fn save_files<F: AsFd>(&mut self, vcpu: &FileVcpu<F>) {
        vcpu.get(&mut self.mp_state).unwrap();
        vcpu.kvm_get_regs(&mut self.regs).unwrap();
        vcpu.kvm_get_sregs(&mut self.sregs).unwrap();
        vcpu.get_xsave(self.xsave.bytes_mut()).unwrap();
        vcpu.get(&mut self.xcrs).unwrap();
        vcpu.get(&mut self.debugregs).unwrap();
        vcpu.get(&mut self.lapic).unwrap();
        self.save_tsc_khz(vcpu);
        vcpu.kvm_get_msrs(&mut self.msrs).unwrap();
        vcpu.get(&mut self.vcpu_events).unwrap();
    }

    fn restore_files<F: AsFd>(&self, vcpu: &FileVcpu<F>) {
        self.restore_tsc_khz(vcpu);
        vcpu.set(&self.mp_state).unwrap();
        vcpu.kvm_set_regs(&self.regs).unwrap();
        vcpu.kvm_set_sregs(&self.sregs).unwrap();
        vcpu.set_xsave(self.xsave.bytes()).unwrap();
        vcpu.set(&self.xcrs).unwrap();
        vcpu.set(&self.debugregs).unwrap();
        vcpu.set(&self.lapic).unwrap();
        self.restore_msrs(vcpu);
        vcpu.set(&self.vcpu_events).unwrap();
    }

    fn save<V: Vcpu>(&mut self, vcpu: &V) {
        let fd = vcpu.as_fd().as_raw_fd();
        let area = self.xsave.data_mut();
        // SAFETY: each writes one structure of this type, or an area of this size.
        unsafe {
            get_mp_state(fd, &mut self.mp_state).unwrap();
            vcpu.kvm_get_regs(&mut self.regs).unwrap();
            vcpu.kvm_get_sregs(&mut self.sregs).unwrap();
            get_xsave(fd, area.as_mut_ptr()).unwrap();
            get_xcrs(fd, &mut self.xcrs).unwrap();
            get_debugregs(fd, &mut self.debugregs).unwrap();
            get_lapic(fd, &mut self.lapic).unwrap();
        }
        self.save_tsc_khz(vcpu);
        vcpu.kvm_get_msrs(&mut self.msrs).unwrap();
        // SAFETY: it writes one structure of this type.
        unsafe { get_vcpu_events(fd, &mut self.vcpu_events) }.unwrap();
    }

    fn restore<V: Vcpu>(&self, vcpu: &V) {
        let fd = vcpu.as_fd().as_raw_fd();
        self.restore_tsc_khz(vcpu);
        // SAFETY: each reads one structure of this type, or an area of this size.
        unsafe {
            set_mp_state(fd, &self.mp_state).unwrap();
            vcpu.kvm_set_regs(&self.regs).unwrap();
            vcpu.kvm_set_sregs(&self.sregs).unwrap();
            set_xsave(fd, self.xsave.data().as_ptr()).unwrap();
            set_xcrs(fd, &self.xcrs).unwrap();
            set_debugregs(fd, &self.debugregs).unwrap();
            set_lapic(fd, &self.lapic).unwrap();
        }
        self.restore_msrs(vcpu);
        // SAFETY: it reads one structure of this type.
        unsafe { set_vcpu_events(fd, &self.vcpu_events) }.unwrap();
    }

    fn restore_msrs<V: Vcpu>(&self, vcpu: &V) {
        let set = vcpu.kvm_set_msrs(&self.msrs).unwrap();
        assert!(set == self.msrs.as_slice().len());
    }

    fn save_tsc_khz<V: Vcpu>(&mut self, vcpu: &V) {
        // SAFETY: the request touches no memory.
        let khz = unsafe { get_tsc_khz(vcpu.as_fd().as_raw_fd()) }.unwrap();
        self.tsc_khz = khz.cast_unsigned();
    }

    fn restore_tsc_khz<V: Vcpu>(&self, vcpu: &V) {
        let khz = self.tsc_khz.cast_signed();
        // SAFETY: the request touches no memory.
        unsafe { set_tsc_khz(vcpu.as_fd().as_raw_fd(), khz) }.unwrap();
    }
}

/// By a call for each part and, where the interface has none, an ioctl.
fn by_calls<B: StaticForm>(form: &B, guest: Guest) -> Prepared<'_> {
    let fixture = Fixture::with_apic(form, guest)?;
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
    let fixture = Fixture::with_apic(form, guest)?;
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
    let fixture = Fixture::with_apic(form, guest)?;
    let mut saved = Saved::new(&fixture)?;
    let steps = Steps::new(fixture, move |f| {
        saved.save_merged(&f.vcpu);
        saved.regs.r8 += 1;
        saved.restore_merged(&f.vcpu);
    });
    steps.check(|f, calls| f.check_changes(calls))
}
