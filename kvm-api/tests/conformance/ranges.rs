//! kvm_map_range, kvm_unmap_range, kvm_get_dirty_range, kvm_clear_dirty_range: alone, on
//! the backend without slots for the caller's memory, and beside numbered slots, on the
//! backend with both. `range_logs.rs` has the dirty logs of a virtual machine that clears
//! them by a separate call.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use guests::ENTRY;
use kvm_api::kvm_sys::slot::{KVM_MEM_LOG_DIRTY_PAGES as LOG, KVM_MEM_READONLY as READONLY};
use kvm_api::kvm_sys::{
    __NR_kvm_get_dirty_range, KVM_ALIAS_SLOTS, KVM_CAP_NR_MEMSLOTS, KVM_SMI, kvm_memory_alias,
    kvm_userspace_memory_region2,
};
use kvm_api::ranges::{RangeMemory, range};
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, GuestMemory, Reason, Result};

use crate::Needs::{AnyVcpu, LongMode};
use crate::range_guest::{Guest, PAGE, PAGES, WINDOW, Wrote};
use crate::{Stage, Test};
use kvm_api::Form;

const fn of(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Ranges, (name, AnyVcpu, test))
}

const fn beside_slots(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Syscall, (name, AnyVcpu, test))
}

pub const TESTS: &[(Form, Test)] = &[
    of("kvm_map_range::shows_and_replaces", shows),
    of("kvm_map_range::shows_the_same_twice", twice),
    of("kvm_map_range::changes_flags", flags),
    beside_slots("kvm_map_range::joins_into_one_slot", joins),
    beside_slots("kvm_map_range::leaves_others_slots_alone", others),
    of("kvm_map_range::bad_arguments", bad_arguments),
    of("kvm_map_range::the_guest_sees_no_gap", no_gap),
    of("kvm_map_range::kvm_itself_sees_no_gap", no_gap_for_kvm),
    (
        Form::Ranges,
        (
            "kvm_map_range::the_processor_and_kvm_find_the_page_tables",
            LongMode,
            page_tables,
        ),
    ),
    of("kvm_map_range::shows_in_one_address_space", address_spaces),
    of("kvm_protect_range::changes_flags", protects),
    of("kvm_protect_range::refuses_holes", protects_no_holes),
    beside_slots("kvm_protect_range::joins_into_one_slot", protect_joins),
    of("kvm_unmap_range::splits", splits),
    of("kvm_get_dirty_range::exactly_the_range", dirty_part),
    of("kvm_get_dirty_range::holes_and_the_unlogged", dirty_holes),
    of("kvm_get_dirty_range::a_fault_loses_nothing", dirty_fault),
];

/// With numbered slots, this is an alias.
fn twice(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(0, 2, 4, LOG).unwrap();
    guest.map(7, 1, 5, LOG).unwrap();
    assert_eq!(guest.write(1), Wrote::To(5));
    assert_eq!(guest.write(7), Wrote::To(5));
    guest.unmap(0, 2).unwrap();
    assert_eq!(guest.write(1), Wrote::Nowhere);
    assert_eq!(guest.write(7), Wrote::To(5));
}

fn shows(stage: &Stage) {
    let mut guest = Guest::new(stage);
    assert_eq!(guest.write(1), Wrote::Nowhere);
    guest.map(0, 4, 0, 0).unwrap();
    assert_eq!(guest.write(1), Wrote::To(1));
    // Page 1 becomes another page of the host, and the others stay.
    guest.map(1, 1, 9, 0).unwrap();
    assert_eq!(guest.write(0), Wrote::To(0));
    assert_eq!(guest.write(1), Wrote::To(9));
    assert_eq!(guest.write(2), Wrote::To(2));
}

fn flags(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(0, 4, 0, 0).unwrap();
    guest.map(1, 2, 1, READONLY).unwrap();
    assert_eq!(guest.write(1), Wrote::Nowhere);
    assert_eq!(guest.write(3), Wrote::To(3));
    guest.map(1, 2, 1, LOG).unwrap();
    assert_eq!(guest.write(1), Wrote::To(1));
    assert_eq!(guest.dirty(1, 2), Ok(vec![true, false]));
    guest.map(0, 4, 0, LOG).unwrap();
    assert_eq!(guest.write(3), Wrote::To(3));
    assert_eq!(guest.dirty(0, 4), Ok(vec![false, false, false, true]));
}

