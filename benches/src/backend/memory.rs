//! Work on a guest's memory: what it is shown of the host's, and what was written
//! there.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use anyhow::{Result, ensure};
use kvm_api::ranges::RangeMemory;
use kvm_api::syscall::Syscall;
use kvm_api::{GuestMemory, Kvm, Vcpu};
use kvm_bindings::{KVM_EXIT_HLT, KVM_EXIT_MMIO, KVM_MEM_LOG_DIRTY_PAGES, kvm_regs};

use super::form::StaticForm;
use crate::cases::Memory;
use crate::fixture::Fixture;
use crate::guest::{self, Mode};
use crate::workload::Workload;

/// A page's size in bytes.
pub const PAGE: u64 = 0x1000;
/// How many pages the window has.
pub const PAGES: u64 = 16;
/// The page of it that the guest writes to, and that is replaced.
const MIDDLE: u64 = PAGES / 2;
/// The page of the host's that replaces it.
const OTHER: u64 = PAGES;

/// A guest that writes to the middle of a window, where there is no memory yet, and
/// memory of the host's to show it there. Pages are counted from the beginning of
/// the window and of the host's memory.
pub struct Window<'b, B: StaticForm> {
    pub fixture: Fixture<'b, B>,
    // After the VM, which uses it.
    memory: GuestMemory,
}

impl<'b, B: StaticForm> Window<'b, B> {
    /// Makes the guest, which sees nothing of the memory.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something that this takes.
    pub fn new(form: &'b B) -> Result<Self> {
        let fixture = Fixture::with_code(form, guest::WRITE, Mode::Real)?;
        let regs = kvm_regs {
            rax: 0x5a,
            rbx: MIDDLE * PAGE,
            ..Mode::Real.regs()
        };
        fixture.vcpu.kvm_set_regs(&regs)?;
        Ok(Self {
            fixture,
            memory: GuestMemory::anonymous(((PAGES + 1) * PAGE) as usize)?,
        })
    }

    /// Has the guest write once. Gives the exit.
    fn run(&mut self) -> u32 {
        let f = &mut self.fixture;
        let exit = f.vcpu.kvm_run(&mut f.run).unwrap();
        exit.exit_reason()
    }

