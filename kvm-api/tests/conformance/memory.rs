//! kvm_set_memory_region, kvm_get_dirty_log, the two memory alias calls,
//! kvm_set_user_memory_region, kvm_map_memory.

use std::os::fd::BorrowedFd;

use kvm_api::kvm_sys::slot::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use kvm_api::kvm_sys::{KVM_ALIAS_SLOTS, KVM_CAP_NR_MEMSLOTS, kvm_memory_alias};
use kvm_api::{Errno, GuestMemory, Kvm, Reason};

use crate::Needs::AnyVcpu;
use crate::{Stage, Test};
use guests::programs::{self, FAR, OUT_PORT};
use guests::{ENTRY, MEMORY, SLOT, TestVm};
use kvm_api::Form;

pub const TESTS: &[Test] = &[
    (
        "kvm_set_memory_region::guest_and_program_share_it",
        AnyVcpu,
        region,
    ),
    ("kvm_set_memory_region::reads_as_zero", AnyVcpu, region_zero),
    (
        "kvm_set_memory_region::moves_with_its_memory",
        AnyVcpu,
        region_moves,
    ),
    ("kvm_set_memory_region::deletes", AnyVcpu, region_deletes),
    (
        "kvm_set_memory_region::refuses_what_cannot_be",
        AnyVcpu,
        region_refuses,
    ),
    (
        "kvm_get_dirty_log::shows_the_written_page_once",
        AnyVcpu,
        dirty_log,
    ),
    (
        "kvm_get_dirty_log::refuses_what_cannot_be",
        AnyVcpu,
        dirty_log_refuses,
    ),
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
    (
        "kvm_set_user_memory_region::guest_reads_and_writes_it",
        AnyVcpu,
        user_region,
    ),
    (
        "kvm_set_user_memory_region::readonly_write_exits",
        AnyVcpu,
        user_region_readonly,
    ),
    (
        "kvm_set_user_memory_region::refuses_what_cannot_be",
        AnyVcpu,
        user_region_refuses,
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
    (
        "kvm_map_memory::refuses_what_cannot_be",
        AnyVcpu,
        map_refuses,
    ),
    (
        "kvm_map_memory::outlives_the_machine",
        AnyVcpu,
        map_outlives,
    ),
];

const PAGE: u64 = 0x1000;

fn region(stage: &Stage) {
    let kvm = &*stage.kvm;
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    kvm.kvm_set_memory_region(machine.vm(), 1, 0, FAR - PAGE, 4 * PAGE)
        .unwrap();
    let mut memory = kvm
        .kvm_map_memory(machine.vm(), FAR, 2 * PAGE as usize)
        .unwrap();
    memory.write(0, &[0x99]).unwrap();
    machine.load(programs::FAR_COPY);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x99);
    machine.run_to_hlt();
    let mut seen = [0; 2];
    memory.read(0, &mut seen).unwrap();
    assert_eq!(seen, [0x99, 0x77]);
    // A second mapping is the same memory.
    let all = kvm
        .kvm_map_memory(machine.vm(), FAR - PAGE, 4 * PAGE as usize)
        .unwrap();
    all.read(PAGE as usize, &mut seen).unwrap();
    assert_eq!(seen, [0x99, 0x77]);
}

fn region_zero(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    stage
        .kvm
        .kvm_set_memory_region(machine.vm(), 1, 0, FAR, 4 * PAGE)
        .unwrap();
    let memory = stage
        .kvm
        .kvm_map_memory(machine.vm(), FAR, 4 * PAGE as usize)
        .unwrap();
    let mut seen = vec![1; memory.len()];
    memory.read(0, &mut seen).unwrap();
    assert!(seen.iter().all(|&byte| byte == 0));
}

fn region_moves(stage: &Stage) {
    let kvm = &*stage.kvm;
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let away = FAR + 16 * PAGE;
    kvm.kvm_set_memory_region(machine.vm(), 1, 0, away, PAGE)
        .unwrap();
    kvm.kvm_map_memory(machine.vm(), away, PAGE as usize)
        .unwrap()
        .write(0, &[0x42])
        .unwrap();
    kvm.kvm_set_memory_region(machine.vm(), 1, 0, FAR, PAGE)
        .unwrap();
    assert_eq!(
        kvm.kvm_map_memory(machine.vm(), away, PAGE as usize).err(),
        Some(Errno::ENODEV)
    );
    machine.load(programs::FAR_COPY);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x42);
    // Flags change in place.
    kvm.kvm_set_memory_region(machine.vm(), 1, KVM_MEM_LOG_DIRTY_PAGES, FAR, PAGE)
        .unwrap();
    machine.run_to_hlt();
    assert_eq!(dirty(&*stage.witness, machine.vm(), 1), Ok(1));
}

