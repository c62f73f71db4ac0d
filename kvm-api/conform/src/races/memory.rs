//! Memory slots are set, moved and deleted while a guest writes there.

use std::os::fd::{AsFd, BorrowedFd};

use guests::programs;
use kvm_api::kvm_sys::kvm_memory_alias;
use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_api::{Errno, GuestMemory, Reason, Result};

use super::Race;
use super::guest::{FAR, PAGE, SLOT, SharedKvm, word};
use super::round::{Pairing, Round};
use super::threads::repeating;

pub const RACES: &[Race] = &[
    ("user memory is replaced under a guest", replaced),
    ("the kernel's memory is replaced under a guest", kernels),
];

/// The address of the alias, at which the guest writes, too.
const ALIAS: u64 = 0x3_0000;
/// The number of changes to the slot in a round.
const CHANGES: u32 = 10;

/// A run ends when a signal interrupts it, or when the guest finds no memory.
fn expected(end: Result<Reason>) {
    match end {
        Ok(Reason::Mmio { .. }) | Err(Errno::EINTR) => {}
        other => panic!("{other:?}"),
    }
}

fn replaced(round: &Round) {
    // Declared before the guest, to outlive it.
    let memories = [(); 2].map(|()| GuestMemory::anonymous(PAGE).unwrap());
    let guest = round.guest(programs::COUNT_FAR);
    repeating(|threads| {
        let runner = threads.run(round.runner(), &guest, expected);
        let vm = guest.vm.as_fd();
        threads.repeat(move || {
            // SAFETY: the slot has one page.
            match unsafe { round.interface(2).kvm_get_dirty_log(vm, SLOT, &mut [0]) } {
                // The slot is not set, or does not have a log.
                Ok(()) | Err(Errno::ENOENT) => {}
                other => panic!("{other:?}"),
            }
            round.pause();
        });
        for n in 0..CHANGES {
            let memory = &memories[n as usize % 2];
            let flags = [0, KVM_MEM_LOG_DIRTY_PAGES][round.random.below(2) as usize];
            let set = |flags, at, size| {
                // SAFETY: the memory outlives the guest.
                unsafe { guest.set_slot(round.other(), flags, at, size, memory.as_ptr()) }
            };
            set(flags, FAR, PAGE).unwrap();
            round.pause();
            // Moved, and with or without a log.
            set(flags ^ KVM_MEM_LOG_DIRTY_PAGES, FAR, PAGE).unwrap();
            set(flags ^ KVM_MEM_LOG_DIRTY_PAGES, ALIAS, PAGE).unwrap();
            round.pause();
            set(0, FAR, 0).unwrap();
            // After the call has returned, the guest cannot use the memory.
            let left = word(memory, 0);
            round.pause();
            let now = word(memory, 0);
            assert_eq!(now, left, "the guest writes memory that it has lost");
            let mut rest = [0; PAGE - 4];
            memory.read(4, &mut rest).unwrap();
            assert!(rest.iter().all(|it| *it == 0), "the guest writes elsewhere");
        }
        runner.end();
    });
}

fn kernels(round: &Round) {
    let guest = round.guest(programs::COUNT_FAR);
    let mixed = round.pairing == Pairing::Mixed;
    repeating(|threads| {
        let vm = guest.vm.as_fd();
        let runner = threads.run(round.runner(), &guest, move |end| {
            // An interface does not know the aliases of the other, and may
            // delete the memory behind them.
            if !(mixed && end == Err(Errno::EFAULT)) {
                expected(end);
            }
        });
        let mut alias = kvm_memory_alias {
            guest_phys_addr: ALIAS,
            target_phys_addr: FAR,
            ..Default::default()
        };
        threads.repeat(move || {
            alias.memory_size ^= PAGE as u64;
            set_alias(round, round.interface(2), vm, &alias);
        });
        threads.repeat(move || map(round, round.interface(3), vm));
        for n in 0..CHANGES {
            let kvm = round.interface(1 + n as usize / 2);
            let size = [PAGE as u64, 0][n as usize % 2];
            match kvm.kvm_set_memory_region(vm, SLOT, 0, FAR, size) {
                Ok(()) => {}
                // An alias shows the memory.
                Err(Errno::EBUSY) if size == 0 => {}
                // The memory was not deleted, or it belongs to the other
                // interface.
                Err(Errno::EINVAL) if mixed => {}
                other => panic!("size {size}: {other:?}"),
            }
            round.pause();
        }
        runner.end();
    });
}

/// Sets or deletes an alias of the slot.
fn set_alias(round: &Round, kvm: &SharedKvm, vm: BorrowedFd<'_>, alias: &kvm_memory_alias) {
    match kvm.kvm_set_memory_alias(vm, alias) {
        // The memory of the alias, or the alias, does not exist.
        Ok(()) | Err(Errno::EINVAL) => {}
        other => panic!("{alias:?}: {other:?}"),
    }
    round.pause();
    let mut shown = kvm_memory_alias::default();
    kvm.kvm_get_memory_alias(vm, &mut shown).unwrap();
    let set = (shown.guest_phys_addr, shown.memory_size);
    assert!(set == (ALIAS, PAGE as u64) || set == (0, 0), "{shown:?}");
}

/// Maps the memory. Its content remains, even if the slot is deleted.
fn map(round: &Round, kvm: &SharedKvm, vm: BorrowedFd<'_>) {
    const AT: usize = 0x10;
    const MARK: u32 = 0x5a5a;
    match kvm.kvm_map_memory(vm, FAR, PAGE) {
        Ok(mut memory) => {
            let before = word(&memory, AT);
            assert!([0, MARK].contains(&before), "{before:#x}");
            memory.write(AT, &MARK.to_le_bytes()).unwrap();
            round.pause();
            assert_eq!(word(&memory, AT), MARK);
        }
        Err(Errno::ENODEV) => {}
        Err(other) => panic!("{other:?}"),
    }
}
