//! Calls on a vCPU wait for its run to end. Calls on its VM do not wait.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::Duration;

use guests::ENTRY;
use kvm_api::kvm_sys::*;
use kvm_api::{Kvm, Result};
use nix::unistd::gettid;

use super::Race;
use super::guest::{Guest, wait_for_count};
use super::kick::kick;
use super::round::{Interface, Round};
use super::running::while_running;

pub const RACES: &[Race] = &[
    Race::new("calls on a running vcpu wait for it", on_the_vcpu),
    Race::new("calls on a running vcpu's VM do not wait", on_the_vm),
];

/// A call on a vCPU: its name, and a function that makes it and checks that it
/// succeeds.
pub type OnVcpu = (&'static str, fn(&dyn Kvm, BorrowedFd<'_>) -> Result<()>);

/// The calls that wait for the vCPU. They set the values that it already has.
pub const ON_VCPU: [OnVcpu; 13] = [
    ("kvm_get_regs", |kvm, vcpu| {
        let mut regs = kvm_regs::default();
        kvm.kvm_get_regs(vcpu, &mut regs)?;
        // The guest is between two of its two instructions.
        assert!([ENTRY, ENTRY + 5].contains(&regs.rip), "{:#x}", regs.rip);
        Ok(())
    }),
    ("kvm_set_regs", |kvm, vcpu| {
        let regs = kvm_regs {
            rip: ENTRY,
            rflags: 2,
            ..Default::default()
        };
        kvm.kvm_set_regs(vcpu, &regs)
    }),
    ("kvm_get_sregs", |kvm, vcpu| {
        kvm.kvm_get_sregs(vcpu, &mut kvm_sregs::default())
    }),
    ("kvm_set_sregs", |kvm, vcpu| {
        let mut sregs = kvm_sregs::default();
        kvm.kvm_get_sregs(vcpu, &mut sregs)?;
        kvm.kvm_set_sregs(vcpu, &sregs)
    }),
    ("kvm_translate", |kvm, vcpu| {
        let (mut address, mut valid, mut writeable, mut usermode) = (0, 0, 0, 0);
        kvm.kvm_translate(
            vcpu,
            ENTRY,
            &mut address,
            &mut valid,
            &mut writeable,
            &mut usermode,
        )?;
        assert_eq!((address, valid), (ENTRY, 1));
        Ok(())
    }),
    ("kvm_interrupt", |kvm, vcpu| {
        // The guest takes no interrupts, so one may already be pending.
        match kvm.kvm_interrupt(vcpu, 32) {
            Err(kvm_api::Errno::EEXIST) => Ok(()),
            other => other,
        }
    }),
    ("kvm_debug_guest", |kvm, vcpu| {
        kvm.kvm_debug_guest(vcpu, &kvm_guest_debug::default())
    }),
    ("kvm_get_msrs", |kvm, vcpu| {
        let msrs = kvm.kvm_get_msrs(vcpu, &mut sysenter_eip())?;
        assert_eq!(msrs, 1);
        Ok(())
    }),
    ("kvm_set_msrs", |kvm, vcpu| {
        let msrs = kvm.kvm_set_msrs(vcpu, &sysenter_eip())?;
        assert_eq!(msrs, 1);
        Ok(())
    }),
    ("kvm_set_cpuid", |kvm, vcpu| {
        kvm.kvm_set_cpuid(vcpu, &CpuId::new(0).unwrap())
    }),
    ("kvm_set_signal_mask", |kvm, vcpu| {
        kvm.kvm_set_signal_mask(vcpu, None)
    }),
    ("kvm_get_fpu", |kvm, vcpu| {
        kvm.kvm_get_fpu(vcpu, &mut kvm_fpu::default())
    }),
    ("kvm_set_fpu", |kvm, vcpu| {
        let mut fpu = kvm_fpu::default();
        kvm.kvm_get_fpu(vcpu, &mut fpu)?;
        kvm.kvm_set_fpu(vcpu, &fpu)
    }),
];

fn sysenter_eip() -> Msrs {
    const MSR_IA32_SYSENTER_EIP: u32 = 0x176;
    Msrs::from_entries(&[kvm_msr_entry {
        index: MSR_IA32_SYSENTER_EIP,
        ..Default::default()
    }])
    .expect("one is not too many")
}

