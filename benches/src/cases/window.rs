//! Work on a window of guest memory: memory shown and hidden, a page replaced, the dirty
//! log.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use anyhow::{Result, ensure};
use kvm_api::ioctl::Ioctl;
use kvm_api::ranges::{RangeMemory, range};
use kvm_api::syscall::Syscall;
use kvm_api::{GuestMemory, Kvm, Vcpu};
use kvm_bindings::{
    KVM_EXIT_HLT, KVM_EXIT_MMIO, KVM_MEM_LOG_DIRTY_PAGES, kvm_regs, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;

use crate::case::Case;
use crate::fixture::Fixture;
use crate::form::StaticForm;
use crate::guest::{self, Mode};
use crate::interface::ways;
use crate::peer::KvmIoctls;
use crate::workload::{Prepared, Steps};

/// The ways of the interfaces to do some work on a window.
macro_rules! window_ways {
    ($work:ident) => {
        ways![
            |form, _| $work(Window::new(form)?, BySlot(Numbered)) => Ioctl, Syscall, Process;
            |form, _| $work(Window::new(form)?, ByRange) => Ranges;
            |kvm: &KvmIoctls, _| {
                let window = Window::new(&kvm.setup)?;
                let vm = kvm.vm(&window.fixture)?;
                $work(window, BySlot(vm))
            } => KvmIoctls;
        ]
    };
}

/// The work on a window.
pub const WORK: &[Case] = &[
    Case {
        own_work: Some("waits for readers of the slots"),
        ..Case::new(
            "memory_mapped",
            "memory mapped into the guest and unmapped",
            window_ways!(mapped),
        )
    },
    // How often this waits for readers depends on the interface.
    Case::new(
        "page_replaced",
        "one page replaced and put back",
        window_ways!(page_replaced),
    ),
    // How often this waits for readers depends on the interface.
    Case::new(
        "dirty_log_switched",
        "the dirty log of 16 slots begun and ended",
        window_ways!(dirty_log_switched),
    ),
    Case {
        own_work: Some("copies the bitmap, protects what was written"),
        ..Case::new(
            "dirty_pages_fetched",
            "the dirty log of 16 pages, one written",
            window_ways!(dirty_pages_fetched),
        )
    },
];

fn mapped<'b, B: StaticForm>(window: Window<'b, B>, how: impl Show<B> + 'b) -> Prepared<'b> {
    let steps = Steps::new((how, window), |(how, window)| {
        how.show(window, 0);
        how.hide(window);
    });
    steps.check(|(how, window), _| {
        window.check("hidden", None)?;
        how.show(window, 0);
        window.check("shown", Some(MIDDLE))?;
        how.hide(window);
        window.check("hidden again", None)
    })
}

fn page_replaced<'b, B: StaticForm>(window: Window<'b, B>, how: impl Show<B> + 'b) -> Prepared<'b> {
    how.show(&window, 0);
    let steps = Steps::new((how, window), |(how, window)| {
        how.replace(window);
        how.restore(window);
    });
    steps.check(|(how, window), _| {
        window.check("put back", Some(MIDDLE))?;
        how.replace(window);
        window.check("replaced", Some(OTHER))?;
        how.restore(window);
        window.check("put back again", Some(MIDDLE))
    })
}

fn dirty_log_switched<'b, B: StaticForm>(
    window: Window<'b, B>,
    how: impl Show<B> + 'b,
) -> Prepared<'b> {
    how.show_pieces(&window);
    let steps = Steps::new((how, window), |(how, window)| {
        how.protect_pieces(window, KVM_MEM_LOG_DIRTY_PAGES);
        how.protect_pieces(window, 0);
    });
    steps.check(|(how, window), _| {
        how.protect_pieces(window, KVM_MEM_LOG_DIRTY_PAGES);
        window.check("with a log", Some(host_of_piece(MIDDLE)))?;
        ensure!(how.piece_is_written(window), "the log has no write");
        how.protect_pieces(window, 0);
        window.check("without a log", Some(host_of_piece(MIDDLE)))
    })
}

