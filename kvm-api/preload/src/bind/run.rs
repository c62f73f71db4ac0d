//! `KVM_RUN` of a thread whose vCPU is bound, or is about to be.
//!
//! # Why nobody ends a run by asking for the vCPU
//!
//! A thread notes that it is in a run, and then looks whether another has asked for its
//! vCPU. The other asks, and then looks whether the thread is in a run. So the thread sees
//! the question before it enters the run, or the other sees the run, and sends no signal.
//!
//! Before each run the thread has answered what it was asked. If the other has decided on a
//! signal, the thread waits until its handler was there ([`Record::unbind`]). No signal can
//! follow, because nobody asks a thread that has bound no vCPU. So the run of another vCPU,
//! or of one that is not bound, gets none either: the thread unbinds its vCPU first.
//!
//! A handler of the program's may interrupt a run, so that the thread is in the handler
//! while its record says that it is in a run. Another thread sees that it waits, if it does:
//! see [`proc`](super::proc).

use std::sync::atomic::Ordering::{Release, SeqCst};

use kvm_sys::__NR_kvm_bound_run;
use kvm_sys::instruction::{syscall0, syscall1};
use libc::{c_int, c_ulong};

use super::is_unnamed;
use super::record::{Record, claim, of_this_thread};
use crate::bindings::Event;
use crate::counts;
use crate::make;
use crate::outcome::Outcome;
use crate::plain::returned;
use crate::route::Route;

/// Runs the vCPU of a descriptor, and returns as `ioctl` does.
///
/// # Safety
///
/// As for the request. The file is a vCPU, or the kernel refuses the call.
#[inline(never)]
pub(crate) unsafe extern "C" fn run(fd: usize, route: &'static Route, arg: c_ulong) -> c_int {
    if arg == 0
        && let Some(record) = of_this_thread(fd as c_int)
    {
        // SAFETY: the caller vouches for the request.
        return unsafe { run_of(record, fd, route) };
    }
    // SAFETY: as above.
    unsafe { run_unbound(fd, route, arg) }
}

/// Runs the vCPU that the thread has bound by this descriptor.
unsafe fn run_of(record: &'static Record, fd: usize, route: &'static Route) -> c_int {
    record.running.swap(true, SeqCst);
    if record.is_asked() {
        // SAFETY: the caller vouches for the request.
        return unsafe { answer_and_run(record, fd, route) };
    }
    let unnamed = is_unnamed();
    // SAFETY: as above.
    let answer = unsafe {
        if unnamed {
            syscall0(__NR_kvm_bound_run)
        } else {
            syscall1(route.number, fd)
        }
    };
    leave(record);
    let outcome = if unnamed {
        Outcome::Bound
    } else {
        Outcome::BoundWithFd
    };
    if answer < 0 {
        // SAFETY: as above.
        return unsafe { failed(fd, route, answer, outcome) };
    }
    counts::count(route, outcome);
    answer as c_int
}

/// The run has ended.
#[inline(always)]
fn leave(record: &Record) {
    // A thread that does not see this yet looks again soon.
    record.running.store(false, Release);
    if record.is_asked() {
        record.unbind(Event::Asked);
    }
}

/// Returns the error of a run, or runs the vCPU by its descriptor if there was no run.
#[cold]
#[inline(never)]
unsafe fn failed(fd: usize, route: &'static Route, answer: isize, outcome: Outcome) -> c_int {
    let errno = -answer as c_int;
    // The first: the vCPU was unbound since the look at the record. The second: the
    // descriptor refers to another vCPU, which another thread has bound.
    if matches!(errno, libc::ENXIO | libc::EBUSY) || route.is_refusal(errno) {
        // SAFETY: the caller vouches for the request.
        return unsafe { run_unbound(fd, route, 0) };
    }
    counts::count(route, outcome);
    returned(answer)
}

#[cold]
#[inline(never)]
unsafe fn answer_and_run(record: &'static Record, fd: usize, route: &'static Route) -> c_int {
    leave(record);
    // SAFETY: the caller vouches for the request.
    unsafe { run_unbound(fd, route, 0) }
}

/// Runs a vCPU that is not bound to the thread, after the thread has bound it if it may.
#[cold]
#[inline(never)]
unsafe fn run_unbound(fd: usize, route: &'static Route, arg: c_ulong) -> c_int {
    let record = claim();
    if arg == 0
        && let Some(record) = record
        && record.bind_before_run(fd as c_int)
    {
        // SAFETY: the caller vouches for the request.
        return unsafe { run_of(record, fd, route) };
    }
    // In a handler that has interrupted the binding, the vCPU may be bound already.
    let bound = record.filter(|record| record.bound.load(SeqCst) && record.is_own());
    if let Some(record) = bound {
        record.running.store(true, SeqCst);
    }
    // SAFETY: as above.
    let answer = unsafe { make::without_argument(fd, route, arg) };
    if let Some(record) = bound {
        leave(record);
    }
    answer
}
