//! Random arguments for a parameter.

use fastrand::Rng;

use super::argument::{Arg, Fd, NUMBERS, Place};
use super::rows::CallRow;

/// An argument of any kind.
pub fn any(rng: &mut Rng) -> Arg {
    match rng.u8(..8) {
        0 | 1 => Arg::Fd(Fd::ALL[rng.usize(..Fd::ALL.len())].1),
        2 | 3 => Arg::Place(Place::ALL[rng.usize(..Place::ALL.len())].1),
        4 => Arg::Number(rng.u64(..)),
        _ => Arg::Number(NUMBERS[rng.usize(..NUMBERS.len())]),
    }
}

/// An argument of the parameter's kind; now and then one of any kind.
pub fn fitting(parameter: &str, call: &CallRow, rng: &mut Rng) -> Arg {
    if rng.u8(..16) == 0 {
        any(rng)
    } else {
        described(parameter, call, rng)
    }
}

/// An argument as the call's description for syzkaller allows it.
pub fn described(parameter: &str, call: &CallRow, rng: &mut Rng) -> Arg {
    if parameter == "int fd" {
        return Arg::Fd(match call.fd {
            kvm_sys::Fd::Vcpu => [Fd::Vcpu0, Fd::Vcpu1, Fd::New][rng.usize(..3)],
            kvm_sys::Fd::Vm => [Fd::Vm0, Fd::Vm1, Fd::New][rng.usize(..3)],
            kvm_sys::Fd::System | kvm_sys::Fd::None => [Fd::Kvm, Fd::Vm0][rng.usize(..2)],
        });
    }
    if parameter == "int pidfd" {
        return Arg::Fd(Fd::Pidfd);
    }
    if parameter == "size_t size" {
        // The size of struct kvm_vcpu_state.
        return Arg::Number(64);
    }
    if parameter.contains('*') {
        return Arg::Place(Place::of(parameter));
    }
    let name = parameter.rsplit(' ').next().unwrap_or_default();
    match name {
        "slot" => Arg::Number(rng.u64(..6)),
        "flags" => Arg::Number(rng.u64(..4)),
        "guest_phys_addr" => Arg::Number(rng.u64(..32) << 12),
        "size" => Arg::Number(rng.u64(..6) << 12),
        "userspace_addr" => Arg::Place(Place::Memory),
        "irq" => Arg::Number(rng.u64(..257)),
        _ => Arg::Number(rng.u64(..256)),
    }
}
