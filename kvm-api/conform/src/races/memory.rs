//! Memory slots are set, moved and deleted while a guest writes there.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use guests::programs;
use kvm_api::kvm_sys::kvm_memory_alias;
use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_api::{Errno, GuestMemory, Reason, Result};

use super::Race;
use super::guest::Guest;
use super::round::{Interface, Pairing, Round};
use super::running::Running;

pub const RACES: &[Race] = &[
    Race::new("user memory is replaced under a guest", replaced),
    Race::new("the kernel's memory is replaced under a guest", kernels),
];

/// The address at which the guest writes, and that of its alias.
const FAR: u64 = 0x2_0000;
const ALIAS: u64 = 0x3_0000;
const PAGE: usize = 0x1000;
const SLOT: u32 = 1;
/// The number of changes to the slot in a round.
const CHANGES: u32 = 10;

fn first_word(memory: &GuestMemory) -> u32 {
    let mut word = [0; 4];
    memory.read(0, &mut word).unwrap();
    u32::from_le_bytes(word)
}

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
    let mut guest = Guest::new(round.runner(), programs::COUNT_FAR);
    let (vm, vcpu) = (guest.vm.as_fd(), guest.vcpu.as_fd());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let runner = Running::begin(scope, round.runner(), vcpu, &mut guest.run, expected);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // SAFETY: the slot has one page.
                match unsafe { round.interface(2).kvm_get_dirty_log(vm, SLOT, &mut [0]) } {
                    // The slot is not set, or does not have a log.
                    Ok(()) | Err(Errno::ENOENT) => {}
                    other => panic!("{other:?}"),
                }
                round.pause();
            }
        });
        for n in 0..CHANGES {
            let memory = &memories[n as usize % 2];
            let address = memory.as_ptr().expose_provenance() as u64;
            let flags = [0, KVM_MEM_LOG_DIRTY_PAGES][round.random.below(2) as usize];
            let set = |flags, at, size| {
                // SAFETY: the memory outlives the guest.
                unsafe {
                    round
                        .other()
                        .kvm_set_user_memory_region(vm, SLOT, flags, at, size, address)
                }
            };
            set(flags, FAR, PAGE as u64).unwrap();
            round.pause();
            // Moved, and with or without a log.
            set(flags ^ KVM_MEM_LOG_DIRTY_PAGES, FAR, PAGE as u64).unwrap();
            set(flags ^ KVM_MEM_LOG_DIRTY_PAGES, ALIAS, PAGE as u64).unwrap();
            round.pause();
            set(0, FAR, 0).unwrap();
            // After the call has returned, the guest cannot use the memory.
            let left = first_word(memory);
            round.pause();
            assert_eq!(
                first_word(memory),
                left,
                "the guest writes what it has lost"
            );
            let mut rest = [0; PAGE - 4];
            memory.read(4, &mut rest).unwrap();
            assert!(rest.iter().all(|it| *it == 0), "the guest writes elsewhere");
        }
        over.store(true, Ordering::Relaxed);
        runner.end();
    });
}

fn kernels(round: &Round) {
    let mut guest = Guest::new(round.runner(), programs::COUNT_FAR);
    let (vm, vcpu) = (guest.vm.as_fd(), guest.vcpu.as_fd());
    let over = AtomicBool::new(false);
    let mixed = round.pairing == Pairing::Mixed;
    thread::scope(|scope| {
        let runner = Running::begin(scope, round.runner(), vcpu, &mut guest.run, |end| {
            // An interface does not know the aliases of the other, and may
            // delete the memory behind them.
            if !(mixed && end == Err(Errno::EFAULT)) {
                expected(end);
            }
        });
        scope.spawn(|| aliases(round, round.interface(2), vm, &over));
        scope.spawn(|| mappings(round, round.interface(3), vm, &over));
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
        over.store(true, Ordering::Relaxed);
        runner.end();
    });
}

/// Sets and deletes an alias of the slot.
fn aliases(round: &Round, kvm: &Interface, vm: BorrowedFd<'_>, over: &AtomicBool) {
    let mut alias = kvm_memory_alias {
        guest_phys_addr: ALIAS,
        target_phys_addr: FAR,
        ..Default::default()
    };
    while !over.load(Ordering::Relaxed) {
        alias.memory_size ^= PAGE as u64;
        match kvm.kvm_set_memory_alias(vm, &alias) {
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
}

/// Maps the memory. Its content remains, whatever happens to the slot.
fn mappings(round: &Round, kvm: &Interface, vm: BorrowedFd<'_>, over: &AtomicBool) {
    const AT: usize = 0x100;
    while !over.load(Ordering::Relaxed) {
        match kvm.kvm_map_memory(vm, FAR, PAGE) {
            Ok(mut memory) => {
                let (mut before, mut after) = ([0; 8], [0; 8]);
                memory.read(AT, &mut before).unwrap();
                assert!(
                    matches!(u64::from_le_bytes(before), 0 | 0x5a5a),
                    "{before:x?}"
                );
                memory.write(AT, &0x5a5a_u64.to_le_bytes()).unwrap();
                round.pause();
                memory.read(AT, &mut after).unwrap();
                assert_eq!(u64::from_le_bytes(after), 0x5a5a);
            }
            Err(Errno::ENODEV) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}
