//! kvm_get_dirty_range, kvm_clear_dirty_range: the log of a virtual machine that clears
//! pages by a separate call, and of one that clears them when the log is fetched.

use std::os::fd::{AsFd, AsRawFd};

use kvm_api::Errno;
use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES as LOG;
use kvm_api::kvm_sys::{__NR_kvm_clear_dirty_range, KVM_ENABLE_CAP};

use crate::Needs::AnyVcpu;
use crate::range_guest::{Guest, PAGE, WINDOW};
use crate::{Stage, Test};
use kvm_api::Form;

const fn of(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Ranges, (name, AnyVcpu, test))
}

pub const TESTS: &[(Form, Test)] = &[
    of(
        "kvm_get_dirty_range::leaves_what_is_cleared_by_hand",
        manual,
    ),
    of("kvm_get_dirty_range::peeks", peeks),
    of("kvm_clear_dirty_range::a_fault_clears_nothing", fault),
    of("kvm_clear_dirty_range::exactly_the_bits", exact),
    of("kvm_clear_dirty_range::holes_and_the_unlogged", holes),
];

/// Enables KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: only a separate call clears the log.
fn clear_by_hand(guest: &Guest<'_>) {
    #[repr(C)]
    struct EnableCap {
        cap: u32,
        flags: u32,
        args: [u64; 4],
        pad: [u8; 64],
    }
    let enable = EnableCap {
        cap: 168,
        flags: 0,
        args: [1, 0, 0, 0],
        pad: [0; 64],
    };
    let vm = guest.machine.vm.as_fd().as_raw_fd();
    // SAFETY: the request reads a structure of this layout.
    Errno::result(unsafe { libc::ioctl(vm, KVM_ENABLE_CAP, &raw const enable) }).unwrap();
}

/// Which of the pages 1 to 7 are written. They belong to two slots that do not begin at a
/// word of the bitmap.
const WRITTEN: [bool; 7] = [false, true, true, true, false, true, false];

fn written<'k>(stage: &'k Stage) -> Guest<'k> {
    let mut guest = Guest::new(stage);
    guest.map(1, 3, 1, LOG).unwrap();
    guest.map(4, 4, 8, LOG).unwrap();
    for page in [2, 3, 4, 6] {
        guest.write(page);
    }
    guest
}

/// The flag leaves the log as it is, and others are refused.
fn peeks(stage: &Stage) {
    let mut guest = written(stage);
    for _ in 0..2 {
        assert_eq!(guest.peek(1, 7), Ok(WRITTEN.to_vec()));
    }
    for flags in [2, 3, 1 << 31] {
        let ranges = guest.ranges();
        // SAFETY: the kernel refuses the flags before it writes the bitmap.
        let result = unsafe { ranges.kvm_get_dirty_range(0, WINDOW, PAGE, &mut [], flags) };
        assert_eq!(result, Err(Errno::EINVAL), "{flags}");
    }
    assert_eq!(guest.dirty(1, 7), Ok(WRITTEN.to_vec()));
    assert_eq!(guest.peek(1, 7), Ok(vec![false; 7]));
}

fn manual(stage: &Stage) {
    let mut guest = written(stage);
    clear_by_hand(&guest);
    for _ in 0..2 {
        assert_eq!(guest.dirty(1, 7), Ok(WRITTEN.to_vec()));
    }
    guest.clear(1, 7, 0b010_1010).unwrap();
    let left = [false, false, true, false, false, false, false];
    for _ in 0..2 {
        assert_eq!(guest.dirty(1, 7), Ok(left.to_vec()));
    }
    // A later write shows again.
    guest.write(4);
    assert_eq!(guest.dirty(3, 3), Ok(vec![true, true, false]));
    guest.clear(1, 7, !0).unwrap();
    assert_eq!(guest.dirty(1, 7), Ok(vec![false; 7]));
}

fn fault(stage: &Stage) {
    let mut guest = written(stage);
    clear_by_hand(&guest);
    let vm = guest.machine.vm().as_raw_fd();
    // SAFETY: there is nothing at 0 to read.
    let result = unsafe {
        libc::syscall(
            __NR_kvm_clear_dirty_range,
            vm,
            0,
            WINDOW + PAGE,
            7 * PAGE,
            0,
        )
    };
    assert_eq!(Errno::result(result), Err(Errno::EFAULT));
    assert_eq!(guest.dirty(1, 7), Ok(WRITTEN.to_vec()));
}

/// The call also works if fetching the log clears it, like the ioctl.
fn exact(stage: &Stage) {
    let mut guest = written(stage);
    // Page 4 of pages 3 and 4, and none of page 6 and the pages around it.
    guest.clear(3, 2, 0b10).unwrap();
    guest.clear(5, 3, 0b101).unwrap();
    let left = [false, true, true, false, false, true, false];
    assert_eq!(guest.dirty(1, 7), Ok(left.to_vec()));
    assert_eq!(guest.dirty(1, 7), Ok(vec![false; 7]));
}

fn holes(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(1, 2, 1, LOG).unwrap();
    guest.map(4, 1, 4, LOG).unwrap();
    guest.map(5, 1, 5, 0).unwrap();
    guest.write(1);
    guest.write(4);
    for (page, pages) in [(0, 2), (1, 3), (1, 4), (3, 1)] {
        assert_eq!(guest.clear(page, pages, !0), Err(Errno::ENOMEM), "{page}");
    }
    assert_eq!(guest.clear(4, 2, !0), Err(Errno::ENOENT));
    let ranges = guest.ranges();
    // One page more than the maximum of a slot.
    let most = 1 << 31;
    for (address, size) in [(WINDOW, 0), (WINDOW + 1, PAGE), (WINDOW, most * PAGE)] {
        // SAFETY: the kernel refuses the arguments before it reads the bitmap.
        let clear = unsafe { ranges.kvm_clear_dirty_range(0, address, size, &[]) };
        // SAFETY: as above.
        let get = unsafe { ranges.kvm_get_dirty_range(0, address, size, &mut [], 0) };
        assert_eq!(
            (get, clear),
            (Err(Errno::EINVAL), Err(Errno::EINVAL)),
            "{size:#x}"
        );
    }
    // The refused calls have cleared nothing.
    assert_eq!(guest.dirty(1, 2), Ok(vec![true, false]));
    assert_eq!(guest.dirty(4, 1), Ok(vec![true]));
}
