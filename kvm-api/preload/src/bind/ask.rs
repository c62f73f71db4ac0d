//! How a thread gets a vCPU that is bound to another one.
//!
//! # Why nobody sees a wrong `EBUSY`
//!
//! Only the thread that a vCPU is bound to can unbind it. A thread whose request fails with
//! `EBUSY` asks that thread, and repeats the request, until the answer is another one:
//!
//! - A thread in a run unbinds its vCPU at the end of the run. By ioctl, the other thread
//!   would wait as long, for the mutex of the vCPU.
//! - A thread that is not in a run gets a signal, whose handler unbinds the vCPU at once,
//!   also if the thread waits for something. The signal does not come in a run: see
//!   [`run`](super::run). It comes with `SA_RESTART`. Still, a few system calls fail with
//!   `EINTR` after each handler, for example `poll` and `nanosleep`. The program sees this,
//!   and no other signal or call can replace it: the kernel has none that unbinds the vCPU of
//!   another thread.
//!
//! `EBUSY` may also be the answer of the request itself, which then has had no effect. It is,
//! if the vCPU is bound to no thread, and the request gives it again more often than threads
//! can have bound and unbound the vCPU meanwhile. No thread begins to bind one while another
//! waits, so that these are the one that it was bound to, and those about to bind one.
//!
//! A thread that unbinds its vCPU, because another has asked for it, does not bind it again
//! before a number of runs that doubles each time. So two threads that use a vCPU by turns
//! soon do this as without the library.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::time::{Duration, Instant};

use kvm_sys::instruction::{syscall3, syscall4};
use libc::{c_int, c_ulong};

use super::record::{Hold, NONE, Record, SIGNALLED};
use super::{is_on, proc, record, signal};
use crate::bindings::Event;
use crate::counts;
use crate::file::{self, Kind};
use crate::message::die;
use crate::plain;

/// The interval between two attempts. A thread that unbinds its vCPU wakes the others
/// before.
const STEP: Duration = Duration::from_millis(2);

/// The time after which a thread that seems to be in a run is looked at. It may have left
/// the run for a handler of a signal, and wait there.
const LONG_RUN: Duration = Duration::from_millis(50);

/// The time in which a thread has to handle the signal, unless it blocks the signal.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes an ioctl, on which no thread that has bound a vCPU has an effect.
///
/// # Safety
///
/// As for the request.
pub(crate) unsafe fn ioctl(fd: usize, request: u32, arg: c_ulong) -> c_int {
    // SAFETY: the caller vouches for the request.
    let answer = unsafe { plain::ioctl(fd, request, arg) };
    if answer == -1 && is_on() && is_busy() {
        // SAFETY: as above. The request had no effect.
        return unsafe { wait_for(fd, request, arg) };
    }
    answer
}

fn is_busy() -> bool {
    // SAFETY: it belongs to this thread.
    unsafe { *libc::__errno_location() == libc::EBUSY }
}

#[cold]
#[inline(never)]
unsafe fn wait_for(fd: usize, request: u32, arg: c_ulong) -> c_int {
    let _hold = Hold::begin();
    counts::count_event(Event::Waited);
    let mut without_owner = Limit::new(record::binding());
    let began = Instant::now();
    loop {
        let asked = ask_owner(fd as c_int, began.elapsed());
        // SAFETY: the caller vouches for the request, which had no effect before.
        let answer = unsafe { plain::ioctl(fd, request, arg) };
        if answer != -1 || !is_busy() || !asked && without_owner.is_reached() {
            return answer;
        }
    }
}

/// How often a request may give `EBUSY` because a thread has bound the vCPU, which is not
/// bound any more when the owner is looked for.
struct Limit(usize);

impl Limit {
    /// With this number of threads that are about to bind a vCPU. Another one has it bound,
    /// or had it bound when the request was made first.
    fn new(binding: usize) -> Self {
        Self(binding + 2)
    }

    fn is_reached(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 == 0
    }
}

/// Asks the thread that the vCPU is bound to, waits a moment, and returns whether there is
/// such a thread, other than this one. A request on a VM may be about all its vCPUs.
fn ask_owner(fd: c_int, waited: Duration) -> bool {
    // This thread may be asked meanwhile, too.
    let mine = record::mine().filter(|record| record.bound.load(SeqCst));
    if let Some(mine) = mine
        && mine.is_asked()
    {
        mine.unbind(Event::Asked);
    }
    let owner = proc::owner(fd);
    if owner == Some(0) {
        return false;
    }
    if let Some(record) = owner.and_then(record::of_task) {
        if record.is_own() {
            return false;
        }
        ask(record, waited);
        wait(record);
        return true;
    }
    if owner.is_none() && file::kind(fd) == Kind::Other {
        return false;
    }
    ask_all(mine, waited)
}

/// The same for all threads, because it is not known which. Those in a run are not waited
/// for: a request about all vCPUs does not wait for runs.
#[cold]
fn ask_all(mine: Option<&'static Record>, waited: Duration) -> bool {
    let mut asked = mine.is_some_and(|mine| mine.unbind(Event::Asked));
    let alive = |record: &&Record| signal::is_alive(record.task.load(Acquire));
    for record in record::bound().filter(alive) {
        ask(record, waited);
        if !record.running.load(SeqCst) {
            wait(record);
            asked = true;
        }
    }
    asked
}

/// Asks a thread to unbind its vCPU, without waiting.
pub(crate) fn ask(record: &Record, waited: Duration) {
    let Some(question) = record.ask() else {
        return;
    };
    let task = record.task.load(Acquire);
    if record.running.load(SeqCst) && !(waited > LONG_RUN && proc::waits_elsewhere(task)) {
        return;
    }
    if signal::is_caught() {
        record.signal(question);
    }
    if waited <= PATIENCE {
        return;
    }
    let ignored = record.question().state() == SIGNALLED && proc::blocks(task, signal::bit());
    if ignored || !signal::is_caught() {
        die(c"kvm-preload: the program keeps a signal from a thread that has bound a vCPU\n");
    }
}

/// Waits until a thread has answered, or for a moment.
fn wait(record: &Record) {
    let asked = record.question();
    if asked.state() == NONE {
        return;
    }
    let step = libc::timespec {
        tv_sec: 0,
        tv_nsec: STEP.subsec_nanos().into(),
    };
    let place = record.asked.as_ptr().expose_provenance();
    let wait = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let step = (&raw const step).expose_provenance();
    // SAFETY: the kernel reads a number and a time.
    unsafe { syscall4(libc::SYS_futex, place, wait, asked.word() as usize, step) };
}

/// Wakes the threads that wait for a change.
pub(crate) fn wake(asked: &AtomicU32) {
    let place = asked.as_ptr().expose_provenance();
    let wake = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
    // SAFETY: the kernel touches no memory.
    unsafe { syscall3(libc::SYS_futex, place, wake, c_int::MAX as usize) };
}
