//! The calls of the trait that take a file descriptor, with valid arguments.
//! `kvm_run` is not among them: it also takes the mapping of the vCPU.

use std::os::fd::BorrowedFd;

use kvm_api::kvm_sys::*;
use kvm_api::{Errno, Kvm, Vcpu};

/// Makes the call, on a VM or on a vCPU.
pub enum Make {
    Vm(fn(&dyn Kvm, BorrowedFd<'_>) -> Result<(), Errno>),
    Vcpu(fn(&dyn Vcpu) -> Result<(), Errno>),
}

/// A call of the trait, and valid arguments for it.
pub struct OfTrait {
    pub call: FlatCall,
    pub make: Make,
}

const fn vm(call: FlatCall, make: fn(&dyn Kvm, BorrowedFd<'_>) -> Result<(), Errno>) -> OfTrait {
    let make = Make::Vm(make);
    OfTrait { call, make }
}

const fn vcpu(call: FlatCall, make: fn(&dyn Vcpu) -> Result<(), Errno>) -> OfTrait {
    let make = Make::Vcpu(make);
    OfTrait { call, make }
}

pub const OF_TRAIT: &[OfTrait] = &[
    vm(FlatCall::kvm_get_msr_index_list, |kvm, fd| {
        let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES).expect("there is room");
        kvm.kvm_get_msr_index_list(fd, &mut list)
    }),
    vm(FlatCall::kvm_get_vcpu_mmap_size, |kvm, fd| {
        kvm.kvm_get_vcpu_mmap_size(fd).map(drop)
    }),
    vm(FlatCall::kvm_check_extension, |kvm, fd| {
        kvm.kvm_check_extension(fd, KVM_CAP_NR_MEMSLOTS).map(drop)
    }),
    vm(FlatCall::kvm_set_memory_region, |kvm, fd| {
        kvm.kvm_set_memory_region(fd, 4, 0, 1 << 32, 0x1000)
    }),
    vm(FlatCall::kvm_create_vcpu, |kvm, fd| {
        kvm.kvm_create_vcpu(fd).map(drop)
    }),
    vm(FlatCall::kvm_get_dirty_log, |kvm, fd| {
        // SAFETY: no slot of these tests has more than 64 pages.
        unsafe { kvm.kvm_get_dirty_log(fd, 0, &mut [0]) }
    }),
    vm(FlatCall::kvm_get_memory_alias, |kvm, fd| {
        kvm.kvm_get_memory_alias(fd, &mut kvm_memory_alias::default())
    }),
    vm(FlatCall::kvm_set_user_memory_region, |kvm, fd| {
        // SAFETY: a slot that is deleted needs no memory.
        unsafe { kvm.kvm_set_user_memory_region(fd, 4, 0, 0, 0, 0) }
    }),
    vm(FlatCall::kvm_set_memory_alias, |kvm, fd| {
        kvm.kvm_set_memory_alias(fd, &kvm_memory_alias::default())
    }),
    vcpu(FlatCall::kvm_get_regs, |vcpu| {
        vcpu.kvm_get_regs(&mut kvm_regs::default())
    }),
    vcpu(FlatCall::kvm_set_regs, |vcpu| {
        vcpu.kvm_set_regs(&kvm_regs::default())
    }),
    vcpu(FlatCall::kvm_get_sregs, |vcpu| {
        vcpu.kvm_get_sregs(&mut kvm_sregs::default())
    }),
    vcpu(FlatCall::kvm_set_sregs, |vcpu| {
        vcpu.kvm_set_sregs(&kvm_sregs::default())
    }),
    vcpu(FlatCall::kvm_translate, |vcpu| {
        vcpu.kvm_translate(0, &mut 0, &mut 0, &mut 0, &mut 0)
    }),
    vcpu(FlatCall::kvm_interrupt, |vcpu| vcpu.kvm_interrupt(32)),
    vcpu(FlatCall::kvm_debug_guest, |vcpu| {
        vcpu.kvm_debug_guest(&kvm_guest_debug::default())
    }),
    vcpu(FlatCall::kvm_get_msrs, |vcpu| {
        let mut msrs = Msrs::new(0).expect("none is few");
        vcpu.kvm_get_msrs(&mut msrs).map(drop)
    }),
    vcpu(FlatCall::kvm_set_msrs, |vcpu| {
        let msrs = Msrs::new(0).expect("none is few");
        vcpu.kvm_set_msrs(&msrs).map(drop)
    }),
    vcpu(FlatCall::kvm_set_cpuid, |vcpu| {
        vcpu.kvm_set_cpuid(&CpuId::new(0).expect("none is few"))
    }),
    vcpu(FlatCall::kvm_set_signal_mask, |vcpu| {
        vcpu.kvm_set_signal_mask(None)
    }),
    vcpu(FlatCall::kvm_get_fpu, |vcpu| {
        vcpu.kvm_get_fpu(&mut kvm_fpu::default())
    }),
    vcpu(FlatCall::kvm_set_fpu, |vcpu| {
        vcpu.kvm_set_fpu(&kvm_fpu::default())
    }),
];

const _: () = assert!(OF_TRAIT.len() + 2 == FlatCall::ALL.len());
