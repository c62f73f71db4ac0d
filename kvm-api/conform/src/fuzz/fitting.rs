//! Random arguments for a parameter.

use clap::ValueEnum;
use fastrand::Rng;
use kvm_sys::{AnyCall, ProcessCall, RangeCall};

use super::argument::{Arg, Fd, NUMBERS, Place};
use super::rows::CallRow;
use crate::parameters::Parameter;

pub fn any(rng: &mut Rng) -> Arg {
    match rng.u8(..8) {
        0 | 1 => Arg::Fd(pick(Fd::value_variants(), rng)),
        2 | 3 => Arg::Place(pick(Place::value_variants(), rng)),
        4 => Arg::Number(rng.u64(..)),
        _ => Arg::Number(pick(&NUMBERS, rng)),
    }
}

pub fn pick<T: Copy>(values: &[T], rng: &mut Rng) -> T {
    values[rng.usize(..values.len())]
}

/// An argument of the parameter's kind; now and then one of any kind.
pub fn fitting(parameter: &Parameter, row: &CallRow, rng: &mut Rng) -> Arg {
    if rng.u8(..16) == 0 {
        any(rng)
    } else {
        described(parameter, row, rng)
    }
}

/// An argument as the call's description for syzkaller allows it.
pub fn described(parameter: &Parameter, row: &CallRow, rng: &mut Rng) -> Arg {
    if let Some(target) = parameter.target() {
        return Arg::Place(Place::of_type(target));
    }
    match (parameter.name, parameter.declared) {
        ("fd", _) => Arg::Fd(match row.call.fd {
            kvm_sys::Fd::Vcpu => pick(&[Fd::Vcpu0, Fd::Vcpu1, Fd::New], rng),
            // The bound VM is bound already.
            kvm_sys::Fd::Vm if row.call == AnyCall::Process(ProcessCall::kvm_bind_vm) => {
                pick(&[Fd::Vm0, Fd::Vm1, Fd::New], rng)
            }
            kvm_sys::Fd::Vm => pick(&[Fd::Vm0, Fd::Vm1, Fd::BoundVm, Fd::New], rng),
            kvm_sys::Fd::System | kvm_sys::Fd::None => pick(&[Fd::Kvm, Fd::Vm0], rng),
            kvm_sys::Fd::VcpuOrTask => pick(&[Fd::Vcpu0, Fd::Vcpu1, Fd::New, Fd::Pidfd], rng),
        }),
        ("slot", _) => Arg::Number(rng.u64(..6)),
        ("address_space", _) => Arg::Number(rng.u64(..2)),
        ("attributes", _) => Arg::Number(rng.u64(..2) << 3),
        ("flags", _) if row.call == AnyCall::Range(RangeCall::kvm_get_dirty_range) => {
            Arg::Number(rng.u64(..2))
        }
        ("flags", _) => Arg::Number(rng.u64(..4)),
        ("guest_phys_addr", _) => Arg::Number(rng.u64(..32) << 12),
        ("size", "size_t") if row.call == AnyCall::Process(ProcessCall::kvm_map_memory) => {
            Arg::Number(rng.u64(..6) << 12)
        }
        ("size", "size_t") => Arg::Number(size_of::<kvm_sys::kvm_vcpu_state>() as u64),
        ("size", _) => Arg::Number(rng.u64(..6) << 12),
        ("userspace_addr", _) => Arg::Place(Place::Memory),
        ("irq", _) => Arg::Number(rng.u64(..257)),
        _ => Arg::Number(rng.u64(..256)),
    }
}
