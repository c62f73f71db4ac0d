//! What changes the file of a descriptor, if the program calls a function for that.
//!
//! A vCPU is unbound before a descriptor by which it is bound changes, for two reasons:
//!
//! - A binding keeps the VM alive, which the program may be closing.
//! - Without a descriptor, the next request would reach the vCPU that the descriptor no
//!   longer refers to.
//!
//! If another thread than the one that has bound the vCPU changes the descriptor, it does
//! not wait: the program may close a vCPU that runs. It takes the record from the
//! descriptor, so that each request that begins after the change goes by the descriptor, and
//! asks for the vCPU.
//!
//! The library sees the functions of [`interpose`](crate): not an instruction of the
//! program's own, nor another process with the same descriptors.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use libc::c_int;

use super::record::{self, DESCRIPTORS, Hold, Record};
use super::{ask, is_on};
use crate::bindings::Event;

/// Descriptors change until [`done`](Self::done) is called. The thread may end before; then
/// no thread binds a vCPU any more, which the program does not see.
#[derive(Debug)]
pub struct Change {
    holds: bool,
}

impl Change {
    /// Descriptors, the last one included, are about to change.
    #[must_use]
    pub fn of(first: u32, last: u32) -> Self {
        if !is_on() {
            return Self::none();
        }
        std::mem::forget(Hold::begin());
        let end = (last as usize).saturating_add(1).min(DESCRIPTORS);
        for fd in first as usize..end {
            if let Some(record) = record::take(fd as c_int) {
                unbind(record);
            }
        }
        Self { holds: true }
    }

    /// No descriptor changes.
    #[must_use]
    pub fn none() -> Self {
        Self { holds: false }
    }

    /// The descriptors have changed.
    pub fn done(self) {
        if self.holds {
            Hold::end();
        }
    }
}

fn unbind(record: &'static Record) {
    let mine = record::mine().is_some_and(|mine| std::ptr::eq(mine, record));
    if !mine {
        ask::ask(record, Duration::ZERO);
    } else if record.is_own() {
        record.unbind(Event::Changed);
    }
    // Else this is a child of `vfork`, whose descriptors are its own.
}

/// A child is about to be made that has the thread wait until it ends or executes another
/// program. The thread could not unbind its vCPU then.
pub extern "C" fn before_vfork() {
    if is_on()
        && let Some(mine) = record::mine()
        && mine.bound.load(SeqCst)
    {
        mine.unbind(Event::Changed);
    }
}