/// The number of the first slot that is made for a range.
fn first_slot(guest: &Guest<'_>) -> u32 {
    let vm = guest.machine.vm();
    let slots = guest.kvm().kvm_check_extension(vm, KVM_CAP_NR_MEMSLOTS);
    slots.unwrap() as u32 - KVM_ALIAS_SLOTS - 1
}

fn delete_slot(guest: &Guest<'_>, slot: u32) -> Result<()> {
    let vm = guest.machine.vm();
    // SAFETY: a slot goes.
    unsafe { guest.kvm().kvm_set_user_memory_region(vm, slot, 0, 0, 0, 0) }
}

fn joins(stage: &Stage) {
    let mut guest = Guest::new(stage);
    for page in [3, 1, 0, 2] {
        guest.map(page, 1, page, LOG).unwrap();
        assert_eq!(guest.write(page), Wrote::To(page));
    }
    // Adjacent ranges that do not join: other memory, and other flags.
    guest.map(4, 1, 9, LOG).unwrap();
    guest.map(5, 1, 10, 0).unwrap();
    assert_eq!(guest.dirty(0, 4), Ok(vec![true; 4]));
    // An ioctl that deletes the slot leaves a hole in place of the whole slot.
    let slot = first_slot(&guest);
    let slots = (slot - 7..=slot).filter(|&slot| delete_slot(&guest, slot).is_ok());
    assert_eq!(slots.count(), 3);
    assert_eq!(guest.dirty(0, 1), Err(Errno::ENOMEM));
    guest.map(0, 6, 0, 0).unwrap();
    assert_eq!(guest.write(4), Wrote::To(4));
}

fn splits(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(0, 6, 0, LOG).unwrap();
    for page in 0..6 {
        assert_eq!(guest.write(page), Wrote::To(page));
    }
    guest.unmap(2, 2).unwrap();
    guest.unmap(2, 2).unwrap();
    assert_eq!(guest.write(2), Wrote::Nowhere);
    assert_eq!(guest.write(3), Wrote::Nowhere);
    assert_eq!(guest.dirty(0, 2), Ok(vec![true; 2]));
    assert_eq!(guest.dirty(4, 2), Ok(vec![true; 2]));
    assert_eq!(guest.write(4), Wrote::To(4));
    assert_eq!(guest.dirty(4, 2), Ok(vec![true, false]));
}

fn others(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(4, 4, 4, 0).unwrap();
    let (kvm, vm) = (guest.kvm(), guest.machine.vm());
    let at = |page: u64| WINDOW + page * PAGE;
    // A slot of the ioctl, a slot of the kernel's memory, and an alias of it.
    let address = guest.address(0);
    // SAFETY: the memory is the guest's alone, and outlives it.
    unsafe { kvm.kvm_set_user_memory_region(vm, 1, 0, at(0), 2 * PAGE, address) }.unwrap();
    kvm.kvm_set_memory_region(vm, 2, 0, at(2), PAGE).unwrap();
    kvm.kvm_set_memory_alias(
        vm,
        &kvm_memory_alias {
            guest_phys_addr: at(3),
            memory_size: PAGE,
            target_phys_addr: at(2),
            ..Default::default()
        },
    )
    .unwrap();
    for page in 0..4 {
        assert_eq!(guest.map(page, 3, 9, 0), Err(Errno::EBUSY), "{page}");
        assert_eq!(guest.unmap(page, 3), Err(Errno::EBUSY), "{page}");
    }
    // The refused calls have changed nothing, and ranges do not join with these slots.
    assert_eq!(guest.write(5), Wrote::To(5));
    let kvm = guest.kvm();
    // SAFETY: the memory is the guest's already.
    let moved = unsafe {
        let vm = guest.machine.vm();
        kvm.kvm_set_user_memory_region(vm, 3, 0, at(4), PAGE, guest.address(4))
    };
    assert_eq!(moved, Err(Errno::EEXIST));
    // A slot that an ioctl has changed belongs to the ioctl from then on.
    let slot = first_slot(&guest);
    // SAFETY: the memory is the guest's already.
    let changed = unsafe {
        let vm = guest.machine.vm();
        kvm.kvm_set_user_memory_region(vm, slot, LOG, at(4), 4 * PAGE, guest.address(4))
    };
    assert_eq!(changed, Ok(()));
    assert_eq!(guest.unmap(5, 1), Err(Errno::EBUSY));
    assert_eq!(guest.write(5), Wrote::To(5));
    // A range can fetch the log of any slot.
    assert_eq!(guest.dirty(4, 4), Ok(vec![false, true, false, false]));
    for slot in [1, slot] {
        delete_slot(&guest, slot).unwrap();
    }
}

