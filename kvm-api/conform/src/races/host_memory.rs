//! The host memory behind a slot is protected, unmapped, emptied or truncated
//! while a guest writes there.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use guests::programs;
use kvm_api::Errno;
use libc::c_void;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{
    MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};
use nix::unistd::ftruncate;

use super::Race;
use super::guest::FAR;
use super::round::Round;
use super::threads::{repeating, wait_until};

pub const RACES: &[Race] = &[
    ("a guest's memory is unmapped under it", |round| {
        race(round, unmap);
    }),
    ("a guest's memory is protected from it", |round| {
        race(round, protect);
    }),
    ("a guest's memory is emptied under it", |round| {
        race(round, empty);
    }),
    ("a guest's memory is truncated under it", |round| {
        race(round, truncate);
    }),
];

const PAGE: NonZeroUsize = NonZeroUsize::new(0x1000).unwrap();
const LEN: NonZeroUsize = NonZeroUsize::new(0x2_0000).unwrap();
const CHANGES: u32 = 10;

const WRITABLE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// A range of addresses that is reserved for the round until it is dropped.
struct ReservedRange {
    start: NonNull<c_void>,
    file: OwnedFd,
}

impl ReservedRange {
    fn new() -> Self {
        let file = memfd_create(c"race", MFdFlags::MFD_CLOEXEC).unwrap();
        ftruncate(&file, LEN.get() as i64).unwrap();
        // SAFETY: no address is given, so no memory in use is replaced.
        let start = unsafe { mmap(None, LEN, WRITABLE, MapFlags::MAP_SHARED, &file, 0) }.unwrap();
        Self { start, file }
    }

    /// Maps memory at the range.
    fn map(&self, private: bool) {
        let at = Some(self.start.addr());
        // SAFETY: the addresses are the range's own, and nothing refers to
        // the memory there.
        let mapped = unsafe {
            if private {
                let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
                mmap_anonymous(at, LEN, WRITABLE, flags)
            } else {
                let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
                mmap(at, LEN, WRITABLE, flags, &self.file, 0)
            }
        };
        assert_eq!(mapped, Ok(self.start));
    }
}

impl Drop for ReservedRange {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it.
        unsafe { munmap(self.start, LEN.get()) }.unwrap();
    }
}

/// Changes the range, and makes it writable again.
type Change = fn(&Round, &ReservedRange);

fn race(round: &Round, change: Change) {
    // Declared before the guest, to outlive it.
    let range = ReservedRange::new();
    let guest = round.guest(programs::COUNT_PAGES);
    let memory = range.start.as_ptr().cast();
    // SAFETY: the addresses are the guest's while it is there.
    unsafe { guest.set_slot(round.other(), 0, FAR, LEN.get(), memory) }.unwrap();
    repeating(|threads| {
        let runner = threads.run(round.runner(), &guest, |end| {
            // The guest continues when its memory is back.
            assert!(matches!(end, Err(Errno::EINTR | Errno::EFAULT)), "{end:?}");
        });
        for _ in 0..CHANGES {
            change(round, &range);
        }
        wait_for_write(&range);
        runner.end();
    });
}

/// Waits until the guest has written to the first page.
fn wait_for_write(range: &ReservedRange) {
    let word = range.start.cast::<u32>();
    // SAFETY: the memory is mapped; the guest writes it meanwhile, which a
    // volatile access allows for.
    let read = || unsafe { word.read_volatile() };
    let before = read();
    wait_until(|| read() != before);
}

fn unmap(round: &Round, range: &ReservedRange) {
    // SAFETY: nothing of this program refers to the memory.
    unsafe { munmap(range.start, LEN.get()) }.unwrap();
    round.pause();
    range.map(round.random.coin());
    round.pause();
}

fn protect(round: &Round, range: &ReservedRange) {
    for protection in [ProtFlags::PROT_NONE, ProtFlags::PROT_READ, WRITABLE] {
        // SAFETY: as above.
        unsafe { mprotect(range.start, LEN.get(), protection) }.unwrap();
        round.pause();
    }
}

fn empty(round: &Round, range: &ReservedRange) {
    range.map(round.random.coin());
    round.pause();
    let part = PAGE.get() * (1 + round.random.below(16) as usize);
    // SAFETY: as above.
    unsafe { madvise(range.start, part, MmapAdvise::MADV_DONTNEED) }.unwrap();
    round.pause();
}

fn truncate(round: &Round, range: &ReservedRange) {
    let part = PAGE.get() as u64 * round.random.below(16);
    ftruncate(&range.file, part as i64).unwrap();
    round.pause();
    ftruncate(&range.file, LEN.get() as i64).unwrap();
    round.pause();
}
