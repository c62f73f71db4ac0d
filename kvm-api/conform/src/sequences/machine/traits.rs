//! The calls of the trait that take a file descriptor, with valid arguments.
//! `kvm_run` is not among them: it also takes the mapping of the vCPU.

use std::os::fd::BorrowedFd;

use kvm_api::kvm_sys::*;
use kvm_api::{Errno, Kvm};

/// Makes the call.
type Make = fn(&dyn Kvm, BorrowedFd<'_>) -> Result<(), Errno>;

/// A call of the trait, and valid arguments for it.
pub struct OfTrait {
    pub call: FlatCall,
    pub make: Make,
}

const fn of(call: FlatCall, make: Make) -> OfTrait {
    OfTrait { call, make }
}

pub const OF_TRAIT: &[OfTrait] = &[
    of(FlatCall::kvm_get_msr_index_list, |kvm, fd| {
        let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES).expect("there is room");
        kvm.kvm_get_msr_index_list(fd, &mut list)
    }),
    of(FlatCall::kvm_get_vcpu_mmap_size, |kvm, fd| {
        kvm.kvm_get_vcpu_mmap_size(fd).map(drop)
    }),
    of(FlatCall::kvm_check_extension, |kvm, fd| {
        kvm.kvm_check_extension(fd, KVM_CAP_NR_MEMSLOTS).map(drop)
    }),
    of(FlatCall::kvm_set_memory_region, |kvm, fd| {
        kvm.kvm_set_memory_region(fd, 4, 0, 1 << 32, 0x1000)
    }),
    of(FlatCall::kvm_create_vcpu, |kvm, fd| {
        kvm.kvm_create_vcpu(fd).map(drop)
    }),
    of(FlatCall::kvm_get_dirty_log, |kvm, fd| {
        // SAFETY: no slot of these tests has more than 64 pages.
        unsafe { kvm.kvm_get_dirty_log(fd, 0, &mut [0]) }
    }),
    of(FlatCall::kvm_get_memory_alias, |kvm, fd| {
        kvm.kvm_get_memory_alias(fd, &mut kvm_memory_alias::default())
    }),
    of(FlatCall::kvm_set_user_memory_region, |kvm, fd| {
        // SAFETY: a slot that is deleted needs no memory.
        unsafe { kvm.kvm_set_user_memory_region(fd, 4, 0, 0, 0, 0) }
    }),
    of(FlatCall::kvm_set_memory_alias, |kvm, fd| {
        kvm.kvm_set_memory_alias(fd, &kvm_memory_alias::default())
    }),
    of(FlatCall::kvm_get_regs, |kvm, fd| {
        kvm.kvm_get_regs(fd, &mut kvm_regs::default())
    }),
    of(FlatCall::kvm_set_regs, |kvm, fd| {
        kvm.kvm_set_regs(fd, &kvm_regs::default())
    }),
    of(FlatCall::kvm_get_sregs, |kvm, fd| {
        kvm.kvm_get_sregs(fd, &mut kvm_sregs::default())
    }),
    of(FlatCall::kvm_set_sregs, |kvm, fd| {
        kvm.kvm_set_sregs(fd, &kvm_sregs::default())
    }),
    of(FlatCall::kvm_translate, |kvm, fd| {
        kvm.kvm_translate(fd, 0, &mut 0, &mut 0, &mut 0, &mut 0)
    }),
    of(FlatCall::kvm_interrupt, |kvm, fd| kvm.kvm_interrupt(fd, 32)),
    of(FlatCall::kvm_debug_guest, |kvm, fd| {
        kvm.kvm_debug_guest(fd, &kvm_guest_debug::default())
    }),
    of(FlatCall::kvm_get_msrs, |kvm, fd| {
        let mut msrs = Msrs::new(0).expect("none is few");
        kvm.kvm_get_msrs(fd, &mut msrs).map(drop)
    }),
    of(FlatCall::kvm_set_msrs, |kvm, fd| {
        let msrs = Msrs::new(0).expect("none is few");
        kvm.kvm_set_msrs(fd, &msrs).map(drop)
    }),
    of(FlatCall::kvm_set_cpuid, |kvm, fd| {
        kvm.kvm_set_cpuid(fd, &CpuId::new(0).expect("none is few"))
    }),
    of(FlatCall::kvm_set_signal_mask, |kvm, fd| {
        kvm.kvm_set_signal_mask(fd, None)
    }),
    of(FlatCall::kvm_get_fpu, |kvm, fd| {
        kvm.kvm_get_fpu(fd, &mut kvm_fpu::default())
    }),
    of(FlatCall::kvm_set_fpu, |kvm, fd| {
        kvm.kvm_set_fpu(fd, &kvm_fpu::default())
    }),
];

const _: () = assert!(OF_TRAIT.len() + 2 == FlatCall::ALL.len());
