//! kvm_set_memory_region, kvm_get_dirty_log, kvm_set_user_memory_region,
//! kvm_map_memory.

use std::os::fd::BorrowedFd;

use kvm_api::kvm_sys::KVM_CAP_NR_MEMSLOTS;
use kvm_api::kvm_sys::slot::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
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

pub const PAGE: u64 = 0x1000;

/// The number of slots that the machine has.
pub fn slots(machine: &TestVm<'_>) -> u32 {
    let slots = machine
        .kvm
        .kvm_check_extension(machine.vm(), KVM_CAP_NR_MEMSLOTS);
    slots.unwrap() as u32
}

/// Gives the guest memory that the kernel allocates.
pub fn set_region(machine: &TestVm<'_>, slot: u32, address: u64, size: u64) {
    machine
        .kvm
        .kvm_set_memory_region(machine.vm(), slot, 0, address, size)
        .unwrap();
}

/// Maps guest memory that the kernel has allocated.
pub fn map(machine: &TestVm<'_>, address: u64, size: u64) -> kvm_api::Result<GuestMemory> {
    machine
        .kvm
        .kvm_map_memory(machine.vm(), address, size as usize)
}

/// Runs a guest that reads the byte at [`FAR`], and writes 0x77 behind it.
pub fn far_copy(machine: &mut TestVm<'_>, expected: u8) {
    machine.load(programs::FAR_COPY);
    assert_eq!(machine.run_to_out(OUT_PORT), expected);
    machine.run_to_hlt();
}

/// The byte at an offset.
pub fn byte(memory: &GuestMemory, offset: usize) -> u8 {
    let mut byte = [0];
    memory.read(offset, &mut byte).unwrap();
    byte[0]
}

fn region(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    set_region(&machine, 1, FAR - PAGE, 4 * PAGE);
    let mut memory = map(&machine, FAR, 2 * PAGE).unwrap();
    memory.write(0, &[0x99]).unwrap();
    far_copy(&mut machine, 0x99);
    let mut seen = [0; 2];
    memory.read(0, &mut seen).unwrap();
    assert_eq!(seen, [0x99, 0x77]);
    // A second mapping is the same memory.
    let all = map(&machine, FAR - PAGE, 4 * PAGE).unwrap();
    all.read(PAGE as usize, &mut seen).unwrap();
    assert_eq!(seen, [0x99, 0x77]);
}

fn region_zero(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    set_region(&machine, 1, FAR, 4 * PAGE);
    let memory = map(&machine, FAR, 4 * PAGE).unwrap();
    let mut seen = vec![1; memory.len()];
    memory.read(0, &mut seen).unwrap();
    assert!(seen.iter().all(|&byte| byte == 0));
}

fn region_moves(stage: &Stage) {
    let kvm = &*stage.kvm;
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let away = FAR + 16 * PAGE;
    set_region(&machine, 1, away, PAGE);
    map(&machine, away, PAGE)
        .unwrap()
        .write(0, &[0x42])
        .unwrap();
    set_region(&machine, 1, FAR, PAGE);
    assert_eq!(map(&machine, away, PAGE).err(), Some(Errno::ENODEV));
    machine.load(programs::FAR_COPY);
    assert_eq!(machine.run_to_out(OUT_PORT), 0x42);
    // Flags change in place.
    kvm.kvm_set_memory_region(machine.vm(), 1, KVM_MEM_LOG_DIRTY_PAGES, FAR, PAGE)
        .unwrap();
    machine.run_to_hlt();
    assert_eq!(dirty(&*stage.witness, machine.descriptor(), 1), Ok(1));
}

fn region_deletes(stage: &Stage) {
    let kvm = &*stage.kvm;
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    set_region(&machine, 1, FAR, PAGE);
    set_region(&machine, 1, FAR, 0);
    assert_eq!(map(&machine, FAR, PAGE).err(), Some(Errno::ENODEV));
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
    // Another size may now take the number.
    set_region(&machine, 1, FAR, 2 * PAGE);
}

fn region_refuses(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let vm = machine.vm();
    let slots = slots(&machine);
    set_region(&machine, 1, FAR, PAGE);
    let other = 16 * FAR;
    // The caller's memory has this number, unless it is mapped by range. Then KVM
    // chooses the number, and the memory overlaps the new slot.
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
        ("delete a slot that is not set", 2, 0, 0, 0, Errno::EINVAL),
    ] {
        let result = kvm.kvm_set_memory_region(vm, slot, flags, address, size);
        assert_eq!(result, Err(errno), "{what}");
    }
    // The refused calls have changed nothing.
    map(&machine, FAR, PAGE).unwrap();
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
    // At first, KVM may count pages that it has mapped writable for a read.
    let written = dirty(&*stage.kvm, machine.vm(), SLOT).unwrap();
    assert_eq!(written & (1 << 3 | 1 << 9), 1 << 3);
    assert_eq!(dirty(&*stage.witness, machine.descriptor(), SLOT), Ok(0));
    for by_witness in [false, true] {
        machine.start_at(ENTRY);
        machine.run_to_hlt();
        let written = match by_witness {
            true => dirty(&*stage.witness, machine.descriptor(), SLOT),
            false => dirty(&*stage.kvm, machine.vm(), SLOT),
        };
        assert_eq!(written, Ok(1 << 3));
    }
}

fn dirty_log_refuses(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let slots = slots(&machine);
    for (slot, errno) in [
        (SLOT, Errno::ENOENT),
        (7, Errno::ENOENT),
        (slots, Errno::EINVAL),
    ] {
        assert_eq!(dirty(&*stage.kvm, machine.vm(), slot), Err(errno), "{slot}");
    }
}

fn user_region(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let mut memory = GuestMemory::anonymous(PAGE as usize).unwrap();
    memory.write(0, &[0x66]).unwrap();
    give(&*stage.witness, machine.descriptor(), 1, 0, &memory).unwrap();
    far_copy(&mut machine, 0x66);
    assert_eq!(byte(&memory, 1), 0x77);
    drop(machine);
}

/// Maps `memory` to the guest at [`FAR`]. It has to live as long as the machine.
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
    let slots = slots(&machine);
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
        (
            "delete a slot that is not set",
            1,
            0,
            FAR,
            0,
            0,
            Errno::EINVAL,
        ),
    ] {
        // SAFETY: none of these is set; and the memory outlives the machine.
        let result = unsafe {
            kvm.kvm_set_user_memory_region(machine.vm(), slot, flags, address, size, host)
        };
        assert_eq!(result, Err(errno), "{what}");
    }
    drop(machine);
}

fn map_refuses(stage: &Stage) {
    let kvm = &*stage.kvm;
    let machine = TestVm::of_form(&stage.kvm, 0);
    let page = PAGE as usize;
    set_region(&machine, 1, FAR, 2 * PAGE);
    set_region(&machine, 2, FAR + 2 * PAGE, PAGE);
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
    set_region(&machine, 1, FAR, PAGE);
    let mut memory = map(&machine, FAR, PAGE).unwrap();
    drop(machine);
    let mut seen = [0];
    memory.write(0, &[7]).unwrap();
    memory.read(0, &mut seen).unwrap();
    assert_eq!(seen, [7]);
}
