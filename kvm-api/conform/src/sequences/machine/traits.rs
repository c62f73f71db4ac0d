//! The calls of the trait that take a file descriptor, with valid arguments.

use std::os::fd::BorrowedFd;

use kvm_api::kvm_sys::*;
use kvm_api::{Errno, Kvm};

/// Makes the call.
type Make = fn(&dyn Kvm, BorrowedFd<'_>) -> Result<(), Errno>;

pub struct OfTrait {
    pub name: &'static str,
    /// Whether it takes a vCPU rather than a VM.
    pub on_vcpu: bool,
    /// Whether the backend `files` makes it through a file of the vCPU.
    pub by_file: bool,
    pub make: Make,
}

const fn vm(name: &'static str, make: Make) -> OfTrait {
    OfTrait {
        name,
        on_vcpu: false,
        by_file: false,
        make,
    }
}

const fn vcpu(name: &'static str, make: Make) -> OfTrait {
    OfTrait {
        name,
        on_vcpu: true,
        by_file: false,
        make,
    }
}

const fn file(name: &'static str, make: Make) -> OfTrait {
    OfTrait {
        by_file: true,
        ..vcpu(name, make)
    }
}

pub const OF_TRAIT: &[OfTrait] = &[
    vm("kvm_get_msr_index_list", |kvm, fd| {
        let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES).expect("there is room");
        kvm.kvm_get_msr_index_list(fd, &mut list)
    }),
    vm("kvm_get_vcpu_mmap_size", |kvm, fd| {
        kvm.kvm_get_vcpu_mmap_size(fd).map(drop)
    }),
    vm("kvm_check_extension", |kvm, fd| {
        kvm.kvm_check_extension(fd, KVM_CAP_NR_MEMSLOTS).map(drop)
    }),
    vm("kvm_set_memory_region", |kvm, fd| {
        kvm.kvm_set_memory_region(fd, 4, 0, 1 << 32, 0x1000)
    }),
    vm("kvm_create_vcpu", |kvm, fd| {
        kvm.kvm_create_vcpu(fd).map(drop)
    }),
    vm("kvm_get_dirty_log", |kvm, fd| {
        // SAFETY: no slot of these tests has more than 64 pages.
        unsafe { kvm.kvm_get_dirty_log(fd, 0, &mut [0]) }
    }),
    vm("kvm_get_memory_alias", |kvm, fd| {
        kvm.kvm_get_memory_alias(fd, &mut kvm_memory_alias::default())
    }),
    vm("kvm_set_user_memory_region", |kvm, fd| {
        // SAFETY: a slot that is deleted needs no memory.
        unsafe { kvm.kvm_set_user_memory_region(fd, 4, 0, 0, 0, 0) }
    }),
    vm("kvm_set_memory_alias", |kvm, fd| {
        kvm.kvm_set_memory_alias(fd, &kvm_memory_alias::default())
    }),
    file("kvm_get_regs", |kvm, fd| {
        kvm.kvm_get_regs(fd, &mut kvm_regs::default())
    }),
    file("kvm_set_regs", |kvm, fd| {
        kvm.kvm_set_regs(fd, &kvm_regs::default())
    }),
    file("kvm_get_sregs", |kvm, fd| {
        kvm.kvm_get_sregs(fd, &mut kvm_sregs::default())
    }),
    file("kvm_set_sregs", |kvm, fd| {
        kvm.kvm_set_sregs(fd, &kvm_sregs::default())
    }),
    vcpu("kvm_translate", |kvm, fd| {
        kvm.kvm_translate(fd, 0, &mut 0, &mut 0, &mut 0, &mut 0)
    }),
    file("kvm_interrupt", |kvm, fd| kvm.kvm_interrupt(fd, 32)),
    file("kvm_debug_guest", |kvm, fd| {
        kvm.kvm_debug_guest(fd, &kvm_guest_debug::default())
    }),
    file("kvm_get_msrs", |kvm, fd| {
        let mut msrs = Msrs::new(0).expect("none is few");
        kvm.kvm_get_msrs(fd, &mut msrs).map(drop)
    }),
    file("kvm_set_msrs", |kvm, fd| {
        let msrs = Msrs::new(0).expect("none is few");
        kvm.kvm_set_msrs(fd, &msrs).map(drop)
    }),
    file("kvm_set_cpuid", |kvm, fd| {
        kvm.kvm_set_cpuid(fd, &CpuId::new(0).expect("none is few"))
    }),
    file("kvm_set_signal_mask", |kvm, fd| {
        kvm.kvm_set_signal_mask(fd, None)
    }),
    file("kvm_get_fpu", |kvm, fd| {
        kvm.kvm_get_fpu(fd, &mut kvm_fpu::default())
    }),
    file("kvm_set_fpu", |kvm, fd| {
        kvm.kvm_set_fpu(fd, &kvm_fpu::default())
    }),
];