    /// Has the guest write once, and looks to which page of the host's that goes.
    fn wrote_to(&mut self) -> Result<Option<u64>> {
        for page in 0..=OTHER {
            self.memory.write((page * PAGE) as usize, &[0])?;
        }
        let exit = self.run();
        if exit == KVM_EXIT_MMIO {
            ensure!(self.run() == KVM_EXIT_HLT, "the guest does not go on");
            return Ok(None);
        }
        ensure!(exit == KVM_EXIT_HLT, "the guest exits by {exit}");
        for page in 0..=OTHER {
            let mut byte = [0];
            self.memory.read((page * PAGE) as usize, &mut byte)?;
            if byte != [0] {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    fn check(&mut self, what: &str, expected: Option<u64>) -> Result<()> {
        let page = self.wrote_to()?;
        ensure!(page == expected, "{what}: the guest writes to {page:?}");
        Ok(())
    }
}

impl<B: StaticForm> Window<'_, B> {
    /// The guest physical address of a page.
    pub fn guest(&self, page: u64) -> u64 {
        guest::MMIO + page * PAGE
    }

    /// The address of a page of the host's memory.
    pub fn host(&self, page: u64) -> u64 {
        self.memory.as_ptr().expose_provenance() as u64 + page * PAGE
    }
}

/// How an interface shows a guest memory of the host's.
pub trait Show<B: StaticForm> {
    /// Shows the whole window, with these flags.
    fn show(&self, window: &Window<'_, B>, flags: u32);
    /// Takes it away.
    fn hide(&self, window: &Window<'_, B>);
    /// Shows [`OTHER`] in the place of [`MIDDLE`].
    fn replace(&self, window: &Window<'_, B>);
    /// Takes that back.
    fn restore(&self, window: &Window<'_, B>);
    /// Which pages were written since this was asked last, a bit for each.
    fn written(&self, window: &Window<'_, B>) -> u64;
}

/// By ranges of addresses.
pub struct ByRange;

impl ByRange {
    #[inline(always)]
    fn memory<'w>(&self, window: &'w Window<'_, Syscall>) -> RangeMemory<BorrowedFd<'w>> {
        RangeMemory::new(*window.fixture.form, window.fixture.vm())
    }

    #[inline(always)]
    fn map(&self, window: &Window<'_, Syscall>, pages: Range<u64>, host: u64, flags: u32) {
        let (start, size) = (window.guest(pages.start), (pages.end - pages.start) * PAGE);
        // SAFETY: the window has the memory and the VM, which goes first.
        unsafe {
            self.memory(window)
                .kvm_map_range(start, size, window.host(host), flags)
        }
        .unwrap();
    }
}

impl Show<Syscall> for ByRange {
    fn show(&self, window: &Window<'_, Syscall>, flags: u32) {
        self.map(window, 0..PAGES, 0, flags);
    }

    fn hide(&self, window: &Window<'_, Syscall>) {
        self.memory(window)
            .kvm_unmap_range(window.guest(0), PAGES * PAGE)
            .unwrap();
    }

    fn replace(&self, window: &Window<'_, Syscall>) {
        self.map(window, MIDDLE..MIDDLE + 1, OTHER, 0);
    }

    fn restore(&self, window: &Window<'_, Syscall>) {
        self.map(window, MIDDLE..MIDDLE + 1, MIDDLE, 0);
    }

    fn written(&self, window: &Window<'_, Syscall>) -> u64 {
        let mut bitmap = [0];
        // SAFETY: the bitmap has a bit for each page of the window.
        unsafe {
            self.memory(window)
                .kvm_get_dirty_range(window.guest(0), PAGES * PAGE, &mut bitmap)
        }
        .unwrap();
        bitmap[0]
    }
}

/// An interface that names memory by slots.
pub trait Slots<B: StaticForm> {
    /// Has a slot show these pages, the first of which is that of the host's memory;
    /// deletes the slot if there are none.
    fn set(&self, window: &Window<'_, B>, slot: u32, pages: Range<u64>, host: u64, flags: u32);
    /// Which of a slot's pages were written since this was asked last.
    fn written(&self, window: &Window<'_, B>, slot: u32) -> u64;
}

/// The slots of a backend.
pub struct ByNumber;

impl<B: StaticForm> Slots<B> for ByNumber {
    #[inline(always)]
    fn set(&self, window: &Window<'_, B>, slot: u32, pages: Range<u64>, host: u64, flags: u32) {
        let f = &window.fixture;
        let (start, size) = (window.guest(pages.start), (pages.end - pages.start) * PAGE);
        // SAFETY: the window has the memory and the VM, which goes first.
        unsafe {
            f.kvm()
                .kvm_set_user_memory_region(f.vm(), slot, flags, start, size, window.host(host))
        }
        .unwrap();
    }

    fn written(&self, window: &Window<'_, B>, slot: u32) -> u64 {
        let f = &window.fixture;
        let mut bitmap = [0];
        // SAFETY: no slot has more pages than the bitmap has bits.
        unsafe { f.kvm().kvm_get_dirty_log(f.vm(), slot, &mut bitmap) }.unwrap();
        bitmap[0]
    }
}

/// By slots. What is shown whole is one slot, which cannot be cut: it is deleted, and
/// three take its place.
pub struct BySlot<S>(pub S);

/// The slot of the window, or of what is left of it before [`MIDDLE`].
const WHOLE: u32 = 1;
const INSERTED: u32 = 2;
const REST: u32 = 3;

impl<S> BySlot<S> {
    #[inline(always)]
    fn delete<B: StaticForm>(&self, window: &Window<'_, B>, slot: u32)
    where
        S: Slots<B>,
    {
        self.0.set(window, slot, 0..0, 0, 0);
    }
}

impl<B: StaticForm, S: Slots<B>> Show<B> for BySlot<S> {
    fn show(&self, window: &Window<'_, B>, flags: u32) {
        self.0.set(window, WHOLE, 0..PAGES, 0, flags);
    }

    fn hide(&self, window: &Window<'_, B>) {
        self.delete(window, WHOLE);
    }

    fn replace(&self, window: &Window<'_, B>) {
        self.delete(window, WHOLE);
        self.0.set(window, WHOLE, 0..MIDDLE, 0, 0);
        self.0.set(window, INSERTED, MIDDLE..MIDDLE + 1, OTHER, 0);
        self.0.set(window, REST, MIDDLE + 1..PAGES, MIDDLE + 1, 0);
    }

    fn restore(&self, window: &Window<'_, B>) {
        for slot in [WHOLE, INSERTED, REST] {
            self.delete(window, slot);
        }
        self.show(window, 0);
    }

    fn written(&self, window: &Window<'_, B>) -> u64 {
        self.0.written(window, WHOLE)
    }
}

/// Prepares that work, done in that way.
pub fn workload<'b, B: StaticForm, S: Show<B> + 'b>(
    window: Window<'b, B>,
    how: S,
    work: Memory,
) -> Box<dyn Workload + 'b> {
    match work {
        Memory::Mapped => Box::new(Mapped { how, window }),
        Memory::PageReplaced => {
            how.show(&window, 0);
            Box::new(PageReplaced { how, window })
        }
        Memory::DirtyFetched => {
            how.show(&window, KVM_MEM_LOG_DIRTY_PAGES);
            let written = 0;
            Box::new(DirtyFetched {
                how,
                window,
                written,
            })
        }
    }
}

/// Memory that is shown and taken away again.
struct Mapped<'b, B: StaticForm, S> {
    how: S,
    window: Window<'b, B>,
}

impl<B: StaticForm, S: Show<B>> Workload for Mapped<'_, B, S> {
    fn call(&mut self) {
        self.how.show(&self.window, 0);
        self.how.hide(&self.window);
    }

    fn check(&mut self, _calls: u64) -> Result<()> {
        self.window.check("hidden", None)?;
        self.how.show(&self.window, 0);
        self.window.check("shown", Some(MIDDLE))?;
        self.how.hide(&self.window);
        self.window.check("hidden again", None)
    }
}

/// A page in the middle that becomes another one, and then itself again.
struct PageReplaced<'b, B: StaticForm, S> {
    how: S,
    window: Window<'b, B>,
}

impl<B: StaticForm, S: Show<B>> Workload for PageReplaced<'_, B, S> {
    fn call(&mut self) {
        self.how.replace(&self.window);
        self.how.restore(&self.window);
    }

    fn check(&mut self, _calls: u64) -> Result<()> {
        self.window.check("put back", Some(MIDDLE))?;
        self.how.replace(&self.window);
        self.window.check("replaced", Some(OTHER))?;
        self.how.restore(&self.window);
        self.window.check("put back again", Some(MIDDLE))
    }
}

/// The log of the window's pages, of which the guest has written one.
struct DirtyFetched<'b, B: StaticForm, S> {
    how: S,
    window: Window<'b, B>,
    written: u64,
}

impl<B: StaticForm, S: Show<B>> Workload for DirtyFetched<'_, B, S> {
    fn apart(&self) -> bool {
        true
    }

    fn before(&mut self) {
        assert!(self.window.run() == KVM_EXIT_HLT);
    }

    fn call(&mut self) {
        self.written = self.how.written(&self.window);
    }

    fn after(&mut self) {
        assert!(self.written == 1 << MIDDLE, "{:#x}", self.written);
    }

    fn check(&mut self, _calls: u64) -> Result<()> {
        let left = self.how.written(&self.window);
        ensure!(left == 0, "{left:#x} is written still");
        Ok(())
    }
}