fn on_the_vcpu(round: &Round) {
    let mut guest = Guest::counting(round.runner());
    let (name, call) = ON_VCPU[round.number as usize % ON_VCPU.len()];
    let vcpu = guest.vcpu.as_fd();
    let (run, memory) = (&mut guest.run, &guest.memory);
    let (end, ()) = while_running(round.runner(), vcpu, run, memory, |stop| {
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let kvm = round.other();
            let caller = scope.spawn(move || {
                sender.send(gettid()).expect("the receiver waits");
                let answer = call(kvm, vcpu);
                assert_eq!(answer, Ok(()), "{name}, after the run");
            });
            let thread = receiver.recv().expect("the thread starts");
            sleep(Duration::from_millis(2));
            // Only a fatal signal ends the wait.
            kick(thread);
            wait_for_count(memory);
            sleep(Duration::from_millis(1));
            wait_for_count(memory);
            assert!(!caller.is_finished(), "{name} did not wait for the vcpu");
            stop();
        });
    });
    assert_eq!(end, Err(kvm_api::Errno::EINTR));
}

/// A call on a VM: its name, and a function that makes it and checks that it
/// succeeds.
pub type OnVm = (&'static str, fn(&Interface, BorrowedFd<'_>) -> Result<()>);

/// The calls that do not wait for a running vCPU.
pub const ON_VM: [OnVm; 9] = [
    ("kvm_get_msr_index_list", |kvm, vm| {
        let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES).expect("not too many");
        kvm.kvm_get_msr_index_list(vm, &mut list)
    }),
    ("kvm_get_vcpu_mmap_size", |kvm, vm| {
        kvm.kvm_get_vcpu_mmap_size(vm).map(drop)
    }),
    ("kvm_set_memory_region", |kvm, vm| {
        kvm.kvm_set_memory_region(vm, 5, 0, 0x100_0000, 0x1000)?;
        kvm.kvm_set_memory_region(vm, 5, 0, 0x100_0000, 0)
    }),
    ("kvm_create_vcpu", |kvm, vm| {
        kvm.kvm_create_vcpu(vm).map(drop)
    }),
    ("kvm_get_dirty_log", |kvm, vm| {
        kvm.kvm_set_memory_region(vm, 6, slot::KVM_MEM_LOG_DIRTY_PAGES, 0x200_0000, 0x1000)?;
        // SAFETY: the slot has one page.
        unsafe { kvm.kvm_get_dirty_log(vm, 6, &mut [0]) }?;
        kvm.kvm_set_memory_region(vm, 6, 0, 0x200_0000, 0)
    }),
    ("kvm_get_memory_alias", |kvm, vm| {
        kvm.kvm_get_memory_alias(vm, &mut kvm_memory_alias::default())
    }),
    ("kvm_check_extension", |kvm, vm| {
        kvm.kvm_check_extension(vm, KVM_CAP_NR_MEMSLOTS).map(drop)
    }),
    ("kvm_set_user_memory_region", |kvm, vm| {
        let memory = kvm_api::GuestMemory::anonymous(0x1000)?;
        let address = memory.as_ptr().expose_provenance() as u64;
        // SAFETY: the slot is deleted before the memory goes.
        unsafe {
            kvm.kvm_set_user_memory_region(vm, 7, 0, 0x300_0000, 0x1000, address)?;
            kvm.kvm_set_user_memory_region(vm, 7, 0, 0x300_0000, 0, 0)
        }
    }),
    ("kvm_set_memory_alias", |kvm, vm| {
        kvm.kvm_set_memory_region(vm, 8, 0, 0x400_0000, 0x1000)?;
        let mut alias = kvm_memory_alias {
            guest_phys_addr: 0x500_0000,
            memory_size: 0x1000,
            target_phys_addr: 0x400_0000,
            ..Default::default()
        };
        kvm.kvm_set_memory_alias(vm, &alias)?;
        alias.memory_size = 0;
        kvm.kvm_set_memory_alias(vm, &alias)?;
        kvm.kvm_set_memory_region(vm, 8, 0, 0x400_0000, 0)
    }),
];

fn on_the_vm(round: &Round) {
    let mut guest = Guest::counting(round.runner());
    let (vm, vcpu) = (guest.vm.as_fd(), guest.vcpu.as_fd());
    let (run, memory) = (&mut guest.run, &guest.memory);
    let (end, ()) = while_running(round.runner(), vcpu, run, memory, |_| {
        for (name, call) in ON_VM {
            // If the call waited for the vCPU, it would wait forever.
            assert_eq!(call(round.other(), vm), Ok(()), "{name}");
            round.pause();
        }
        wait_for_count(memory);
    });
    assert_eq!(end, Err(kvm_api::Errno::EINTR));
}