fn region_deletes(stage: &Stage) {
    let kvm = &*stage.kvm;
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    kvm.kvm_set_memory_region(machine.vm(), 1, 0, FAR, PAGE)
        .unwrap();
    kvm.kvm_set_memory_region(machine.vm(), 1, 0, FAR, 0)
        .unwrap();
    assert_eq!(
        kvm.kvm_map_memory(machine.vm(), FAR, PAGE as usize).err(),
        Some(Errno::ENODEV)
    );
    assert_eq!(
        kvm.kvm_set_memory_region(machine.vm(), 1, 0, FAR, 0),
        Err(Errno::EINVAL)
    );
    machine.load(programs::FAR_COPY);
    assert_eq!(
        machine.run().reason(),
        Reason::Mmio {
            phys_addr: FAR,
            len: 1,
            is_write: false
        }
    );
    // The number is free for another size.
    kvm.kvm_set_memory_region(machine.vm(), 1, 0, FAR, 2 * PAGE)
        .unwrap();
}

fn region_refuses(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let vm = machine.vm();
    let slots = kvm.kvm_check_extension(vm, KVM_CAP_NR_MEMSLOTS).unwrap() as u32;
    kvm.kvm_set_memory_region(vm, 1, 0, FAR, PAGE).unwrap();
    let other = 16 * FAR;
    // The caller's memory has that number, unless it is mapped by range: then it has
    // one of KVM's choice, and is in the way of the number.
    let callers = match stage.form {
        Form::Ranges => Errno::EEXIST,
        _ => Errno::EINVAL,
    };
    for (what, slot, flags, address, size, errno) in [
        ("slot", slots, 0, other, PAGE, Errno::EINVAL),
        ("flags", 2, 1 << 31, other, PAGE, Errno::EINVAL),
        ("address", 2, 0, other + 1, PAGE, Errno::EINVAL),
        ("size", 2, 0, other, PAGE + 1, Errno::EINVAL),
        ("too many pages", 2, 0, other, PAGE << 31, Errno::EINVAL),
        ("no address space", 2, 0, other, PAGE << 35, Errno::EINVAL),
        (
            "wraps",
            2,
            0,
            0_u64.wrapping_sub(PAGE),
            2 * PAGE,
            Errno::EINVAL,
        ),
        ("overlaps", 2, 0, FAR, PAGE, Errno::EEXIST),
        ("moves onto another", 1, 0, 0, PAGE, Errno::EEXIST),
        ("another size", 1, 0, FAR, 2 * PAGE, Errno::EINVAL),
        (
            "becomes read-only",
            1,
            KVM_MEM_READONLY,
            FAR,
            PAGE,
            Errno::EINVAL,
        ),
        ("the caller's memory", SLOT, 0, 0, MEMORY as u64, callers),
        ("delete what is not set", 2, 0, 0, 0, Errno::EINVAL),
    ] {
        let result = kvm.kvm_set_memory_region(vm, slot, flags, address, size);
        assert_eq!(result, Err(errno), "{what}");
    }
    // None of it has done anything.
    kvm.kvm_map_memory(vm, FAR, PAGE as usize).unwrap();
}

/// The first word of a slot's dirty bitmap.
fn dirty(kvm: &dyn Kvm, vm: BorrowedFd<'_>, slot: u32) -> kvm_api::Result<u64> {
    let mut bitmap = [0; 2];
    // SAFETY: no slot of these tests has more than 64 pages.
    unsafe { kvm.kvm_get_dirty_log(vm, slot, &mut bitmap) }?;
    assert_eq!(bitmap[1], 0);
    Ok(bitmap[0])
}

fn dirty_log(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, KVM_MEM_LOG_DIRTY_PAGES);
    machine.load(programs::WRITE_PAGE_3);
    machine.run_to_hlt();
    // The first time KVM may count pages that it has mapped writable for a read.
    let written = dirty(&*stage.kvm, machine.vm(), SLOT).unwrap();
    assert_eq!(written & (1 << 3 | 1 << 9), 1 << 3);
    assert_eq!(dirty(&*stage.witness, machine.vm(), SLOT), Ok(0));
    for kvm in [&*stage.kvm, &*stage.witness] {
        machine.start_at(ENTRY);
        machine.run_to_hlt();
        assert_eq!(dirty(kvm, machine.vm(), SLOT), Ok(1 << 3));
    }
}

fn dirty_log_refuses(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let slots = stage
        .kvm
        .kvm_check_extension(machine.vm(), KVM_CAP_NR_MEMSLOTS)
        .unwrap() as u32;
    for (slot, errno) in [
        (SLOT, Errno::ENOENT),
        (7, Errno::ENOENT),
        (slots, Errno::EINVAL),
    ] {
        assert_eq!(dirty(&*stage.kvm, machine.vm(), slot), Err(errno), "{slot}");
    }
}

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

