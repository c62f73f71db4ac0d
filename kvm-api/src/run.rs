//! The memory that a vCPU shares with user space, and the exits that it describes.

use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use kvm_sys::exit::*;
use kvm_sys::{kvm_regs, kvm_run, kvm_run_mmio, kvm_sregs};

use crate::{Errno, GuestMemory, Result};

/// The memory that a vCPU shares with user space: `struct kvm_run`, and behind it the
/// data of port I/O. Unmapped on drop.
///
/// KVM reads the settings when [`kvm_run`](crate::Kvm::kvm_run) begins, and writes the
/// rest when it ends. A program may run a vCPU with the mapping of another: each access
/// copies, within bounds.
#[derive(Debug)]
pub struct RunMapping(GuestMemory);

/// Copies a field of `struct kvm_run` out of a [`RunMapping`].
macro_rules! load {
    ($run:expr, $($field:tt)+) => {
        // SAFETY: the mapping is as long as the structure and aligned to a page. Each
        // field is an integer, so every bit pattern is a value of it.
        unsafe { (&raw const (*$run.as_ptr()).$($field)+).read_volatile() }
    };
}

/// Copies a value into a field of `struct kvm_run` in a [`RunMapping`].
macro_rules! store {
    ($run:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: the mapping is as long as the structure and aligned to a page.
        unsafe { (&raw mut (*$run.as_ptr()).$($field)+).write_volatile($value) }
    };
}

impl RunMapping {
    /// Maps the memory of `vcpu`. `size` is the result of
    /// [`kvm_get_vcpu_mmap_size`](crate::Kvm::kvm_get_vcpu_mmap_size).
    ///
    /// # Errors
    ///
    /// Those of mmap(2), and `EINVAL` for a size less than the size of `struct kvm_run`.
    pub fn new(vcpu: BorrowedFd<'_>, size: usize) -> Result<Self> {
        if size < size_of::<kvm_run>() {
            return Err(Errno::EINVAL);
        }
        GuestMemory::of_file(vcpu, 0, size).map(Self)
    }

    /// Takes over a mapping that a call of KVM has made.
    pub(crate) fn of(mapping: GuestMemory) -> Self {
        assert!(mapping.len() >= size_of::<kvm_run>());
        Self(mapping)
    }

    fn as_ptr(&self) -> *mut kvm_run {
        self.0.as_ptr().cast()
    }

    /// The last exit. [`kvm_run`](crate::Kvm::kvm_run) returns it after a run. Here it
    /// can be read after an error, too.
    #[inline]
    pub fn exit(&mut self) -> Exit<'_> {
        Exit { run: self }
    }

    /// Whether the next runs complete the last exit and return `EINTR`, without entering
    /// the guest.
    #[inline]
    pub fn set_immediate_exit(&mut self, exit: bool) {
        store!(self, exit.into(), immediate_exit);
    }

    /// Whether to exit as soon as the guest can take an interrupt.
    #[inline]
    pub fn set_request_interrupt_window(&mut self, request: bool) {
        store!(self, request.into(), request_interrupt_window);
    }

    /// Whether the guest can take an interrupt now.
    pub fn ready_for_interrupt_injection(&self) -> bool {
        load!(self, ready_for_interrupt_injection) != 0
    }

    /// The guest's interrupt flag.
    pub fn if_flag(&self) -> bool {
        load!(self, if_flag) != 0
    }

    /// The guest's task priority. Not used with an interrupt controller in the
    /// kernel.
    pub fn cr8(&self) -> u64 {
        load!(self, cr8)
    }

    /// The guest's APIC base register. Not used with an interrupt controller
    /// in the kernel.
    pub fn apic_base(&self) -> u64 {
        load!(self, apic_base)
    }

    /// Sets the registers that KVM stores here on each exit: the KVM_SYNC_X86_ bits that
    /// KVM_CAP_SYNC_REGS lists.
    pub fn set_valid_regs(&mut self, set: u64) {
        store!(self, set, kvm_valid_regs);
    }

    /// Sets the registers that KVM loads from here when the next run begins: KVM_SYNC_X86_
    /// bits, which that run clears.
    pub fn set_dirty_regs(&mut self, set: u64) {
        store!(self, set, kvm_dirty_regs);
    }

    /// The general registers, as stored for KVM_SYNC_X86_REGS.
    pub fn regs(&self) -> kvm_regs {
        load!(self, s.regs.regs)
    }

    /// Sets the general registers that KVM_SYNC_X86_REGS loads.
    pub fn set_regs(&mut self, regs: &kvm_regs) {
        store!(self, *regs, s.regs.regs);
    }

    /// The special registers, as stored for KVM_SYNC_X86_SREGS.
    pub fn sregs(&self) -> kvm_sregs {
        load!(self, s.regs.sregs)
    }

    /// Sets the special registers that KVM_SYNC_X86_SREGS loads.
    pub fn set_sregs(&mut self, sregs: &kvm_sregs) {
        store!(self, *sregs, s.regs.sregs);
    }
}

/// An exit of a guest to user space.
///
/// It borrows the run mapping, so no run can change the exit. Each method reads the
/// mapping when it is called.
#[derive(Debug)]
pub struct Exit<'r> {
    run: &'r mut RunMapping,
}

