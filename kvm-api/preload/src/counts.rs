//! The memory of the counts: a file that all processes of a program share, or memory of
//! the process.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use kvm_sys::REQUESTS;
use libc::c_int;

use crate::bindings::{Bindings, Event};
use crate::outcome::Outcome;
use crate::route::Route;

/// The variable with the path of the file of counts, which must exist. The counts remain,
/// even if a process is killed.
pub const COUNTS_VARIABLE: &CStr = c"KVM_PRELOAD_COUNTS";

/// The requests with a call that there is room for.
pub(crate) const ROUTES: usize = 32;

/// The counts of the requests that have a call: one for each outcome.
pub(crate) const OF_ROUTES: usize = ROUTES * Outcome::OF_ROUTES.len();

/// The number of counts. The last is for KVM's requests without a name.
pub(crate) const COUNTS: usize = OF_ROUTES + REQUESTS.len() + 1;

/// The memory of the counts.
#[repr(C)]
pub(crate) struct Shared {
    pub(crate) processes: AtomicU64,
    bindings: [AtomicU64; Event::COUNT],
    counts: [AtomicU64; COUNTS],
}

/// The memory, mapped for as long as the process lives; null while nobody counts.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

/// Counts in the file at `path`. On failure `errno` has the reason.
pub(crate) fn attach(path: &CStr) -> bool {
    // SAFETY: the path ends with a zero. The file is long enough.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        let attached = map(libc::MAP_SHARED, fd);
        libc::close(fd);
        attached
    }
}

/// Counts in the memory of this process, if it does not count yet. A child starts at 0.
pub(crate) fn attach_own() -> bool {
    let shared = SHARED.load(Ordering::Acquire);
    if !shared.is_null() {
        return true;
    }
    if !map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1) {
        return false;
    }
    let own = SHARED.load(Ordering::Acquire).cast();
    // SAFETY: the whole of the mapping, which a child is to find empty.
    unsafe { libc::madvise(own, size_of::<Shared>(), libc::MADV_WIPEONFORK) == 0 }
}

fn map(flags: c_int, fd: c_int) -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let size = size_of::<Shared>();
    // SAFETY: a new mapping, which stays.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, fd, 0) };
    let mapped = memory != libc::MAP_FAILED;
    if mapped {
        SHARED.store(memory.cast(), Ordering::Release);
    }
    mapped
}

#[inline(always)]
fn shared() -> Option<&'static Shared> {
    // SAFETY: it is null, or the mapping, which stays. All of it is atomic, and any bits
    // are a count.
    unsafe { SHARED.load(Ordering::Acquire).as_ref() }
}

/// How often the request and outcome at this index were counted.
pub(crate) fn get(index: usize) -> u64 {
    let count = shared().and_then(|shared| shared.counts.get(index));
    count.map_or(0, |count| count.load(Ordering::Relaxed))
}

#[inline(always)]
fn add(place: Option<&AtomicU64>) {
    if let Some(place) = place {
        place.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a process that uses the library.
pub(crate) fn count_process() {
    add(shared().map(|shared| &shared.processes));
}

/// Counts what happened to a binding.
pub(crate) fn count_event(event: Event) {
    add(shared().and_then(|shared| shared.bindings.get(event as usize)));
}

/// What happened to bindings.
pub(crate) fn bindings() -> Bindings {
    let of = |shared: &Shared| {
        shared
            .bindings
            .each_ref()
            .map(|it| it.load(Ordering::Relaxed))
    };
    Bindings(shared().map_or([0; _], of))
}

/// Counts a request that has a call.
#[inline(always)]
pub(crate) fn count(route: &Route, outcome: Outcome) {
    if let Some(shared) = shared() {
        let place = usize::from(route.index) * Outcome::OF_ROUTES.len() + outcome as usize;
        add(shared.counts.get(place));
    }
}

/// Counts a request of KVM that has no call.
pub(crate) fn count_other(request: u32) {
    if let Some(shared) = shared() {
        let known = |(_, code): &(&str, u64)| *code == u64::from(request);
        let place = REQUESTS.iter().position(known).unwrap_or(REQUESTS.len());
        add(shared.counts.get(OF_ROUTES + place));
    }
}