/// One range of the host, two regions of the guest that are far apart: an
/// address of the host alone does not say where the first of them ends.
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

fn user_region(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let mut memory = GuestMemory::anonymous(PAGE as usize).unwrap();
    memory.write(0, &[0x66]).unwrap();
    give(&*stage.witness, machine.vm(), 1, 0, &memory).unwrap();
    machine.load(programs::FAR_COPY);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x66);
    machine.run_to_hlt();
    let mut seen = [0];
    memory.read(1, &mut seen).unwrap();
    assert_eq!(seen, [0x77]);
    drop(machine);
}

/// Gives the guest `memory` at [`FAR`]. It has to live as long as the machine.
fn give(
    kvm: &dyn Kvm,
    vm: BorrowedFd<'_>,
    slot: u32,
    flags: u32,
    memory: &GuestMemory,
) -> kvm_api::Result<()> {
    let address = memory.as_ptr().expose_provenance() as u64;
    // SAFETY: tests drop their machine before the memory.
    unsafe { kvm.kvm_set_user_memory_region(vm, slot, flags, FAR, memory.len() as u64, address) }
}

fn user_region_readonly(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let mut memory = GuestMemory::anonymous(PAGE as usize).unwrap();
    memory.write(0, &[0x66]).unwrap();
    give(&*stage.kvm, machine.vm(), 1, KVM_MEM_READONLY, &memory).unwrap();
    machine.load(programs::FAR_COPY);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x66);
    let exit = machine.run();
    assert_eq!(
        exit.reason(),
        Reason::Mmio {
            phys_addr: FAR + 1,
            len: 1,
            is_write: true
        }
    );
    let mut data = [0; 8];
    assert_eq!(exit.read_data(&mut data), 1);
    assert_eq!(data[0], 0x77);
    drop(machine);
}

fn user_region_refuses(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let memory = GuestMemory::anonymous(2 * PAGE as usize).unwrap();
    let host = memory.as_ptr().expose_provenance() as u64;
    let slots = kvm
        .kvm_check_extension(machine.vm(), KVM_CAP_NR_MEMSLOTS)
        .unwrap() as u32;
    for (what, slot, flags, address, size, host, errno) in [
        ("slot", slots, 0, FAR, PAGE, host, Errno::EINVAL),
        ("flags", 1, 1 << 31, FAR, PAGE, host, Errno::EINVAL),
        ("address", 1, 0, FAR + 1, PAGE, host, Errno::EINVAL),
        ("size", 1, 0, FAR, PAGE - 1, host, Errno::EINVAL),
        ("host address", 1, 0, FAR, PAGE, host + 1, Errno::EINVAL),
        (
            "the kernel's address",
            1,
            0,
            FAR,
            PAGE,
            1 << 63,
            Errno::EINVAL,
        ),
        ("overlaps", 1, 0, 0, PAGE, host, Errno::EEXIST),
        (
            "another host address",
            SLOT,
            0,
            0,
            MEMORY as u64,
            host,
            Errno::EINVAL,
        ),
        ("delete what is not set", 1, 0, FAR, 0, 0, Errno::EINVAL),
    ] {
        // SAFETY: none of these is set; and the memory outlives the machine.
        let result = unsafe {
            kvm.kvm_set_user_memory_region(machine.vm(), slot, flags, address, size, host)
        };
        assert_eq!(result, Err(errno), "{what}");
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
    machine.load(programs::FAR_COPY);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x55);
    machine.run_to_hlt();
    let mut seen = [0];
    machine.memory.read(0x3001, &mut seen).unwrap();
    assert_eq!(seen, [0x77]);
}

fn alias_of_region(stage: &Stage) {
    let kvm = &*stage.kvm;
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let target = FAR + 16 * PAGE;
    kvm.kvm_set_memory_region(machine.vm(), 1, 0, target, 2 * PAGE)
        .unwrap();
    let mut memory = kvm
        .kvm_map_memory(machine.vm(), target, 2 * PAGE as usize)
        .unwrap();
    memory.write(PAGE as usize, &[0x31]).unwrap();
    let alias = page_alias(3, target + PAGE);
    kvm.kvm_set_memory_alias(machine.vm(), &alias).unwrap();
    assert_eq!(get_alias(kvm, machine.vm(), 3), alias);
    machine.load(programs::FAR_COPY);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x31);
    machine.run_to_hlt();
    let mut seen = [0];
    memory.read(PAGE as usize + 1, &mut seen).unwrap();
    assert_eq!(seen, [0x77]);
}

