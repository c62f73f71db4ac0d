//! The results of the calls: counts that a child writes and its parent reads.

use std::fmt::Write;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::rows::{MOST, ROWS};

/// Errnos are below this.
const ERRNOS: usize = 134;

/// One count for success and one for each errno, for each call.
type Counts = [[AtomicU64; ERRNOS]; MOST];

#[repr(C)]
struct Shared {
    counts: Counts,
    /// Calls of all kinds that have returned.
    done: AtomicU64,
}

/// Counts in memory that is shared with children.
pub struct Tally(NonNull<Shared>);

impl Tally {
    pub fn new() -> Result<Self> {
        let size = size_of::<Shared>().try_into().expect("it is not empty");
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let memory = unsafe { mmap_anonymous(None, size, prot, MapFlags::MAP_SHARED) }?;
        // The counts begin at 0.
        Ok(Self(memory.cast()))
    }

    fn shared(&self) -> &Shared {
        // SAFETY: it is mapped until this is dropped, aligned to a page, and has only
        // atomics, for which any bits are a value.
        unsafe { self.0.as_ref() }
    }

    /// The number of KVM's system calls that have returned.
    pub fn calls(&self) -> u64 {
        let counts = self.shared().counts.iter().flatten();
        counts.map(|it| it.load(Ordering::Relaxed)).sum()
    }

    /// The number of calls of all kinds that have returned.
    pub fn done(&self) -> u64 {
        self.shared().done.load(Ordering::Relaxed)
    }

    /// Counts a call that has returned; `row` is its row of the table.
    pub fn count(&self, row: Option<usize>, result: Result<i64, Errno>) {
        if let Some(row) = row {
            let errno = result.err().map_or(0, |errno| errno as usize);
            self.shared().counts[row][errno.min(ERRNOS - 1)].fetch_add(1, Ordering::Relaxed);
        }
        self.shared().done.fetch_add(1, Ordering::Relaxed);
    }

    /// The calls that never succeeded.
    pub fn never(&self) -> Vec<&'static str> {
        let rows = ROWS.iter().zip(&self.shared().counts);
        let never = rows.filter(|(_, counts)| counts[0].load(Ordering::Relaxed) == 0);
        never.map(|(call, _)| call.name.as_str()).collect()
    }

    /// A line for each call: how often it succeeded, and how it failed.
    pub fn lines(&self) -> String {
        let mut text = String::from("the results of each call");
        for (call, counts) in ROWS.iter().zip(&self.shared().counts) {
            let counts = counts.each_ref().map(|it| it.load(Ordering::Relaxed));
            let _ = write!(text, "\n  {:31} {:7} done", call.name, counts[0]);
            for (errno, count) in counts.iter().enumerate().skip(1) {
                if *count > 0 {
                    let _ = write!(text, ", {count} {:?}", Errno::from_raw(errno as i32));
                }
            }
        }
        text
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        // SAFETY: nothing borrows it any more. It fails only for another size.
        let _ = unsafe { munmap(self.0.cast(), size_of::<Shared>()) };
    }
}