fn bad_arguments(stage: &Stage) {
    let guest = Guest::new(stage);
    let (ranges, host) = (guest.ranges(), guest.address(0));
    // SAFETY: the kernel refuses each of them.
    let map = |address, size, host, flags| unsafe {
        ranges.kvm_map_range(&range(address, size, host, flags))
    };
    for (address, size, host, flags) in [
        (WINDOW, 0, host, 0),
        (WINDOW, 1, host, 0),
        (WINDOW + 1, PAGE, host, 0),
        (WINDOW, PAGE, host + 1, 0),
        (WINDOW, PAGE, 1 << 63, 0),
        (WINDOW, PAGE, host, 4),
        (WINDOW, PAGE, host, 1 << 16),
        (0_u64.wrapping_sub(PAGE), 2 * PAGE, host, 0),
        (1 << 60, PAGE, host, 0),
        (WINDOW, 1 << 43, host, 0),
    ] {
        let result = map(address, size, host, flags);
        let what = format!("{address:#x} {size:#x} {host:#x} {flags:#x}");
        assert_eq!(result, Err(Errno::EINVAL), "{what}");
    }
    // The number of a slot, padding, an address space that there is not, and a bad pointer.
    let good = range(WINDOW, PAGE, host, 0);
    for bad in [
        kvm_userspace_memory_region2 { slot: 1, ..good },
        kvm_userspace_memory_region2 {
            slot: 2 << 16,
            ..good
        },
        kvm_userspace_memory_region2 { pad1: 1, ..good },
        kvm_userspace_memory_region2 {
            pad2: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            ..good
        },
    ] {
        // SAFETY: as above.
        let result = unsafe { ranges.kvm_map_range(&bad) };
        assert_eq!(result, Err(Errno::EINVAL), "{bad:?}");
    }
    for flags in [4, 5, 1 << 16] {
        // SAFETY: as above.
        let result = unsafe { ranges.kvm_protect_range(0, WINDOW, PAGE, flags) };
        assert_eq!(result, Err(Errno::EINVAL), "{flags:#x}");
    }
    for (space, address, size) in [
        (0, WINDOW, 0),
        (0, WINDOW, 1),
        (0, WINDOW + 1, PAGE),
        (0, 0_u64.wrapping_sub(PAGE), 2 * PAGE),
        (2, WINDOW, PAGE),
        (1 << 16, WINDOW, PAGE),
    ] {
        let what = format!("{space} {address:#x} {size:#x}");
        let result = ranges.kvm_unmap_range(space, address, size);
        assert_eq!(result, Err(Errno::EINVAL), "{what}");
        // SAFETY: as above.
        let result = unsafe { ranges.kvm_protect_range(space, address, size, 0) };
        assert_eq!(result, Err(Errno::EINVAL), "{what}");
        // SAFETY: the kernel refuses the arguments before it writes the bitmap.
        let result = unsafe { ranges.kvm_get_dirty_range(space, address, size, &mut [], 0) };
        assert_eq!(result, Err(Errno::EINVAL), "{what}");
    }
    // SAFETY: as above.
    let of_vcpu = unsafe {
        let ranges = RangeMemory::new(Syscall::open().unwrap(), guest.machine.vcpu());
        ranges.kvm_map_range(&range(WINDOW, PAGE, host, 0))
    };
    assert_eq!(of_vcpu, Err(Errno::EINVAL));
}