fn alias_is_a_slot(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    kvm.kvm_set_memory_alias(machine.vm(), &page_alias(1, 0x3000))
        .unwrap();
    let slots = kvm
        .kvm_check_extension(machine.vm(), KVM_CAP_NR_MEMSLOTS)
        .unwrap() as u32;
    // SAFETY: a slot that is deleted needs no memory.
    let delete = |slot| unsafe {
        stage
            .witness
            .kvm_set_user_memory_region(machine.vm(), slot, 0, FAR, 0, 0)
    };
    assert_eq!(delete(slots - 1), Err(Errno::EINVAL));
    assert_eq!(delete(slots - 2), Ok(()));
}

fn alias_busy(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let target = FAR + 16 * PAGE;
    kvm.kvm_set_memory_region(machine.vm(), 1, 0, target, 2 * PAGE)
        .unwrap();
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
    for (what, alias, errno) in [
        (
            "number",
            kvm_memory_alias {
                slot: KVM_ALIAS_SLOTS,
                ..new
            },
            Errno::EINVAL,
        ),
        ("flags", kvm_memory_alias { flags: 1, ..new }, Errno::EINVAL),
        (
            "address",
            kvm_memory_alias {
                guest_phys_addr: FAR + 1,
                ..new
            },
            Errno::EINVAL,
        ),
        (
            "size",
            kvm_memory_alias {
                memory_size: 1,
                ..new
            },
            Errno::EINVAL,
        ),
        (
            "target",
            kvm_memory_alias {
                target_phys_addr: 1,
                ..new
            },
            Errno::EINVAL,
        ),
        (
            "no target",
            kvm_memory_alias {
                target_phys_addr: 16 * FAR,
                ..new
            },
            Errno::EINVAL,
        ),
        (
            "beyond the target's slot",
            kvm_memory_alias {
                target_phys_addr: MEMORY as u64 - PAGE,
                memory_size: 2 * PAGE,
                ..new
            },
            Errno::EINVAL,
        ),
        (
            "alias of an alias",
            kvm_memory_alias {
                target_phys_addr: FAR,
                ..new
            },
            Errno::EINVAL,
        ),
        (
            "overlaps memory",
            kvm_memory_alias {
                guest_phys_addr: 0,
                ..new
            },
            Errno::EEXIST,
        ),
        (
            "overlaps an alias",
            kvm_memory_alias {
                guest_phys_addr: FAR,
                ..new
            },
            Errno::EEXIST,
        ),
        (
            "set: another target",
            kvm_memory_alias {
                target_phys_addr: 0,
                ..set
            },
            Errno::EINVAL,
        ),
        (
            "set: another size",
            kvm_memory_alias {
                memory_size: 2 * PAGE,
                ..set
            },
            Errno::EINVAL,
        ),
        (
            "delete what is not set",
            kvm_memory_alias {
                memory_size: 0,
                ..new
            },
            Errno::EINVAL,
        ),
    ] {
        assert_eq!(kvm.kvm_set_memory_alias(vm, &alias), Err(errno), "{what}");
    }
    assert_eq!(get_alias(kvm, vm, 0), set);
    assert_eq!(get_alias(kvm, vm, 1).memory_size, 0);
}

fn map_refuses(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let page = PAGE as usize;
    kvm.kvm_set_memory_region(machine.vm(), 1, 0, FAR, 2 * PAGE)
        .unwrap();
    kvm.kvm_set_memory_region(machine.vm(), 2, 0, FAR + 2 * PAGE, PAGE)
        .unwrap();
    for (what, address, size, errno) in [
        ("no bytes", FAR, 0, Errno::EINVAL),
        ("within a page", FAR + 1, page, Errno::EINVAL),
        ("no memory", 16 * FAR, page, Errno::ENODEV),
        ("the caller's own memory", 0, page, Errno::ENODEV),
        ("two slots", FAR, 3 * page, Errno::ENODEV),
        ("begins before", FAR - PAGE, 2 * page, Errno::ENODEV),
    ] {
        let result = kvm.kvm_map_memory(machine.vm(), address, size);
        assert_eq!(result.err(), Some(errno), "{what}");
    }
}

fn map_outlives(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    stage
        .kvm
        .kvm_set_memory_region(machine.vm(), 1, 0, FAR, PAGE)
        .unwrap();
    let mut memory = stage
        .kvm
        .kvm_map_memory(machine.vm(), FAR, PAGE as usize)
        .unwrap();
    drop(machine);
    let mut seen = [0];
    memory.write(0, &[7]).unwrap();
    memory.read(0, &mut seen).unwrap();
    assert_eq!(seen, [7]);
}