fn dirty_pages_fetched<'b, B: StaticForm>(
    window: Window<'b, B>,
    how: impl Show<B> + 'b,
) -> Prepared<'b> {
    how.show(&window, KVM_MEM_LOG_DIRTY_PAGES);
    let steps = Steps::new((how, window, 0), |(how, window, written)| {
        *written = how.written(window);
    });
    let steps = steps
        .before(|(_, window, _)| assert!(window.run() == KVM_EXIT_HLT))
        .after(|(_, _, written)| assert!(*written == 1 << MIDDLE, "{written:#x}"));
    steps.check(|(how, window, _), _| {
        let left = how.written(window);
        ensure!(left == 0, "{left:#x} is still marked as written");
        Ok(())
    })
}

/// The size of a page, in bytes.
const PAGE: u64 = 0x1000;
/// The number of pages of the window.
const PAGES: u64 = 16;
/// The page of the window that the guest writes to, and that is replaced.
const MIDDLE: u64 = PAGES / 2;
/// The page of the host that replaces it.
const OTHER: u64 = PAGES;

/// The page of the host that a page of the window shows if each is a piece of its own: no two
/// of them continue each other.
const fn host_of_piece(page: u64) -> u64 {
    PAGES - 1 - page
}

/// A guest that writes to the middle of a window without memory, and host memory to show
/// there. Pages are counted from the start of the window and of the host memory.
struct Window<'b, B: StaticForm> {
    fixture: Fixture<'b, B>,
    // Dropped after the VM, which uses it.
    memory: GuestMemory,
}