fn dirty_part(stage: &Stage) {
    let mut guest = Guest::new(stage);
    // Two slots that do not begin at a word of the bitmap.
    guest.map(1, 3, 1, LOG).unwrap();
    guest.map(4, 4, 8, LOG).unwrap();
    for page in [2, 3, 4, 6] {
        guest.write(page);
    }
    assert_eq!(guest.dirty(3, 2), Ok(vec![true, true]));
    let expected = [false, true, false, false, false, true, false];
    assert_eq!(guest.dirty(1, 7), Ok(expected.to_vec()));
    assert_eq!(guest.dirty(1, 7), Ok(vec![false; 7]));
    guest.write(3);
    assert_eq!(guest.dirty(3, 1), Ok(vec![true]));
}

fn dirty_holes(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(1, 2, 1, LOG).unwrap();
    guest.map(4, 2, 4, LOG).unwrap();
    guest.map(6, 1, 6, 0).unwrap();
    guest.write(1);
    guest.write(4);
    for (page, pages) in [(0, 2), (1, 3), (2, 3), (1, 5), (3, 1), (6, 2)] {
        assert_eq!(guest.dirty(page, pages), Err(Errno::ENOMEM), "{page}");
    }
    assert_eq!(guest.dirty(4, 3), Err(Errno::ENOENT));
    assert_eq!(guest.dirty(6, 1), Err(Errno::ENOENT));
    // The refused calls have fetched nothing.
    assert_eq!(guest.dirty(1, 2), Ok(vec![true, false]));
    assert_eq!(guest.dirty(4, 2), Ok(vec![true, false]));
}

fn dirty_fault(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(0, 4, 0, LOG).unwrap();
    guest.write(2);
    let number = __NR_kvm_get_dirty_range;
    let vm = guest.machine.vm().as_raw_fd();
    // SAFETY: there is nothing at 0 to write to.
    let result = unsafe { libc::syscall(number, vm, 0, WINDOW, 4 * PAGE, 0, 0) };
    assert_eq!(Errno::result(result), Err(Errno::EFAULT));
    assert_eq!(guest.dirty(0, 4), Ok(vec![false, false, true, false]));
}

/// Repeats `step` until another thread has made `changes` of the memory of `vm`, or has
/// failed to.
fn while_changing(
    vm: OwnedFd,
    changes: impl FnOnce(RangeMemory<OwnedFd>) + Send,
    mut step: impl FnMut(),
) {
    thread::scope(|scope| {
        let changes = scope.spawn(|| changes(RangeMemory::new(Syscall::open().unwrap(), vm)));
        while !changes.is_finished() {
            step();
        }
        changes.join().unwrap();
    });
}

/// While a guest runs, other calls replace the memory with its page tables and its program.
/// With shadow paging, KVM reads the tables whenever the guest misses a page.
fn page_tables(stage: &Stage) {
    let mut guest = Guest::new(stage);
    // outsb; jmp to it: KVM reads the byte, and the processor runs the program.
    guest.machine.load(&[0x6e, 0xeb, 0xfd]);
    guest.machine.enter_long_mode();
    guest.machine.start_at(ENTRY);
    let vm = guest.machine.vm.as_fd().try_clone_to_owned().unwrap();
    let changes = move |ranges: RangeMemory<OwnedFd>| {
        // The pages are in a range that the machine has made, which is cut and joined.
        let protect = |page: u64, pages: u64, flags| {
            // SAFETY: the guest may write to the memory anyway.
            unsafe { ranges.kvm_protect_range(0, page * PAGE, pages * PAGE, flags) }.unwrap();
            thread::yield_now();
        };
        for _ in 0..20 {
            protect(8, 3, LOG);
            protect(0, 2, LOG);
            protect(9, 1, 0);
            protect(0, 16, 0);
        }
    };
    while_changing(vm, changes, || {
        guest.machine.change_regs(|regs| regs.rsi = ENTRY);
        assert_eq!(guest.machine.run_to_out(0), 0x6e);
    });
}

