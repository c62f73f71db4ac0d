//! The dirty log, which is fetched while a guest writes, misses no write.

use std::os::fd::AsFd;
use std::thread;

use guests::programs;
use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_api::{Errno, GuestMemory};

use super::Race;
use super::guest::Guest;
use super::round::Round;
use super::running::Running;

pub const RACES: &[Race] = &[Race::new("no write is missing in a dirty log", race)];

const FAR: u64 = 0x2_0000;
const PAGE: usize = 0x1000;
const PAGES: usize = 16;
const SLOT: u32 = 1;
/// The number of times that the log is fetched in a round.
const FETCHES: usize = 20;

fn race(round: &Round) {
    // Declared before the guest, to outlive it.
    let memory = GuestMemory::anonymous(PAGES * PAGE).unwrap();
    let address = memory.as_ptr().expose_provenance() as u64;
    let mut guest = Guest::new(round.runner(), programs::COUNT_PAGES);
    let (vm, vcpu) = (guest.vm.as_fd(), guest.vcpu.as_fd());
    let set = |flags| {
        // SAFETY: the memory outlives the guest.
        unsafe {
            round.other().kvm_set_user_memory_region(
                vm,
                SLOT,
                flags,
                FAR,
                (PAGES * PAGE) as u64,
                address,
            )
        }
        .unwrap();
    };
    set(0);
    thread::scope(|scope| {
        let runner = Running::begin(scope, round.runner(), vcpu, &mut guest.run, |end| {
            assert_eq!(end, Err(Errno::EINTR));
        });
        // The log begins while the guest writes.
        round.pause();
        set(KVM_MEM_LOG_DIRTY_PAGES);
        let mut seen = counts(&memory);
        // Writes between fetching the log and reading the memory show in the
        // next log.
        let mut late = 0;
        let mut runner = Some(runner);
        for n in 0..FETCHES {
            round.pause();
            if n == FETCHES - 2 {
                runner.take().expect("it ends once").end();
            }
            let mut log = [0];
            // SAFETY: the log has a bit for each page of the slot.
            unsafe { round.interface(n).kvm_get_dirty_log(vm, SLOT, &mut log) }.unwrap();
            assert_eq!(late & !log[0], 0, "pages written and not in the log");
            let now = counts(&memory);
            let changed = (0..PAGES).filter(|page| now[*page] != seen[*page]);
            late = changed.fold(0, |pages, page| pages | 1 << page) & !log[0];
            seen = now;
        }
        assert_eq!(late, 0, "pages that nobody wrote have changed");
    });
}

fn counts(memory: &GuestMemory) -> [u32; PAGES] {
    let mut counts = [0; PAGES];
    for (page, count) in counts.iter_mut().enumerate() {
        let mut word = [0; 4];
        memory.read(page * PAGE, &mut word).unwrap();
        *count = u32::from_le_bytes(word);
    }
    counts
}
