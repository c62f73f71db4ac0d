//! A guest with a window of memory that is mapped by ranges, and host memory to
//! map there.

use std::os::fd::BorrowedFd;

use guests::{ENTRY, TestVm};
use kvm_api::kvm_sys::KVM_DIRTY_RANGE_PEEK;
use kvm_api::ranges::{RangeMemory, range};
use kvm_api::syscall::Syscall;
use kvm_api::{GuestMemory, Kvm, Reason, Result};

use crate::Stage;

/// A page's size in bytes.
pub const PAGE: u64 = 0x1000;
/// Where the window begins.
pub const WINDOW: u64 = 0x8_0000;
/// The number of pages of the window, and of the host's memory.
pub const PAGES: u64 = 16;

/// mov %al,(%bx); hlt.
const WRITE: &[u8] = &[0x88, 0x07, 0xf4];

/// The target of a write of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// This page of the host's memory.
    To(u64),
    /// No memory: the guest has exited.
    Nowhere,
}

/// The guest. Pages are counted from the beginning of the window and of the host's
/// memory.
pub struct Guest<'k> {
    pub machine: TestVm<'k>,
    memory: GuestMemory,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        // Unmap before the memory is freed. Tests delete slots that they have set in
        // another way.
        let _ = self.unmap(0, PAGES);
    }
}

impl<'k> Guest<'k> {
    pub fn new(stage: &'k Stage) -> Self {
        let mut machine = TestVm::of_form(&stage.kvm, 0);
        machine.load(WRITE);
        Self {
            machine,
            memory: GuestMemory::anonymous((PAGES * PAGE) as usize).unwrap(),
        }
    }

    pub fn kvm(&self) -> &'k dyn Kvm {
        self.machine.kvm
    }

    /// The memory of the guest, by ranges.
    pub fn ranges(&self) -> RangeMemory<BorrowedFd<'_>> {
        RangeMemory::new(Syscall::open().unwrap(), self.machine.vm())
    }

    /// The address of a page of the host's memory.
    pub fn address(&self, page: u64) -> u64 {
        self.memory.as_ptr().expose_provenance() as u64 + page * PAGE
    }

    pub fn map(&mut self, page: u64, pages: u64, host: u64, flags: u32) -> Result<()> {
        let at = WINDOW + page * PAGE;
        let range = range(at, pages * PAGE, self.address(host), flags);
        // SAFETY: the memory stays until it is unmapped from the guest.
        unsafe { self.ranges().kvm_map_range(&range) }
    }

    /// Changes the flags of what is mapped.
    pub fn protect(&mut self, page: u64, pages: u64, flags: u32) -> Result<()> {
        let at = WINDOW + page * PAGE;
        // SAFETY: as in `map`, with any flags.
        unsafe { self.ranges().kvm_protect_range(0, at, pages * PAGE, flags) }
    }

    pub fn unmap(&mut self, page: u64, pages: u64) -> Result<()> {
        self.ranges()
            .kvm_unmap_range(0, WINDOW + page * PAGE, pages * PAGE)
    }

    /// Whether each page was written.
    pub fn dirty(&mut self, page: u64, pages: u64) -> Result<Vec<bool>> {
        self.log(page, pages, 0)
    }

    /// Whether each page was written. The log stays.
    pub fn peek(&mut self, page: u64, pages: u64) -> Result<Vec<bool>> {
        self.log(page, pages, KVM_DIRTY_RANGE_PEEK)
    }

    fn log(&mut self, page: u64, pages: u64, flags: u32) -> Result<Vec<bool>> {
        let (at, mut bitmap) = (WINDOW + page * PAGE, [!0]);
        // SAFETY: there are no more pages than bits.
        unsafe {
            self.ranges()
                .kvm_get_dirty_range(0, at, pages * PAGE, &mut bitmap, flags)
        }?;
        assert_eq!(bitmap[0] >> pages, 0, "bits of no page");
        Ok((0..pages).map(|page| bitmap[0] & 1 << page != 0).collect())
    }

    /// Clears the log of the pages whose bit is set.
    pub fn clear(&mut self, page: u64, pages: u64, bitmap: u64) -> Result<()> {
        // SAFETY: there are no more pages than bits.
        unsafe {
            self.ranges()
                .kvm_clear_dirty_range(0, WINDOW + page * PAGE, pages * PAGE, &[bitmap])
        }
    }

    /// Puts the start of the guest's data segment at a page of the window.
    pub fn aim(&mut self, page: u64) {
        self.machine
            .change_sregs(|sregs| sregs.ds.base = WINDOW + page * PAGE);
    }

    /// Lets the guest write to a page, and finds the page of the host that has changed.
    pub fn write(&mut self, page: u64) -> Wrote {
        for page in 0..PAGES {
            self.memory.write((page * PAGE) as usize, &[0]).unwrap();
        }
        self.machine.start_at(ENTRY);
        self.machine.change_regs(|regs| regs.rax = 0x5a);
        self.aim(page);
        let reason = self.machine.try_run().unwrap();
        let written: Vec<_> = (0..PAGES).filter(|&page| self.byte(page) != 0).collect();
        if let Reason::Mmio { .. } = reason {
            assert_eq!(written, []);
            self.machine.run_to_hlt();
            return Wrote::Nowhere;
        }
        assert!(matches!(reason, Reason::Hlt), "{reason:?}");
        assert_eq!(written.len(), 1, "{written:?}");
        Wrote::To(written[0])
    }

    /// Writes to a page of the host's memory.
    pub fn fill(&mut self, page: u64, byte: u8) {
        self.memory.write((page * PAGE) as usize, &[byte]).unwrap();
    }

    fn byte(&self, page: u64) -> u8 {
        let mut byte = [0];
        self.memory.read((page * PAGE) as usize, &mut byte).unwrap();
        byte[0]
    }
}
