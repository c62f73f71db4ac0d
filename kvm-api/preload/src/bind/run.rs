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
use super::record::{Record, claim};
use crate::bindings::Event;
use crate::counts;
use crate::make;
use crate::outcome::Outcome;
use crate::plain::returned;
use crate::route::Route;

/// Runs the vCPU that the thread has bound by this descriptor, and returns as `ioctl` does.
///
/// What is not the usual case is in other functions, which this calls last, so that the
/// compiler makes jumps of these calls.
///
/// # Safety
///
/// As for the request.
#[inline(always)]
pub(crate) unsafe fn run(record: &'static Record, fd: usize, route: &'static Route) -> c_int {
    record.running.swap(true, SeqCst);
    if record.is_asked() {
        // SAFETY: the caller vouches for the request.
        return unsafe { answer_and_run(record, fd, route) };
    }
    // SAFETY: as above.
    unsafe {
        if is_unnamed() {
            let answer = syscall0(__NR_kvm_bound_run);
            end(record, fd, route, answer, Outcome::Bound)
        } else {
            let answer = syscall1(route.number, fd);
            end(record, fd, route, answer, Outcome::BoundWithFd)
        }
    }
}

#[inline(always)]
unsafe fn end(
    record: &'static Record,
    fd: usize,
    route: &'static Route,
    answer: isize,
    outcome: Outcome,
) -> c_int {
    // A thread that does not see this yet looks again soon.
    record.running.store(false, Release);
    if record.is_asked() || answer < 0 {
        // SAFETY: the caller vouches for the request.
        return unsafe { asked_or_failed(record, fd, route, answer, outcome) };
    }
    counts::count(route, outcome);
    answer as c_int
}

/// After a run. Unbinds the vCPU if the thread was asked to.
fn leave(record: &Record) {
    record.running.store(false, Release);
    if record.is_asked() {
        record.unbind(Event::Asked);
    }
}

#[cold]
#[inline(never)]
unsafe extern "C" fn asked_or_failed(
    record: &'static Record,
    fd: usize,
    route: &'static Route,
    answer: isize,
    outcome: Outcome,
) -> c_int {
    leave(record);
    let errno = -answer as c_int;
    // The first: the vCPU was unbound since the look at the record. The second: the
    // descriptor refers to another vCPU, which another thread has bound. Neither has run
    // anything.
    let is_refusal = matches!(errno, libc::ENXIO | libc::EBUSY) || route.is_refusal(errno);
    if answer < 0 && is_refusal {
        // SAFETY: the caller vouches for the request.
        return unsafe { run_unbound(fd, route, 0) };
    }
    counts::count(route, outcome);
    returned(answer)
}

#[cold]
#[inline(never)]
unsafe extern "C" fn answer_and_run(
    record: &'static Record,
    fd: usize,
    route: &'static Route,
) -> c_int {
    leave(record);
    // SAFETY: the caller vouches for the request.
    unsafe { run_unbound(fd, route, 0) }
}

/// Runs a vCPU that is not bound to the thread, after the thread has bound it if it may.
///
/// # Safety
///
/// As for the request. The file is a vCPU, or the kernel refuses the call.
#[cold]
#[inline(never)]
pub(crate) unsafe extern "C" fn run_unbound(
    fd: usize,
    route: &'static Route,
    arg: c_ulong,
) -> c_int {
    let record = claim();
    if arg == 0
        && let Some(record) = record
        && record.bind_before_run(fd as c_int)
    {
        // SAFETY: the caller vouches for the request.
        return unsafe { run(record, fd, route) };
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