impl<'b, B: StaticForm> Window<'b, B> {
    /// Makes the guest, with an empty window.
    fn new(form: &'b B) -> Result<Self> {
        let fixture = Fixture::with_code(form, guest::WRITE)?;
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

    /// Returns the guest physical address of a page.
    fn guest(&self, page: u64) -> u64 {
        guest::MMIO + page * PAGE
    }

    /// Returns the address of a page of the host memory.
    fn host(&self, page: u64) -> u64 {
        self.memory.as_ptr().expose_provenance() as u64 + page * PAGE
    }

    /// Lets the guest write once, and returns the reason of the exit.
    fn run(&mut self) -> u32 {
        let f = &mut self.fixture;
        let exit = f.vcpu.kvm_run(&mut f.run).unwrap();
        exit.exit_reason()
    }

    /// Lets the guest write once, and returns the page of the host that has changed.
    fn wrote_to(&mut self) -> Result<Option<u64>> {
        for page in 0..=OTHER {
            self.memory.write((page * PAGE) as usize, &[0])?;
        }
        let exit = self.run();
        if exit == KVM_EXIT_MMIO {
            ensure!(self.run() == KVM_EXIT_HLT, "the guest does not continue");
            return Ok(None);
        }
        ensure!(exit == KVM_EXIT_HLT, "the guest exits with reason {exit}");
        for page in 0..=OTHER {
            let mut byte = [0];
            self.memory.read((page * PAGE) as usize, &mut byte)?;
            if byte != [0] {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    fn check(&mut self, state: &str, expected: Option<u64>) -> Result<()> {
        let page = self.wrote_to()?;
        ensure!(page == expected, "{state}: the guest writes to {page:?}");
        Ok(())
    }
}

/// The way in which an interface shows host memory to a guest.
trait Show<B: StaticForm> {
    /// Shows the whole window, with these flags.
    fn show(&self, window: &Window<'_, B>, flags: u32);
    /// Hides the window.
    fn hide(&self, window: &Window<'_, B>);
    /// Shows [`OTHER`] in the place of [`MIDDLE`].
    fn replace(&self, window: &Window<'_, B>);
    /// Shows [`MIDDLE`] again.
    fn restore(&self, window: &Window<'_, B>);
    /// Returns the pages written since the last call, with a bit for each.
    fn written(&self, window: &Window<'_, B>) -> u64;
    /// Shows each page as a piece of its own.
    fn show_pieces(&self, window: &Window<'_, B>);
    /// Sets the flags of all pieces.
    fn protect_pieces(&self, window: &Window<'_, B>, flags: u32);
    /// Whether the log of the piece [`MIDDLE`], and no other, has a write.
    fn piece_is_written(&self, window: &Window<'_, B>) -> bool;
}

/// By ranges of addresses.
struct ByRange;

impl ByRange {
    #[inline(always)]
    fn memory<'w>(&self, window: &'w Window<'_, Syscall>) -> RangeMemory<BorrowedFd<'w>> {
        RangeMemory::new(*window.fixture.form, window.fixture.vm())
    }

    #[inline(always)]
    fn map(&self, window: &Window<'_, Syscall>, pages: Range<u64>, host: u64, flags: u32) {
        let (start, size) = (window.guest(pages.start), (pages.end - pages.start) * PAGE);
        // SAFETY: the window owns the memory, and drops it after the VM.
        unsafe {
            self.memory(window)
                .kvm_map_range(&range(start, size, window.host(host), flags))
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
            .kvm_unmap_range(0, window.guest(0), PAGES * PAGE)
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
            self.memory(window).kvm_get_dirty_range(
                0,
                window.guest(0),
                PAGES * PAGE,
                &mut bitmap,
                0,
            )
        }
        .unwrap();
        bitmap[0]
    }

    fn show_pieces(&self, window: &Window<'_, Syscall>) {
        for page in 0..PAGES {
            self.map(window, page..page + 1, host_of_piece(page), 0);
        }
    }

    #[inline(always)]
    fn protect_pieces(&self, window: &Window<'_, Syscall>, flags: u32) {
        // SAFETY: the guest may write to the memory anyway.
        unsafe {
            self.memory(window)
                .kvm_protect_range(0, window.guest(0), PAGES * PAGE, flags)
        }
        .unwrap();
    }

    fn piece_is_written(&self, window: &Window<'_, Syscall>) -> bool {
        self.written(window) == 1 << MIDDLE
    }
}

/// An interface that numbers memory slots.
trait Slots<B: StaticForm> {
    /// Shows pages, from page `host` of the host memory on, in a slot. Deletes the slot if
    /// there are no pages.
    fn set(&self, window: &Window<'_, B>, slot: u32, pages: Range<u64>, host: u64, flags: u32);
    /// Returns the pages of a slot written since the last call.
    fn written(&self, window: &Window<'_, B>, slot: u32) -> u64;
}

/// The slots of a form.
struct Numbered;

impl<B: StaticForm> Slots<B> for Numbered {
    #[inline(always)]
    fn set(&self, window: &Window<'_, B>, slot: u32, pages: Range<u64>, host: u64, flags: u32) {
        let f = &window.fixture;
        let (start, size) = (window.guest(pages.start), (pages.end - pages.start) * PAGE);
        // SAFETY: the window owns the memory, and drops it after the VM.
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

/// The slots of `kvm-ioctls`.
impl Slots<Ioctl> for VmFd {
    #[inline(always)]
    fn set(&self, window: &Window<'_, Ioctl>, slot: u32, pages: Range<u64>, host: u64, flags: u32) {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: window.guest(pages.start),
            memory_size: (pages.end - pages.start) * PAGE,
            userspace_addr: window.host(host),
        };
        // SAFETY: the window owns the memory, and is dropped last.
        unsafe { self.set_user_memory_region(region) }.unwrap();
    }

    fn written(&self, _window: &Window<'_, Ioctl>, slot: u32) -> u64 {
        self.get_dirty_log(slot, (PAGES * PAGE) as usize).unwrap()[0]
    }
}

/// By slots. The whole window is one slot. A slot cannot be split, so it is deleted, and
/// three slots replace it.
struct BySlot<S>(S);

/// The slot of the window, or of its part before [`MIDDLE`].
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

    fn show_pieces(&self, window: &Window<'_, B>) {
        self.protect_pieces(window, 0);
    }

    #[inline(always)]
    fn protect_pieces(&self, window: &Window<'_, B>, flags: u32) {
        for page in 0..PAGES {
            let (slot, pages) = (WHOLE + page as u32, page..page + 1);
            self.0.set(window, slot, pages, host_of_piece(page), flags);
        }
    }

    fn piece_is_written(&self, window: &Window<'_, B>) -> bool {
        (0..PAGES).all(|page| {
            let written = self.0.written(window, WHOLE + page as u32);
            written == u64::from(page == MIDDLE)
        })
    }
}
