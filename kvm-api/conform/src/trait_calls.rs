//! The calls of the traits that take a file descriptor, with valid arguments for a guest
//! that counts (`guests::programs::COUNT`). `kvm_run` is not among them: it also takes
//! the mapping of the vCPU.
//!
//! Each function makes its call even if a preparation fails. It can be called repeatedly.

use std::os::fd::BorrowedFd;

use guests::ENTRY;
use guests::msr::SYSENTER_CS;
use kvm_api::kvm_sys::*;
use kvm_api::{Errno, Form, GuestMemory, Kvm, Result, Vcpu};

use crate::requests::msrs;

/// The forms that make each call in their own way. The others build on one of these.
pub fn complete_forms() -> impl Iterator<Item = Form> {
    let has_all = |form: &Form| CALLS.iter().all(|call| form.has_own(call));
    Form::ALL.into_iter().filter(has_all)
}

/// Makes a call on a VM.
pub type OnVm = fn(&dyn Kvm, BorrowedFd<'_>) -> Result<()>;

/// Makes a call on a vCPU.
pub type OnVcpu = fn(&dyn Vcpu) -> Result<()>;

/// Makes a call, on a VM or on a vCPU.
pub enum Make {
    Vm(OnVm),
    Vcpu(OnVcpu),
}

/// The call of this number, modulo the number of calls.
pub fn nth(number: usize) -> (FlatCall, Make) {
    let number = number % (ON_VM.len() + ON_VCPU.len());
    match number.checked_sub(ON_VM.len()) {
        None => (ON_VM[number].0, Make::Vm(ON_VM[number].1)),
        Some(number) => (ON_VCPU[number].0, Make::Vcpu(ON_VCPU[number].1)),
    }
}

/// The calls on a VM, which do not wait for a vCPU that runs.
pub const ON_VM: [(FlatCall, OnVm); 9] = [
    (FlatCall::kvm_get_msr_index_list, |kvm, vm| {
        let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES).expect("there is room");
        kvm.kvm_get_msr_index_list(vm, &mut list)
    }),
    (FlatCall::kvm_get_vcpu_mmap_size, |kvm, vm| {
        kvm.kvm_get_vcpu_mmap_size(vm).map(drop)
    }),
    (FlatCall::kvm_check_extension, |kvm, vm| {
        kvm.kvm_check_extension(vm, KVM_CAP_NR_MEMSLOTS).map(drop)
    }),
    (FlatCall::kvm_set_memory_region, |kvm, vm| {
        kvm.kvm_set_memory_region(vm, 5, 0, 0x100_0000, 0x1000)?;
        kvm.kvm_set_memory_region(vm, 5, 0, 0x100_0000, 0)
    }),
    (FlatCall::kvm_create_vcpu, |kvm, vm| {
        kvm.kvm_create_vcpu(vm).map(drop)
    }),
    (FlatCall::kvm_get_dirty_log, |kvm, vm| {
        let flags = slot::KVM_MEM_LOG_DIRTY_PAGES;
        let set = kvm.kvm_set_memory_region(vm, 6, flags, 0x200_0000, 0x1000);
        // SAFETY: the slot has one page.
        let fetched = unsafe { kvm.kvm_get_dirty_log(vm, 6, &mut [0]) };
        set.and(fetched)?;
        kvm.kvm_set_memory_region(vm, 6, 0, 0x200_0000, 0)
    }),
    (FlatCall::kvm_get_memory_alias, |kvm, vm| {
        kvm.kvm_get_memory_alias(vm, &mut kvm_memory_alias::default())
    }),
    (FlatCall::kvm_set_user_memory_region, |kvm, vm| {
        let memory = GuestMemory::anonymous(0x1000)?;
        let address = memory.as_ptr().expose_provenance() as u64;
        // SAFETY: the slot is deleted before the memory goes.
        unsafe {
            kvm.kvm_set_user_memory_region(vm, 7, 0, 0x300_0000, 0x1000, address)?;
            kvm.kvm_set_user_memory_region(vm, 7, 0, 0x300_0000, 0, 0)
        }
    }),
    (FlatCall::kvm_set_memory_alias, |kvm, vm| {
        let mut alias = kvm_memory_alias {
            guest_phys_addr: 0x500_0000,
            memory_size: 0x1000,
            target_phys_addr: 0x400_0000,
            ..Default::default()
        };
        let set = kvm.kvm_set_memory_region(vm, 8, 0, 0x400_0000, 0x1000);
        let aliased = kvm.kvm_set_memory_alias(vm, &alias);
        set.and(aliased)?;
        alias.memory_size = 0;
        kvm.kvm_set_memory_alias(vm, &alias)?;
        kvm.kvm_set_memory_region(vm, 8, 0, 0x400_0000, 0)
    }),
];

/// The calls on a vCPU, which wait for its run to end.
pub const ON_VCPU: [(FlatCall, OnVcpu); 13] = [
    (FlatCall::kvm_get_regs, |vcpu| {
        let mut regs = kvm_regs::default();
        vcpu.kvm_get_regs(&mut regs)?;
        // The guest is between two of its two instructions.
        assert!([ENTRY, ENTRY + 5].contains(&regs.rip), "{:#x}", regs.rip);
        Ok(())
    }),
    (FlatCall::kvm_set_regs, |vcpu| {
        vcpu.kvm_set_regs(&kvm_regs {
            rip: ENTRY,
            rflags: 2,
            ..Default::default()
        })
    }),
    (FlatCall::kvm_get_sregs, |vcpu| {
        vcpu.kvm_get_sregs(&mut kvm_sregs::default())
    }),
    (FlatCall::kvm_set_sregs, |vcpu| {
        vcpu.kvm_set_sregs(&kvm_sregs::default())
    }),
    (FlatCall::kvm_translate, |vcpu| {
        let (mut address, mut valid) = (0, 0);
        vcpu.kvm_translate(ENTRY, &mut address, &mut valid, &mut 0, &mut 0)?;
        assert_eq!((address, valid), (ENTRY, 1));
        Ok(())
    }),
    (FlatCall::kvm_interrupt, |vcpu| {
        // The guest takes no interrupts, so one may already be pending.
        match vcpu.kvm_interrupt(32) {
            Err(Errno::EEXIST) => Ok(()),
            other => other,
        }
    }),
    (FlatCall::kvm_debug_guest, |vcpu| {
        vcpu.kvm_debug_guest(&kvm_guest_debug::default())
    }),
    (FlatCall::kvm_get_msrs, |vcpu| {
        assert_eq!(vcpu.kvm_get_msrs(&mut msrs([(SYSENTER_CS, 0)]))?, 1);
        Ok(())
    }),
    (FlatCall::kvm_set_msrs, |vcpu| {
        assert_eq!(vcpu.kvm_set_msrs(&msrs([(SYSENTER_CS, 0)]))?, 1);
        Ok(())
    }),
    (FlatCall::kvm_set_cpuid, |vcpu| {
        vcpu.kvm_set_cpuid(&CpuId::new(0).expect("an empty list fits"))
    }),
    (FlatCall::kvm_set_signal_mask, |vcpu| {
        vcpu.kvm_set_signal_mask(None)
    }),
    (FlatCall::kvm_get_fpu, |vcpu| {
        vcpu.kvm_get_fpu(&mut kvm_fpu::default())
    }),
    (FlatCall::kvm_set_fpu, |vcpu| {
        vcpu.kvm_set_fpu(&kvm_fpu::default())
    }),
];

const _: () = assert!(ON_VM.len() + ON_VCPU.len() + 2 == FlatCall::ALL.len());