/// The reason of an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The guest reads or writes a port, `count` times `size` bytes.
    Io {
        /// Whether the guest reads or writes.
        direction: Direction,
        /// The port's number.
        port: u16,
        /// The bytes of one access: 1, 2 or 4.
        size: u8,
        /// The number of accesses: 1, or more for a string instruction.
        count: u32,
    },
    /// The guest reads or writes an address without memory.
    Mmio {
        /// The guest physical address.
        phys_addr: u64,
        /// The number of bytes, at most 8.
        len: u32,
        /// Whether it writes.
        is_write: bool,
    },
    /// The guest halts.
    Hlt,
    /// A breakpoint or a single step of
    /// [`kvm_debug_guest`](crate::Kvm::kvm_debug_guest).
    Debug {
        /// The exception's vector: 1 or 3.
        exception: u32,
        /// The linear address of the instruction.
        pc: u64,
        /// The debug status register.
        dr6: u64,
        /// The debug control register.
        dr7: u64,
    },
    /// The guest can take an interrupt, as requested.
    IrqWindowOpen,
    /// The guest has shut itself down, by a triple fault.
    Shutdown,
    /// The processor refuses the guest's state.
    FailEntry {
        /// The processor's own reason.
        hardware_entry_failure_reason: u64,
    },
    /// A signal is pending.
    Intr,
    /// KVM cannot continue this guest.
    InternalError {
        /// The KVM_INTERNAL_ERROR_ number.
        suberror: u32,
    },
    /// Another reason, with its KVM_EXIT_ number.
    Other(u32),
}

/// The direction of port I/O, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest reads.
    In,
    /// The guest writes.
    Out,
}

impl Exit<'_> {
    /// The KVM_EXIT_ number.
    #[inline]
    pub fn exit_reason(&self) -> u32 {
        load!(self.run, exit_reason)
    }

    /// The exit in full.
    #[inline]
    pub fn reason(&self) -> Reason {
        match self.exit_reason() {
            KVM_EXIT_IO => {
                let io = load!(self.run, __bindgen_anon_1.io);
                Reason::Io {
                    direction: match u32::from(io.direction) {
                        KVM_EXIT_IO_IN => Direction::In,
                        _ => Direction::Out,
                    },
                    port: io.port,
                    size: io.size,
                    count: io.count,
                }
            }
            KVM_EXIT_MMIO => {
                let mmio = load!(self.run, __bindgen_anon_1.mmio);
                Reason::Mmio {
                    phys_addr: mmio.phys_addr,
                    len: mmio.len,
                    is_write: mmio.is_write != 0,
                }
            }
            KVM_EXIT_HLT => Reason::Hlt,
            KVM_EXIT_DEBUG => {
                let debug = load!(self.run, __bindgen_anon_1.debug.arch);
                Reason::Debug {
                    exception: debug.exception,
                    pc: debug.pc,
                    dr6: debug.dr6,
                    dr7: debug.dr7,
                }
            }
            KVM_EXIT_IRQ_WINDOW_OPEN => Reason::IrqWindowOpen,
            KVM_EXIT_SHUTDOWN => Reason::Shutdown,
            KVM_EXIT_FAIL_ENTRY => Reason::FailEntry {
                hardware_entry_failure_reason: load!(
                    self.run,
                    __bindgen_anon_1.fail_entry.hardware_entry_failure_reason
                ),
            },
            KVM_EXIT_INTR => Reason::Intr,
            KVM_EXIT_INTERNAL_ERROR => Reason::InternalError {
                suberror: load!(self.run, __bindgen_anon_1.internal.suberror),
            },
            other => Reason::Other(other),
        }
    }

    /// Copies the bytes that the guest writes, by [`Reason::Io`] or [`Reason::Mmio`], as
    /// far as `data` has room. Returns the number of bytes, which is 0 for other exits.
    #[inline]
    pub fn read_data(&self, data: &mut [u8]) -> usize {
        let range = self.data();
        let len = range.len().min(data.len());
        match self.run.0.read(range.start, &mut data[..len]) {
            Ok(()) => len,
            Err(_) => 0,
        }
    }

    /// Copies `data` into place for a guest that reads, by [`Reason::Io`] or
    /// [`Reason::Mmio`], as far as the guest reads. Returns the number of bytes, which is
    /// 0 for other exits. The guest gets them in the next run.
    #[inline]
    pub fn write_data(&mut self, data: &[u8]) -> usize {
        let range = self.data();
        let len = range.len().min(data.len());
        match self.run.0.write(range.start, &data[..len]) {
            Ok(()) => len,
            Err(_) => 0,
        }
    }

    /// The place of the data of this exit in the mapping. The range may be wrong, because
    /// the mapping gives it: the copy checks it.
    fn data(&self) -> Range<usize> {
        match self.exit_reason() {
            KVM_EXIT_IO => {
                let io = load!(self.run, __bindgen_anon_1.io);
                let start = io.data_offset as usize;
                start..start.saturating_add(usize::from(io.size) * io.count as usize)
            }
            KVM_EXIT_MMIO => {
                let start = offset_of!(kvm_run, __bindgen_anon_1) + offset_of!(kvm_run_mmio, data);
                let mmio = load!(self.run, __bindgen_anon_1.mmio);
                start..start + mmio.data.len().min(mmio.len as usize)
            }
            _ => 0..0,
        }
    }
}
