//! A breakpoint that a task has set for itself, and one that guests have set
//! for themselves at an address of the task.

use std::fs::File;
use std::io::Read;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_api::kvm_sys::kvm_debugregs;

use crate::requests::new_descriptor;

/// The word that guests watch, as if it were theirs.
static GUESTS: AtomicU64 = AtomicU64::new(0);

/// The debug registers of a guest, which are in use, so that KVM loads them.
/// The guest does not write to the word. A task that does is killed if it has
/// the guest's registers.
pub fn guests() -> kvm_debugregs {
    /// All four, on a write of four bytes.
    const DR7: u64 = 0xdddd_0455;
    kvm_debugregs {
        db: [GUESTS.as_ptr().expose_provenance() as u64; 4],
        dr6: 0xffff_0ff0,
        dr7: DR7,
        ..Default::default()
    }
}

/// A word of the task, which a debug register watches.
#[derive(Debug)]
pub struct Watch {
    event: File,
    word: Box<AtomicU64>,
}

/// The start of `struct perf_event_attr`, with the fields for breakpoints.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
    bp_len: u64,
}

const PERF_TYPE_BREAKPOINT: u32 = 5;
const PERF_FLAG_FD_CLOEXEC: u32 = 1 << 3;
const HW_BREAKPOINT_W: u32 = 2;
const PINNED: u64 = 1 << 2;
const EXCLUDE_KERNEL: u64 = 1 << 5;

impl Watch {
    /// Watches a word of the calling task.
    pub fn set() -> Self {
        let word = Box::new(AtomicU64::new(0));
        let attributes = Attributes {
            kind: PERF_TYPE_BREAKPOINT,
            size: size_of::<Attributes>() as u32,
            flags: PINNED | EXCLUDE_KERNEL,
            bp_type: HW_BREAKPOINT_W,
            bp_addr: word.as_ptr().expose_provenance() as u64,
            bp_len: size_of_val(&*word) as u64,
            ..Default::default()
        };
        // SAFETY: the kernel reads the attributes, which contain their size, and returns a
        // new descriptor.
        let event = unsafe {
            new_descriptor(libc::syscall(
                libc::SYS_perf_event_open,
                ptr::from_ref(&attributes),
                0,
                -1,
                -1,
                PERF_FLAG_FD_CLOEXEC,
            ))
        };
        let event = event.expect("there is a debug register").into();
        Self { event, word }
    }

    /// Asserts that neither breakpoint hits during `f`, and that only the
    /// task's own hits for the writes around it.
    pub fn around<T>(&self, f: impl FnOnce() -> T) -> T {
        let begin = self.fired();
        self.word.store(1, Ordering::Relaxed);
        let before = self.fired();
        let result = f();
        let after = self.fired();
        self.word.store(2, Ordering::Relaxed);
        GUESTS.store(1, Ordering::Relaxed);
        let counts = [before, after, self.fired()].map(|count| count - begin);
        assert_eq!(counts, [1, 1, 2], "the task's own breakpoint");
        result
    }

    fn fired(&self) -> u64 {
        let mut count = [0; 8];
        let read = (&self.event).read(&mut count);
        // An event that is not scheduled reads as empty.
        assert_eq!(read.ok(), Some(count.len()), "the breakpoint is set");
        u64::from_ne_bytes(count)
    }
}
