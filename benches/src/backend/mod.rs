//! The cases through the trait: the same code for every backend.

mod calls;
mod debugger;
mod make;
mod memory;
mod other_thread;
mod registers;
mod run;
mod snapshot;

use std::os::fd::BorrowedFd;

use anyhow::Result;
use kvm_api::Kvm;
use kvm_api::ioctl::Ioctl;

pub use self::calls::{PLACE, SLOT, msrs, supported_cpuid};
use self::memory::{ByNumber, ByRange};
pub use self::memory::{BySlot, PAGE, PAGES, Slots, Window, subject as on_memory};
use self::other_thread::{OtherThread, Request};
use self::registers::{SyncRegs, SyncedReadWritten};
pub use self::run::runs;
use crate::cases::Case;
use crate::subject::Subject;

/// What a backend offers beside the calls of the trait's first list.
pub struct Form<B> {
    /// Opens another one, for another thread.
    pub open: fn() -> Result<B>,
    /// Whether more than one part of a vcpu's state is moved by the merged calls.
    pub merged: bool,
    /// Whether the caller's memory is named by ranges of addresses, not by slots.
    pub ranges: bool,
    /// How another thread stops a vcpu that runs.
    pub kick: Kick<B>,
}

/// How a thread stops a vcpu that another one runs.
#[derive(Clone, Copy)]
pub enum Kick<B> {
    /// By a signal, whose handler sets `immediate_exit`, as VMMs do.
    Signal,
    /// By a call on the thread's pidfd.
    Pidfd(fn(&B, BorrowedFd<'_>) -> kvm_api::Result<()>),
}

/// Prepares `case` for `kvm`; `None` where it has nothing to do with a backend.
///
/// # Errors
///
/// When the kernel refuses something that the case begins with.
pub fn subject<'b, B: Kvm + 'static>(
    kvm: &'b B,
    form: Form<B>,
    case: Case,
) -> Result<Option<Box<dyn Subject + 'b>>> {
    Ok(Some(match case {
        Case::NullSyscall => return Ok(None),
        Case::Call(call) => return calls::call(kvm, call),
        Case::Run(exit, mode) => Box::new(run::Run::new(kvm, exit, mode)?),
        Case::ImmediateExit => Box::new(run::ImmediateExit::new(kvm)?),
        Case::EmulationLoop(exit, mode) => {
            Box::new(registers::EmulationLoop::new(kvm, exit, mode)?)
        }
        Case::Registers => Box::new(registers::ReadWritten::new(kvm, form.merged)?),
        Case::Snapshot => Box::new(snapshot::SaveRestore::new(kvm, form.merged)?),
        Case::Step => Box::new(debugger::Step::new(kvm)?),
        Case::Memory(work) if form.ranges => on_memory(Window::new(kvm)?, ByRange, work),
        Case::Memory(work) => on_memory(Window::new(kvm)?, BySlot(ByNumber), work),
        Case::Kick => Box::new(OtherThread::new(form, Request::Stop)?),
        Case::Interrupt => Box::new(OtherThread::new(form, Request::Interrupt)?),
    }))
}

/// Prepares `case` by `KVM_CAP_SYNC_REGS`; `None` where no registers pass.
///
/// # Errors
///
/// As [`subject`].
pub fn synced(kvm: &Ioctl, case: Case) -> Result<Option<Box<dyn Subject + '_>>> {
    Ok(Some(match case {
        Case::EmulationLoop(exit, mode) => Box::new(SyncRegs::new(kvm, exit, mode)?),
        Case::Registers => Box::new(SyncedReadWritten::new(kvm)?),
        _ => return Ok(None),
    }))
}
