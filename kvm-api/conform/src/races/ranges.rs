//! Ranges of memory are replaced, and grow and shrink, while a vCPU uses them.

use std::array;
use std::os::fd::{AsFd, BorrowedFd};

use guests::programs;
use kvm_api::kvm_sys::slot::{KVM_MEM_LOG_DIRTY_PAGES as LOG, KVM_MEM_READONLY as READONLY};
use kvm_api::kvm_sys::{Msrs, kvm_msr_entry};
use kvm_api::ranges::{RangeMemory, range};
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, GuestMemory, Reason};

use super::Race;
use super::dirty::{PAGES, misses_no_write};
use super::guest::{FAR, Guest, PAGE, word};
use super::round::Round;
use super::threads::repeating;

pub const RACES: &[Race] = &[
    (
        "KVM always finds memory of a range that is replaced",
        replaced,
    ),
    (
        "no write is missing in the log of a range that grows and shrinks",
        resized,
    ),
    (
        "no write of KVM is missing in the log of a range that grows and shrinks",
        stolen,
    ),
];

/// The number of pages behind [`PAGES`], which a guest uses.
const MORE: usize = 4;
/// The number of changes in a round.
const CHANGES: u64 = 20;

/// The memory of a guest by ranges from [`FAR`] on. The pages of either are counted from 0.
#[derive(Clone, Copy)]
struct Ranges<'g> {
    ranges: RangeMemory<BorrowedFd<'g>>,
    address: u64,
}

impl<'g> Ranges<'g> {
    /// The memory must outlive the guest.
    fn new(guest: &'g Guest, memory: &GuestMemory) -> Self {
        Self {
            ranges: RangeMemory::new(Syscall::open().unwrap(), guest.vm.as_fd()),
            address: memory.as_ptr().expose_provenance() as u64,
        }
    }

    fn map(&self, page: u64, pages: u64, host: u64, flags: u32) {
        const SIZE: u64 = PAGE as u64;
        let (at, host) = (FAR + page * SIZE, self.address + host * SIZE);
        // SAFETY: the memory outlives the guest.
        unsafe {
            self.ranges
                .kvm_map_range(&range(at, pages * SIZE, host, flags))
        }
        .unwrap();
    }

    fn unmap(&self, page: u64, pages: u64) {
        let (at, size) = (FAR + page * PAGE as u64, pages * PAGE as u64);
        self.ranges.kvm_unmap_range(0, at, size).unwrap();
    }

    fn protect(&self, page: u64, pages: u64, flags: u32) {
        let (at, size) = (FAR + page * PAGE as u64, pages * PAGE as u64);
        // SAFETY: the guest may write to the memory anyway.
        unsafe { self.ranges.kvm_protect_range(0, at, size, flags) }.unwrap();
    }

    /// Fetches the log of the pages that the guest uses.
    fn log(&self) -> u64 {
        let mut log = [0];
        let size = (PAGES * PAGE) as u64;
        // SAFETY: the log has a bit for each page.
        unsafe { self.ranges.kvm_get_dirty_range(0, FAR, size, &mut log, 0) }.unwrap();
        log[0]
    }
}

/// The vCPU has an exit for each byte that KVM reads from the first page. If KVM does not
/// find the page, it asks this process for the byte instead.
fn replaced(round: &Round) {
    // Declared before the guest, to outlive it.
    let memory = GuestMemory::anonymous(2 * PAGES * PAGE).unwrap();
    let guest = round.guest(programs::OUT_FAR);
    let ranges = Ranges::new(&guest, &memory);
    ranges.map(0, PAGES as u64, 0, 0);
    repeating(|threads| {
        let runner = threads.run(round.runner(), &guest, |end| {
            assert!(
                matches!(end, Ok(Reason::Io { .. }) | Err(Errno::EINTR)),
                "{end:?}"
            );
        });
        for _ in 0..CHANGES {
            let pages = 1 + round.random.below(PAGES as u64 - 1);
            match round.random.below(4) {
                0 => ranges.map(0, pages, 0, 0),
                1 => ranges.map(0, pages, PAGES as u64, LOG),
                2 => {
                    ranges.map(0, PAGES as u64, 1, 0);
                    ranges.protect(0, pages, READONLY);
                }
                _ => ranges.unmap(pages, PAGES as u64 - pages),
            }
            round.pause();
        }
        runner.end();
    });
}

/// The guest counts in each page.
fn resized(round: &Round) {
    logged(round, programs::COUNT_PAGES, |_| {});
}

/// KVM writes to the second page, whenever it loads the vCPU, how much time others have had,
/// and counts its writes there. The guest has one exit after another.
fn stolen(round: &Round) {
    const MSR_KVM_STEAL_TIME: u32 = 0x4b56_4d03;
    const ENABLED: u64 = 1;
    logged(round, programs::OUT_FAR, |guest| {
        let entry = kvm_msr_entry {
            index: MSR_KVM_STEAL_TIME,
            data: (FAR + PAGE as u64) | ENABLED,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[entry]).unwrap();
        let set = round.runner().kvm_set_msrs(guest.vcpu.as_fd(), &msrs);
        assert_eq!(set, Ok(1));
    });
}

/// Fetches the log of pages in which a guest counts, or KVM does.
fn logged(round: &Round, program: &[u8], prepare: impl FnOnce(&Guest)) {
    // Declared before the guest, to outlive it.
    let memory = GuestMemory::anonymous((PAGES + MORE) * PAGE).unwrap();
    let guest = round.guest(program);
    let ranges = Ranges::new(&guest, &memory);
    ranges.map(0, PAGES as u64, 0, LOG);
    prepare(&guest);
    repeating(|threads| {
        let runner = threads.run(round.runner(), &guest, |end| {
            assert!(
                matches!(end, Ok(Reason::Io { .. }) | Err(Errno::EINTR)),
                "{end:?}"
            );
        });
        threads.repeat(move || {
            let (page, pages) = (PAGES as u64, 1 + round.random.below(MORE as u64));
            ranges.map(page, pages, page, LOG);
            round.pause();
            ranges.unmap(page, pages);
            round.pause();
        });
        misses_no_write(round, runner, || counts(&memory), |_| ranges.log());
    });
}

/// The words in which a guest counts, and KVM: `version` of struct kvm_steal_time.
fn counts(memory: &GuestMemory) -> [(u32, u32); PAGES] {
    array::from_fn(|page| (word(memory, page * PAGE), word(memory, page * PAGE + 8)))
}