fn protects(stage: &Stage) {
    let mut guest = Guest::new(stage);
    // Two ranges of other memory. No address of the host is named again.
    guest.map(0, 4, 0, 0).unwrap();
    guest.map(4, 4, 8, 0).unwrap();
    guest.protect(2, 4, LOG).unwrap();
    for (page, host) in [(1, 1), (3, 3), (5, 9), (7, 11)] {
        assert_eq!(guest.write(page), Wrote::To(host));
    }
    assert_eq!(guest.dirty(1, 1), Err(Errno::ENOENT));
    assert_eq!(guest.peek(2, 4), Ok(vec![false, true, false, true]));
    assert_eq!(guest.dirty(6, 1), Err(Errno::ENOENT));
    // What is logged already keeps its log.
    guest.protect(0, 8, LOG).unwrap();
    assert_eq!(
        guest.dirty(1, 6),
        Ok(vec![false, false, true, false, true, false])
    );
    guest.protect(3, 2, READONLY).unwrap();
    assert_eq!(guest.write(2), Wrote::To(2));
    assert_eq!(guest.write(3), Wrote::Nowhere);
    assert_eq!(guest.write(4), Wrote::Nowhere);
    assert_eq!(guest.write(5), Wrote::To(9));
    guest.protect(0, 8, 0).unwrap();
    assert_eq!(guest.write(4), Wrote::To(8));
}

fn protects_no_holes(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(1, 2, 1, 0).unwrap();
    guest.map(4, 2, 4, 0).unwrap();
    for (page, pages) in [(0, 2), (1, 3), (2, 3), (1, 5), (3, 1), (5, 2)] {
        let result = guest.protect(page, pages, READONLY);
        assert_eq!(result, Err(Errno::ENOMEM), "{page}");
    }
    // The refused calls have changed nothing.
    for page in [1, 2, 4, 5] {
        assert_eq!(guest.write(page), Wrote::To(page));
    }
}

fn protect_joins(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(0, 8, 0, 0).unwrap();
    for page in [1, 3, 4, 6] {
        guest.protect(page, 1, LOG).unwrap();
    }
    guest.protect(1, 3, 0).unwrap();
    guest.protect(0, 8, 0).unwrap();
    for page in 0..8 {
        assert_eq!(guest.write(page), Wrote::To(page));
    }
    // It is one slot again, and not one that was set by number.
    let slot = first_slot(&guest);
    let slots = (slot - 15..=slot).filter(|&slot| delete_slot(&guest, slot).is_ok());
    assert_eq!(slots.count(), 1);
    let vm = guest.machine.vm();
    // SAFETY: the memory is the guest's alone, and outlives it.
    let set = |size| unsafe {
        let address = guest.address(0);
        guest
            .kvm()
            .kvm_set_user_memory_region(vm, 1, 0, WINDOW, size, address)
    };
    set(PAGE).unwrap();
    // SAFETY: as above.
    let result = unsafe { guest.ranges().kvm_protect_range(0, WINDOW, PAGE, 0) };
    assert_eq!(result, Err(Errno::EBUSY));
    set(0).unwrap();
}

/// What a vCPU sees in system management mode is another address space.
fn address_spaces(stage: &Stage) {
    /// Where the processor enters system management mode, and the memory around it, in
    /// which the processor saves its state.
    const SMRAM: u64 = 0x3_0000;
    const SMI: usize = 0x8000;
    let mut guest = Guest::new(stage);
    let mut smram = GuestMemory::anonymous(0x1_0000).unwrap();
    // mov $0x5a,%al; out %al,$0x10.
    smram.write(SMI, &[0xb0, 0x5a, 0xe6, 0x10]).unwrap();
    let address = smram.as_ptr().expose_provenance() as u64;
    let show = kvm_userspace_memory_region2 {
        slot: 1 << 16,
        ..range(SMRAM, 0x1_0000, address, LOG)
    };
    let log = |guest: &Guest<'_>, space| {
        let mut bitmap = [0];
        // SAFETY: there are no more pages than bits.
        unsafe {
            guest
                .ranges()
                .kvm_get_dirty_range(space, SMRAM, 0x1_0000, &mut bitmap, 0)
        }
        .map(|()| bitmap[0])
    };
    // SAFETY: the memory stays until it is unmapped from the guest.
    unsafe { guest.ranges().kvm_map_range(&show) }.unwrap();
    assert_eq!(log(&guest, 0), Err(Errno::ENOMEM));
    assert_eq!(log(&guest, 1), Ok(0));
    // Cut and join it there.
    let (ranges, middle) = (guest.ranges(), SMRAM + 3 * PAGE);
    // SAFETY: as above.
    unsafe { ranges.kvm_protect_range(1, middle, PAGE, 0) }.unwrap();
    assert_eq!(log(&guest, 1), Err(Errno::ENOENT));
    // SAFETY: as above.
    unsafe { ranges.kvm_protect_range(1, middle, PAGE, LOG) }.unwrap();
    ranges.kvm_unmap_range(0, SMRAM, 0x1_0000).unwrap();

    let vcpu = guest.machine.vcpu().as_raw_fd();
    // SAFETY: the request has no argument.
    Errno::result(unsafe { libc::ioctl(vcpu, KVM_SMI, 0) }).unwrap();
    assert_eq!(guest.machine.run_to_out(0x10), 0x5a);
    // The processor has saved its state in the last page.
    assert_eq!(log(&guest, 1).unwrap() & 1 << 15, 1 << 15);
    guest.ranges().kvm_unmap_range(1, SMRAM, 0x1_0000).unwrap();
    assert_eq!(log(&guest, 1), Err(Errno::ENOMEM));
}

