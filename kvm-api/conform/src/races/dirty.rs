//! The dirty log, which is fetched while a guest writes, misses no write.

use std::array;
use std::os::fd::AsFd;

use guests::programs;
use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_api::{Errno, GuestMemory};

use super::Race;
use super::guest::{FAR, PAGE, Running, SLOT, word};
use super::round::Round;
use super::threads::repeating;

pub const RACES: &[Race] = &[("no write is missing in a dirty log", race)];

/// The number of pages whose log is fetched.
pub(super) const PAGES: usize = 16;
/// The number of times that the log is fetched in a round.
const FETCHES: usize = 20;

fn race(round: &Round) {
    // Declared before the guest, to outlive it.
    let memory = GuestMemory::anonymous(PAGES * PAGE).unwrap();
    let guest = round.guest(programs::COUNT_PAGES);
    let set = |flags| {
        // SAFETY: the memory outlives the guest.
        unsafe { guest.set_slot(round.other(), flags, FAR, PAGES * PAGE, memory.as_ptr()) }
            .unwrap();
    };
    set(0);
    repeating(|threads| {
        let runner = threads.run(round.runner(), &guest, |end| {
            assert_eq!(end, Err(Errno::EINTR));
        });
        // The log begins while the guest writes.
        round.pause();
        set(KVM_MEM_LOG_DIRTY_PAGES);
        let counts = || array::from_fn(|page| word(&memory, page * PAGE));
        misses_no_write(round, runner, counts, |n| {
            let kvm = round.interface(n);
            let mut log = [0];
            // SAFETY: the log has a bit for each page of the slot.
            unsafe { kvm.kvm_get_dirty_log(guest.vm.as_fd(), SLOT, &mut log) }.unwrap();
            log[0]
        });
    });
}

/// Fetches the log of pages again and again while `runner` writes to them, and compares it
/// with what the pages contain.
pub(super) fn misses_no_write<C: PartialEq>(
    round: &Round,
    runner: Running<'_>,
    contents: impl Fn() -> [C; PAGES],
    fetch: impl Fn(usize) -> u64,
) {
    let mut seen = contents();
    // Writes between fetching the log and reading the memory show in the next log.
    let mut late = 0;
    let mut runner = Some(runner);
    for n in 0..FETCHES {
        round.pause();
        if n == FETCHES - 2 {
            runner.take().expect("it ends once").end();
        }
        let log = fetch(n);
        assert_eq!(late & !log, 0, "pages written and not in the log");
        let now = contents();
        let changed = (0..PAGES).filter(|page| now[*page] != seen[*page]);
        late = changed.fold(0, |pages, page| pages | 1 << page) & !log;
        seen = now;
    }
    assert_eq!(late, 0, "pages that nobody wrote have changed");
}
