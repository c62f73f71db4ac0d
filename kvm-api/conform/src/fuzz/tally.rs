//! The results of the calls: counts that a child writes and its parent reads.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use kvm_api::GuestMemory;
use nix::errno::Errno;

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
pub struct Tally(GuestMemory);

impl Tally {
    /// Counts that begin at 0.
    pub fn new() -> Result<Self> {
        Ok(Self(GuestMemory::anonymous(size_of::<Shared>())?))
    }

    fn shared(&self) -> &Shared {
        // SAFETY: it is mapped until this is dropped, aligned to a page, and has only
        // atomics, for which any bits are a value.
        unsafe { &*self.0.as_ptr().cast() }
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
