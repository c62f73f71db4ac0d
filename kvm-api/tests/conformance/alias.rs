//! The two memory alias calls.

use std::os::fd::BorrowedFd;

use guests::programs::FAR;
use guests::{MEMORY, TestVm};
use kvm_api::kvm_sys::{KVM_ALIAS_SLOTS, kvm_memory_alias};
use kvm_api::{Errno, GuestMemory, Kvm};

use crate::Needs::AnyVcpu;
use crate::memory::{PAGE, byte, far_copy, map, set_region, slots};
use crate::{Stage, Test};

pub const TESTS: &[Test] = &[
    (
        "kvm_get_memory_alias::reads_back_what_was_set",
        AnyVcpu,
        alias_reads_back,
    ),
    (
        "kvm_get_memory_alias::tells_neighbours_apart",
        AnyVcpu,
        alias_of_neighbour,
    ),
    ("kvm_set_memory_alias::shows_the_same_bytes", AnyVcpu, alias),
    (
        "kvm_set_memory_alias::shows_kernel_memory",
        AnyVcpu,
        alias_of_region,
    ),
    (
        "kvm_set_memory_alias::is_a_slot_to_the_ioctl",
        AnyVcpu,
        alias_is_a_slot,
    ),
    (
        "kvm_set_memory_alias::keeps_its_target_from_deletion",
        AnyVcpu,
        alias_busy,
    ),
    (
        "kvm_set_memory_alias::refuses_what_cannot_be",
        AnyVcpu,
        alias_refuses,
    ),
];

/// An alias at [`FAR`] of the page of memory at `target`.
fn page_alias(slot: u32, target: u64) -> kvm_memory_alias {
    kvm_memory_alias {
        slot,
        flags: 0,
        guest_phys_addr: FAR,
        memory_size: PAGE,
        target_phys_addr: target,
    }
}

fn get_alias(kvm: &dyn Kvm, vm: BorrowedFd<'_>, slot: u32) -> kvm_memory_alias {
    let mut alias = kvm_memory_alias {
        flags: 1,
        guest_phys_addr: 2,
        memory_size: 3,
        target_phys_addr: 4,
        slot,
    };
    kvm.kvm_get_memory_alias(vm, &mut alias).unwrap();
    alias
}

fn alias_reads_back(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let unset = |slot| kvm_memory_alias {
        slot,
        ..Default::default()
    };
    for slot in 0..KVM_ALIAS_SLOTS {
        assert_eq!(get_alias(kvm, machine.vm(), slot), unset(slot));
    }
    let mut alias = page_alias(2, 0x3000);
    kvm.kvm_set_memory_alias(machine.vm(), &alias).unwrap();
    assert_eq!(get_alias(kvm, machine.vm(), 2), alias);
    assert_eq!(get_alias(kvm, machine.vm(), 1), unset(1));

    alias.guest_phys_addr += 8 * PAGE;
    kvm.kvm_set_memory_alias(machine.vm(), &alias).unwrap();
    assert_eq!(get_alias(kvm, machine.vm(), 2), alias);

    alias.memory_size = 0;
    kvm.kvm_set_memory_alias(machine.vm(), &alias).unwrap();
    assert_eq!(get_alias(kvm, machine.vm(), 2), unset(2));

    let mut out_of_range = unset(KVM_ALIAS_SLOTS);
    let result = kvm.kvm_get_memory_alias(machine.vm(), &mut out_of_range);
    assert_eq!(result, Err(Errno::EINVAL));
}

/// One range of the host, two regions of the guest that are far apart: the address of
/// the host alone does not tell where the first region ends.
fn alias_of_neighbour(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let memory = GuestMemory::anonymous(2 * PAGE as usize).unwrap();
    let host = memory.as_ptr().expose_provenance() as u64;
    let [first, second] = [FAR + 16 * PAGE, FAR + 32 * PAGE];
    for (slot, address, host) in [(1, first, host), (2, second, host + PAGE)] {
        // SAFETY: the machine is dropped before the memory.
        unsafe { kvm.kvm_set_user_memory_region(machine.vm(), slot, 0, address, PAGE, host) }
            .unwrap();
    }
    for (slot, target) in [(0, first), (1, second)] {
        let alias = kvm_memory_alias {
            guest_phys_addr: FAR + u64::from(slot) * PAGE,
            ..page_alias(slot, target)
        };
        kvm.kvm_set_memory_alias(machine.vm(), &alias).unwrap();
        assert_eq!(get_alias(kvm, machine.vm(), slot), alias);
    }
    drop(machine);
}

