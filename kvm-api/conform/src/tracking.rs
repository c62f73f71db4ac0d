//! A device that shadows the memory of a guest, as KVMGT does, tracks the guest's writes.
//! KVM tells it of a slot that goes, but not of what takes its place. So no call cuts,
//! joins or replaces a slot of that guest.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;
use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES as LOG;
use kvm_api::ranges::{RangeMemory, range};
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, GuestMemory, Kvm};

use crate::cli::Options;
use crate::outcome::Outcome;
use crate::property::{Kernels, Property, Test};
use crate::requests::enable;

pub const PROPERTY: Property = Property {
    name: "tracking",
    about: "no slot is cut while a device tracks the guest's writes",
    backends: "ranges",
    kernels: Kernels::Debug,
    test: Test::inside(test),
};

/// The capability of the debug kernel that tracks all writes of a VM.
const KVM_CAP_TRACK_WRITES: u64 = 1_000_000;

const PAGE: u64 = 0x1000;
/// The number of pages that the guest has, from address 0 on. The host has twice as many.
const PAGES: u64 = 8;

type Change = fn(&Guest<'_>) -> kvm_api::Result<()>;

/// The name of a change, its test, and the change.
type Case = (&'static str, fn(&Guest<'_>, Change) -> Result<()>, Change);

const CASES: &[Case] = &[
    ("a part is replaced", refused, |guest| {
        guest.map(2, 1, PAGES)
    }),
    ("the whole is replaced", refused, |guest| {
        guest.map(0, PAGES, PAGES)
    }),
    ("a part is unmapped", refused, |guest| guest.unmap(2, 1)),
    ("the whole is unmapped", allowed, |guest| {
        guest.unmap(0, PAGES)
    }),
    ("flags of a part change", refused, |guest| {
        guest.protect(2, 1, 0)
    }),
    // It does not join, which a slot that was cut would have to do.
    ("what follows is mapped", allowed, |guest| {
        guest.map(PAGES, 1, PAGES)
    }),
    ("memory is mapped elsewhere", allowed, |guest| {
        guest.map(2 * PAGES, 1, 0)
    }),
];

fn test(_: &Options) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (name, expect, change) in CASES {
        outcome.case(name, with_guest(|guest| expect(guest, *change)));
    }
    Ok(outcome)
}

/// Refused while the writes are tracked, without an effect; allowed before and after.
fn refused(guest: &Guest<'_>, change: Change) -> Result<()> {
    change(guest)?;
    guest.begin()?;
    guest.track(true)?;
    let tracked = change(guest);
    let unchanged = guest.is_whole();
    guest.track(false)?;
    assert_eq!(tracked, Err(Errno::EINVAL));
    unchanged?;
    Ok(change(guest)?)
}

/// Allowed while the writes are tracked.
fn allowed(guest: &Guest<'_>, change: Change) -> Result<()> {
    guest.track(true)?;
    let tracked = change(guest);
    guest.track(false)?;
    Ok(tracked?)
}

/// A VM without a vCPU.
struct Guest<'a> {
    vm: BorrowedFd<'a>,
    ranges: RangeMemory<BorrowedFd<'a>>,
    host: &'a GuestMemory,
}

fn with_guest(test: impl FnOnce(&Guest<'_>) -> Result<()>) -> Result<()> {
    let flat = Syscall::open()?;
    let host = GuestMemory::anonymous((2 * PAGES * PAGE) as usize)?;
    let vm = flat.kvm_create_vm()?;
    let guest = Guest {
        vm: vm.as_fd(),
        ranges: RangeMemory::new(flat, vm.as_fd()),
        host: &host,
    };
    guest.begin()?;
    test(&guest)?;
    // Before the memory is freed.
    Ok(guest.unmap(0, 3 * PAGES)?)
}

impl Guest<'_> {
    /// Maps the pages of the guest as one slot.
    fn begin(&self) -> kvm_api::Result<()> {
        self.unmap(0, 3 * PAGES)?;
        self.map(0, PAGES, 0)
    }

    /// Maps pages of the host. Those that follow in both are joined.
    fn map(&self, page: u64, pages: u64, host: u64) -> kvm_api::Result<()> {
        let address = self.host.as_ptr().expose_provenance() as u64 + host * PAGE;
        let (at, size) = (page * PAGE, pages * PAGE);
        // SAFETY: the memory stays until it is unmapped from the guest, or the process ends.
        unsafe { self.ranges.kvm_map_range(&range(at, size, address, LOG)) }
    }

    fn unmap(&self, page: u64, pages: u64) -> kvm_api::Result<()> {
        self.ranges.kvm_unmap_range(0, page * PAGE, pages * PAGE)
    }

    fn protect(&self, page: u64, pages: u64, flags: u32) -> kvm_api::Result<()> {
        let (at, size) = (page * PAGE, pages * PAGE);
        // SAFETY: the guest may write to the memory anyway.
        unsafe { self.ranges.kvm_protect_range(0, at, size, flags) }
    }

    /// Tracks the writes of this VM, or no longer.
    fn track(&self, track: bool) -> Result<()> {
        enable(self.vm, KVM_CAP_TRACK_WRITES, track.into())
    }

    /// Fails unless the guest has all its pages, and their log.
    fn is_whole(&self) -> kvm_api::Result<()> {
        let (size, bitmap) = (PAGES * PAGE, &mut [0]);
        // SAFETY: the bitmap has a bit for each page.
        unsafe { self.ranges.kvm_get_dirty_range(0, 0, size, bitmap, 0) }
    }
}
