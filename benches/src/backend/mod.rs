//! The cases through the traits of `kvm_api`: the same code for every form.

mod calls;
mod debugger;
pub mod form;
mod make;
mod memory;
mod other_thread;
mod registers;
mod run;
mod snapshot;

use anyhow::Result;
use kvm_api::State;
use kvm_api::ioctl::Ioctl;
use kvm_api::syscall::Syscall;

pub use self::calls::{PLACE, SLOT, msrs, supported_cpuid};
pub use self::form::{Bound, Files, Merged, StaticForm};
use self::memory::{ByNumber, ByRange};
pub use self::memory::{BySlot, PAGE, PAGES, Slots, Window, workload as on_memory};
pub use self::other_thread::Kick;
use self::other_thread::{OtherThread, Request};
use self::registers::{SyncRegs, SyncedReadWritten};
pub use self::run::runs;
use crate::cases::Case;
use crate::workload::Workload;

/// Prepares `case` in the way of a form, with a call for each part of a vcpu's state;
/// `None` where the form has no such case.
///
/// # Errors
///
/// When the kernel refuses something that the case begins with.
pub fn prepare<B: StaticForm + 'static>(
    form: &B,
    kick: Kick,
    case: Case,
) -> Result<Option<Box<dyn Workload + '_>>> {
    Ok(Some(match case {
        Case::NullSyscall => return Ok(None),
        Case::Call(call) => return calls::prepare(form, call),
        Case::Run(exit, mode) => Box::new(run::Run::new(form, exit, mode)?),
        Case::ImmediateExit => Box::new(run::ImmediateExit::new(form)?),
        Case::EmulationLoop(exit, mode) => {
            Box::new(registers::EmulationLoop::new(form, exit, mode)?)
        }
        Case::Registers => Box::new(registers::ReadWritten::new(form)?),
        Case::Snapshot => Box::new(snapshot::SaveRestore::new(form)?),
        Case::Step => Box::new(debugger::Step::new(form)?),
        Case::Memory(work) => on_memory(Window::new(form)?, BySlot(ByNumber), work),
        Case::Kick => Box::new(OtherThread::new::<B>(kick, Request::Stop)?),
        Case::Interrupt => Box::new(OtherThread::new::<B>(kick, Request::Interrupt)?),
    }))
}

/// Prepares `case` in the way of a form whose merged calls move several parts of a
/// vcpu's state.
///
/// # Errors
///
/// As [`prepare`].
pub fn prepare_merged<B: StaticForm + 'static>(
    form: &B,
    kick: Kick,
    case: Case,
) -> Result<Option<Box<dyn Workload + '_>>>
where
    for<'k> B::Vcpu<'k>: State,
{
    Ok(Some(match case {
        Case::Registers => Box::new(registers::MergedReadWritten::new(form)?),
        Case::Snapshot => Box::new(snapshot::MergedSaveRestore::new(form)?),
        case => return prepare(form, kick, case),
    }))
}

/// Prepares `case` by ranges of addresses; `None` where it is not about memory.
///
/// # Errors
///
/// As [`prepare`].
pub fn prepare_ranges(flat: &Syscall, case: Case) -> Result<Option<Box<dyn Workload + '_>>> {
    Ok(match case {
        Case::Memory(work) => Some(on_memory(Window::new(flat)?, ByRange, work)),
        _ => None,
    })
}

/// Prepares `case` by `KVM_CAP_SYNC_REGS`; `None` where no registers pass.
///
/// # Errors
///
/// As [`prepare`].
pub fn prepare_synced(kvm: &Ioctl, case: Case) -> Result<Option<Box<dyn Workload + '_>>> {
    Ok(Some(match case {
        Case::EmulationLoop(exit, mode) => Box::new(SyncRegs::new(kvm, exit, mode)?),
        Case::Registers => Box::new(SyncedReadWritten::new(kvm)?),
        _ => return Ok(None),
    }))
}