fn alias(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    machine.memory.write(0x3000, &[0x55]).unwrap();
    stage
        .kvm
        .kvm_set_memory_alias(machine.vm(), &page_alias(0, 0x3000))
        .unwrap();
    far_copy(&mut machine, 0x55);
    assert_eq!(byte(&machine.memory, 0x3001), 0x77);
}

fn alias_of_region(stage: &Stage) {
    let kvm = &*stage.kvm;
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let target = FAR + 16 * PAGE;
    set_region(&machine, 1, target, 2 * PAGE);
    let mut memory = map(&machine, target, 2 * PAGE).unwrap();
    memory.write(PAGE as usize, &[0x31]).unwrap();
    let alias = page_alias(3, target + PAGE);
    kvm.kvm_set_memory_alias(machine.vm(), &alias).unwrap();
    assert_eq!(get_alias(kvm, machine.vm(), 3), alias);
    far_copy(&mut machine, 0x31);
    assert_eq!(byte(&memory, PAGE as usize + 1), 0x77);
}

fn alias_is_a_slot(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    kvm.kvm_set_memory_alias(machine.vm(), &page_alias(1, 0x3000))
        .unwrap();
    let slots = slots(&machine);
    // SAFETY: a slot that is deleted needs no memory.
    let delete = |slot| unsafe {
        stage
            .witness
            .kvm_set_user_memory_region(machine.descriptor(), slot, 0, FAR, 0, 0)
    };
    assert_eq!(delete(slots - 1), Err(Errno::EINVAL));
    assert_eq!(delete(slots - 2), Ok(()));
}

fn alias_busy(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let target = FAR + 16 * PAGE;
    set_region(&machine, 1, target, 2 * PAGE);
    let mut alias = page_alias(0, target + PAGE);
    kvm.kvm_set_memory_alias(machine.vm(), &alias).unwrap();
    let delete = || kvm.kvm_set_memory_region(machine.vm(), 1, 0, target, 0);
    assert_eq!(delete(), Err(Errno::EBUSY));
    alias.memory_size = 0;
    kvm.kvm_set_memory_alias(machine.vm(), &alias).unwrap();
    assert_eq!(delete(), Ok(()));
}

fn alias_refuses(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let vm = machine.vm();
    let set = page_alias(0, 0x3000);
    kvm.kvm_set_memory_alias(vm, &set).unwrap();
    let new = kvm_memory_alias {
        guest_phys_addr: FAR + 8 * PAGE,
        ..page_alias(1, 0x3000)
    };
    // The reasons for which KVM refuses to change an alias, or to set a new one.
    type Change = fn(&mut kvm_memory_alias);
    let rows: [(&str, kvm_memory_alias, Change, Errno); 13] = [
        ("number", new, |a| a.slot = KVM_ALIAS_SLOTS, Errno::EINVAL),
        ("flags", new, |a| a.flags = 1, Errno::EINVAL),
        (
            "address",
            new,
            |a| a.guest_phys_addr = FAR + 1,
            Errno::EINVAL,
        ),
        ("size", new, |a| a.memory_size = 1, Errno::EINVAL),
        ("target", new, |a| a.target_phys_addr = 1, Errno::EINVAL),
        (
            "no target",
            new,
            |a| a.target_phys_addr = 16 * FAR,
            Errno::EINVAL,
        ),
        (
            "beyond the target's slot",
            new,
            |a| {
                a.target_phys_addr = MEMORY as u64 - PAGE;
                a.memory_size = 2 * PAGE;
            },
            Errno::EINVAL,
        ),
        (
            "alias of an alias",
            new,
            |a| a.target_phys_addr = FAR,
            Errno::EINVAL,
        ),
        (
            "overlaps memory",
            new,
            |a| a.guest_phys_addr = 0,
            Errno::EEXIST,
        ),
        (
            "overlaps an alias",
            new,
            |a| a.guest_phys_addr = FAR,
            Errno::EEXIST,
        ),
        (
            "set: another target",
            set,
            |a| a.target_phys_addr = 0,
            Errno::EINVAL,
        ),
        (
            "set: another size",
            set,
            |a| a.memory_size = 2 * PAGE,
            Errno::EINVAL,
        ),
        (
            "delete an alias that is not set",
            new,
            |a| a.memory_size = 0,
            Errno::EINVAL,
        ),
    ];
    for (what, mut alias, change, errno) in rows {
        change(&mut alias);
        assert_eq!(kvm.kvm_set_memory_alias(vm, &alias), Err(errno), "{what}");
    }
    assert_eq!(get_alias(kvm, vm, 0), set);
    assert_eq!(get_alias(kvm, vm, 1).memory_size, 0);
}