/// While KVM reads a page in place of a guest, other calls replace it.
fn no_gap_for_kvm(stage: &Stage) {
    const MARK: u8 = 0x5a;
    let mut guest = Guest::new(stage);
    for page in 0..PAGES {
        guest.fill(page, MARK);
    }
    guest.map(0, PAGES, 0, 0).unwrap();
    // xor %si,%si; outsb (%si),(%dx); jmp to it. KVM reads what a string instruction writes
    // to a port.
    guest.machine.load(&[0x31, 0xf6, 0x6e, 0xeb, 0xfb]);
    guest.machine.start_at(ENTRY);
    guest.aim(2);
    let address = guest.address(0);
    let vm = guest.machine.vm.as_fd().try_clone_to_owned().unwrap();
    let changes = move |ranges: RangeMemory<OwnedFd>| {
        let map = |page: u64, pages: u64, host: u64| {
            let (at, host) = (WINDOW + page * PAGE, address + host * PAGE);
            // SAFETY: the memory outlives the guest.
            unsafe { ranges.kvm_map_range(&range(at, pages * PAGE, host, LOG)) }.unwrap();
            thread::yield_now();
        };
        for _ in 0..20 {
            map(1, 3, 8);
            map(2, 1, 2);
            map(0, 4, 0);
            ranges.kvm_unmap_range(0, WINDOW, 2 * PAGE).unwrap();
        }
    };
    while_changing(vm, changes, || {
        assert_eq!(guest.machine.run_to_out(0), MARK);
    });
}

/// While a guest writes to a page, other calls split and join the slots around it.
fn no_gap(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(0, PAGES, 0, 0).unwrap();
    // mov %al,(%bx); jmp to it.
    guest.machine.load(&[0x88, 0x07, 0xeb, 0xfc]);
    guest.machine.start_at(ENTRY);
    guest.aim(2);
    let address = guest.address(0);
    let vm = guest.machine.vm.as_fd().try_clone_to_owned().unwrap();
    let ending = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ending);
    let changes = thread::spawn(move || {
        let ranges = RangeMemory::new(Syscall::open().unwrap(), vm);
        let map = |page: u64, pages: u64, flags| {
            let (at, host) = (WINDOW + page * PAGE, address + page * PAGE);
            // SAFETY: the memory outlives the guest.
            unsafe { ranges.kvm_map_range(&range(at, pages * PAGE, host, flags)) }.unwrap();
            thread::yield_now();
        };
        for _ in 0..100 {
            map(1, 3, LOG);
            map(2, 1, 0);
            map(0, 4, 0);
        }
        // This ends the guest's loop, and nothing else does.
        end.store(true, Ordering::SeqCst);
        map(2, 1, READONLY);
    });
    let reason = guest.machine.try_run();
    let ended = ending.load(Ordering::SeqCst);
    changes.join().unwrap();
    assert!(matches!(reason, Ok(Reason::Mmio { .. })), "{reason:?}");
    assert!(ended, "the guest has met a gap");
}
