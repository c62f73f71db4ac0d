//! kvm_get_state, kvm_set_state: sizes, bits, descriptors and pointers.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use kvm_api::kvm_sys::*;
use kvm_api::{Errno, Result};

use crate::raw;
use crate::state::{ALL, machine, on_syscall};
use crate::vcpu_state::Whole;
use crate::{Stage, Test};
use kvm_api::Form;

pub const TESTS: &[(Form, Test)] = &[
    on_syscall("kvm_get_state::sizes_and_bits", get_sizes),
    on_syscall("kvm_get_state::descriptors_and_pointers", get_misuse),
    on_syscall("kvm_set_state::sizes_and_bits", set_sizes),
    on_syscall("kvm_set_state::descriptors_and_pointers", set_misuse),
];

/// Makes one of the calls below the trait.
pub fn raw_state(
    number: libc::c_long,
    fd: BorrowedFd<'_>,
    state: *const kvm_vcpu_state,
    size: usize,
) -> Result<i64> {
    // SAFETY: the kernel writes only to memory that the tests have made for it.
    Errno::result(unsafe { libc::syscall(number, fd.as_raw_fd(), state, size) })
}

/// The size of the structure.
pub const SIZE: usize = size_of::<kvm_vcpu_state>();
/// Both calls.
pub const CALLS: [libc::c_long; 2] = [__NR_kvm_get_state, __NR_kvm_set_state];

/// The addresses of every part.
pub fn addresses(whole: &mut Whole) -> kvm_vcpu_state {
    kvm_vcpu_state {
        parts: ALL,
        regs: (&raw mut whole.regs).expose_provenance() as u64,
        sregs: (&raw mut whole.sregs).expose_provenance() as u64,
        fpu: (&raw mut whole.fpu).expose_provenance() as u64,
        msrs: whole.msrs.as_mut_fam_struct_ptr().expose_provenance() as u64,
        debugregs: (&raw mut whole.debugregs).expose_provenance() as u64,
        vcpu_events: (&raw mut whole.vcpu_events).expose_provenance() as u64,
        xcrs: (&raw mut whole.xcrs).expose_provenance() as u64,
        ..kvm_vcpu_state::default()
    }
}

fn get_sizes(stage: &Stage) {
    sizes(stage, __NR_kvm_get_state);
}

fn set_sizes(stage: &Stage) {
    sizes(stage, __NR_kvm_set_state);
}

fn sizes(stage: &Stage, number: libc::c_long) {
    let (machine, mut whole) = machine(stage);
    // Words of a later version after the current structure.
    let mut words = [0_u64; 513];
    // SAFETY: the array is longer than the structure, and as well aligned.
    unsafe {
        words
            .as_mut_ptr()
            .cast::<kvm_vcpu_state>()
            .write(addresses(&mut whole));
    }
    let call = |words: &[u64], size| {
        raw_state(number, machine.vcpu(), words.as_ptr().cast(), size).map(drop)
    };
    for size in [0, 8, KVM_VCPU_STATE_SIZE_VER0 - 1] {
        assert_eq!(call(&words, size), Err(Errno::EINVAL), "{size}");
    }
    for size in [
        KVM_VCPU_STATE_SIZE_VER0,
        SIZE - 8,
        SIZE,
        SIZE + 1,
        SIZE + 8,
        4096,
    ] {
        assert_eq!(call(&words, size), Ok(()), "{size}");
    }
    assert_eq!(call(&words, 4097), Err(Errno::E2BIG));
    assert_eq!(call(&words, usize::MAX), Err(Errno::E2BIG));
    words[SIZE / 8] = 1;
    assert_eq!(call(&words, SIZE), Ok(()));
    assert_eq!(call(&words, SIZE + 8), Err(Errno::E2BIG));
    words[SIZE / 8] = 0;
    for bit in SIZE / 8 - 1..64 {
        words[0] = ALL | 1 << bit;
        assert_eq!(call(&words, SIZE), Err(Errno::EINVAL), "bit {bit}");
    }
}

fn get_misuse(stage: &Stage) {
    misuse(stage, __NR_kvm_get_state);
}

fn set_misuse(stage: &Stage) {
    misuse(stage, __NR_kvm_set_state);
}

fn misuse(stage: &Stage, number: libc::c_long) {
    let (machine, mut whole) = machine(stage);
    let state = addresses(&mut whole);
    let device = raw::device();
    let (pipe, _) = nix::unistd::pipe().unwrap();
    for (fd, errno) in [
        (machine.vm(), Errno::ENOTTY),
        (pipe.as_fd(), Errno::ENOTTY),
        (device.as_fd(), Errno::EINVAL),
    ] {
        assert_eq!(raw_state(number, fd, &state, SIZE), Err(errno));
    }
    for bad in [0, 1 << 63] {
        let bad = std::ptr::without_provenance(bad);
        let result = raw_state(number, machine.vcpu(), bad, SIZE);
        assert_eq!(result, Err(Errno::EFAULT));
    }
}
