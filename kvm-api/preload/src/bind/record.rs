//! Which thread has bound its vCPU, and by which descriptor.
//!
//! # Why a request without a descriptor reaches the right vCPU
//!
//! A thread makes a request on descriptor N without the descriptor if [`of_this_thread`]
//! finds its record at N. The vCPU that is then bound is the one that N refers to:
//!
//! - A thread binds vCPUs by one number only, for as long as it lives. So it does not matter
//!   what happens between the look at the record and the call, also in a signal handler: the
//!   kernel has bound the vCPU of N, or none, in which case the call fails with `ENXIO`,
//!   without an effect, and the library makes the request by the descriptor.
//! - Before N comes to refer to another file, the record is taken from N, and if the thread
//!   itself changes N, the vCPU is unbound: see [`watch`](super::watch). A request that has
//!   found its record before another thread changes N is one that began before the change.
//! - A thread is told by the address of its own memory, which is unique among the living. A
//!   thread that gets the address of one that has ended finds the record of that one. The
//!   kernel has unbound the vCPU; the call fails with `ENXIO`. Before the new thread binds a
//!   vCPU, it takes the record from the other number.

use std::arch::asm;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicUsize};

use libc::c_int;

use super::{ask, is_same_process, kernel, signal, this_task, yield_now};
use crate::bindings::Event;
use crate::counts;
use crate::message::die;

/// The threads that fit. Others bind no vCPU.
pub(crate) const THREADS: usize = 256;

/// The descriptors that fit. A vCPU with a higher one is not bound.
pub(crate) const DESCRIPTORS: usize = 4096;

/// The runs by descriptor after another thread has asked for the vCPU once. The number
/// doubles with each time, so that a vCPU that two threads use is soon not bound any more.
/// An unbound vCPU costs a few hundred instructions a run, and asking for a bound one costs
/// tens of thousands.
const REST: u32 = 64;

/// The largest number of times that doubles it.
const DOUBLED: u32 = 24;

/// What a thread has been asked: the lower bits of a [`Question`].
const STATE: u32 = 3;
/// Nobody has asked for the vCPU.
pub(crate) const NONE: u32 = 0;
/// Another thread has. The thread sees it before and after a run.
pub(crate) const ASKED: u32 = 1;
/// The thread gets a signal, or has got it already. The handler unbinds the vCPU.
pub(crate) const SIGNALLED: u32 = 2;

/// What a thread has been asked. The upper bits are the number of the question, so that a
/// thread does not send the signal because of a question that was answered meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Question(u32);

impl Question {
    pub(crate) fn state(self) -> u32 {
        self.0 & STATE
    }

    fn with(self, state: u32) -> Self {
        Self(self.0 & !STATE | state)
    }

    /// After the answer.
    fn next(self) -> Self {
        Self((self.0 & !STATE).wrapping_add(STATE + 1))
    }

    /// As a word on which threads wait.
    pub(crate) fn word(self) -> u32 {
        self.0
    }
}

/// No descriptor.
const NO_FD: c_int = -1;

/// A thread that has run a vCPU.
pub(crate) struct Record {
    /// What tells the thread from others; 0 if the record is free.
    thread: AtomicUsize,
    /// Its number.
    pub(crate) task: AtomicI32,
    /// The descriptor by which it binds.
    fd: AtomicI32,
    /// Whether it has bound a vCPU by this descriptor, so that it binds by no other.
    has_bound: AtomicBool,
    /// Whether the kernel may have bound a vCPU to it.
    pub(crate) bound: AtomicBool,
    /// Whether it is about to bind one.
    binding: AtomicBool,
    /// Whether it is in a run, which a signal would end.
    pub(crate) running: AtomicBool,
    /// A [`Question`]. Threads that ask wait for a change.
    pub(crate) asked: AtomicU32,
    /// The runs left until it binds a vCPU.
    rest: AtomicU32,
    /// How often it had to rest.
    rests: AtomicU32,
}

impl Record {
    const fn free() -> Self {
        Self {
            thread: AtomicUsize::new(0),
            task: AtomicI32::new(0),
            fd: AtomicI32::new(NO_FD),
            has_bound: AtomicBool::new(false),
            bound: AtomicBool::new(false),
            binding: AtomicBool::new(false),
            running: AtomicBool::new(false),
            asked: AtomicU32::new(NONE),
            rest: AtomicU32::new(0),
            rests: AtomicU32::new(0),
        }
    }
}

static RECORDS: [Record; THREADS] = [const { Record::free() }; _];

/// By descriptor: the record of the thread that has bound the vCPU by it.
static BY_FD: [AtomicPtr<Record>; DESCRIPTORS] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; _];

/// How many threads change a descriptor, or ask for a vCPU, now. Meanwhile no thread begins
/// to bind one.
static HOLDS: AtomicU32 = AtomicU32::new(0);

/// No thread begins to bind a vCPU while this exists.
///
/// A thread announces that it binds, and then looks at the number of holds. Whoever holds
/// raises the number, and then looks at the announcements. So it sees the announcement, or
/// the thread sees the hold and binds nothing.
pub(crate) struct Hold(());

impl Hold {
    pub(crate) fn begin() -> Self {
        HOLDS.fetch_add(1, SeqCst);
        Self(())
    }

    /// Ends one that was forgotten.
    pub(crate) fn end() {
        drop(Self(()));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        HOLDS.fetch_sub(1, SeqCst);
    }
}

/// What tells the calling thread from others: the address of its own memory, which begins
/// with the address itself.
#[inline(always)]
fn this_thread() -> usize {
    let thread: usize;
    // SAFETY: the ABI has the address there in each thread.
    unsafe {
        asm!("mov {}, fs:0", out(reg) thread, options(nostack, readonly, preserves_flags, pure))
    };
    thread
}

#[inline(always)]
fn place(fd: c_int) -> Option<&'static AtomicPtr<Record>> {
    // A negative one is too high.
    BY_FD.get(fd as u32 as usize)
}

#[inline(always)]
fn at(place: &AtomicPtr<Record>) -> Option<&'static Record> {
    // SAFETY: it is null, or one of the records, which stay.
    unsafe { place.load(SeqCst).as_ref() }
}

/// The record of the calling thread, if it has bound the vCPU of this descriptor.
#[inline(always)]
pub(crate) fn of_this_thread(fd: c_int) -> Option<&'static Record> {
    let record = at(place(fd)?)?;
    (record.thread.load(Relaxed) == this_thread()).then_some(record)
}

/// The record of the calling thread, or of one that had the same memory.
pub(crate) fn mine() -> Option<&'static Record> {
    let this = this_thread();
    RECORDS
        .iter()
        .find(|record| record.thread.load(Acquire) == this)
}

/// Of the thread with this number, if it may have bound a vCPU.
pub(crate) fn of_task(task: c_int) -> Option<&'static Record> {
    bound().find(|record| record.task.load(Acquire) == task)
}

/// Those of the threads that may have bound a vCPU, also of some that have ended.
pub(crate) fn bound() -> impl Iterator<Item = &'static Record> {
    RECORDS.iter().filter(|record| record.bound.load(SeqCst))
}

/// The number of threads that are about to bind one.
pub(crate) fn binding() -> usize {
    let binding = RECORDS.iter().filter(|record| record.binding.load(SeqCst));
    binding.count()
}

/// Forgets all threads.
pub(crate) fn reset() {
    for record in &RECORDS {
        record.forget();
        record.thread.store(0, SeqCst);
    }
    HOLDS.store(0, SeqCst);
}

/// Takes the record from a descriptor, and returns it.
pub(crate) fn take(fd: c_int) -> Option<&'static Record> {
    let place = place(fd)?;
    // Most descriptors have none, and a look at them costs less.
    at(place)?;
    // SAFETY: it is null, or one of the records, which stay.
    unsafe { place.swap(std::ptr::null_mut(), SeqCst).as_ref() }
}

/// The record of the calling thread, which may be new. `None` if there is no room.
pub(crate) fn claim() -> Option<&'static Record> {
    if let Some(record) = mine() {
        return Some(record);
    }
    let free = |record: &&Record| record.take_over(0);
    let dead = |record: &&Record| {
        let thread = record.thread.load(Acquire);
        !signal::is_alive(record.task.load(Acquire)) && record.take_over(thread)
    };
    let record = RECORDS
        .iter()
        .find(free)
        .or_else(|| RECORDS.iter().find(dead))?;
    record.forget();
    Some(record)
}

impl Record {
    /// Gives the record to the calling thread, if its thread still is another.
    fn take_over(&self, from: usize) -> bool {
        self.thread
            .compare_exchange(from, this_thread(), SeqCst, SeqCst)
            .is_ok()
    }

    /// Forgets what a thread that has ended has left.
    fn forget(&self) {
        self.leave_descriptor();
        self.task.store(0, SeqCst);
        self.fd.store(NO_FD, SeqCst);
        self.has_bound.store(false, SeqCst);
        self.bound.store(false, SeqCst);
        self.binding.store(false, SeqCst);
        self.running.store(false, SeqCst);
        self.answer();
        self.rest.store(0, SeqCst);
        self.rests.store(0, SeqCst);
    }

    /// Whether this is the thread's own record, and not that of one that had the same
    /// memory, or of the parent that waits for the end of a child of `vfork`.
    pub(crate) fn is_own(&self) -> bool {
        self.task.load(Acquire) == this_task()
    }

    /// Has the thread that binds by this record be the calling one, which has the memory of
    /// the one that did.
    fn inherit(&self, task: c_int) {
        self.forget();
        // A thread that has ended may have had the number, too.
        let others = RECORDS.iter().filter(|it| !std::ptr::eq(*it, self));
        for other in others.filter(|it| it.task.load(Acquire) == task) {
            other.leave_descriptor();
            other.bound.store(false, SeqCst);
            other.task.store(0, SeqCst);
        }
        self.task.store(task, SeqCst);
    }

    /// Takes the record from its descriptor, if it is still there.
    pub(crate) fn leave_descriptor(&self) {
        if let Some(place) = place(self.fd.load(Acquire)) {
            let this = (&raw const *self).cast_mut();
            let nobody = std::ptr::null_mut();
            let _ = place.compare_exchange(this, nobody, SeqCst, SeqCst);
        }
    }

    /// Puts the record at its descriptor, unless another thread that lives is there.
    fn enter_descriptor(&self, fd: c_int) -> bool {
        let Some(place) = place(fd) else {
            return false;
        };
        let this = (&raw const *self).cast_mut();
        let mut there = std::ptr::null_mut();
        if let Some(other) = at(place) {
            if signal::is_alive(other.task.load(Acquire)) {
                return false;
            }
            there = (&raw const *other).cast_mut();
        }
        place.compare_exchange(there, this, SeqCst, SeqCst).is_ok()
    }

    /// Whether the thread, which is about to run a vCPU by this descriptor that is not
    /// bound to it, has bound that vCPU instead. Unbinds another one first: the run of this
    /// one is not a reason to keep threads from that.
    pub(crate) fn bind_before_run(&self, fd: c_int) -> bool {
        // In a handler of a signal that has interrupted this function.
        if self.binding.load(SeqCst) {
            return false;
        }
        if self.bound.load(SeqCst) {
            let same = self.fd.load(Acquire) == fd;
            self.unbind(if same {
                Event::Changed
            } else {
                Event::OtherVcpu
            });
        }
        if self.is_resting() || !is_same_process() {
            return false;
        }
        let task = this_task();
        if self.task.load(Acquire) != task {
            self.inherit(task);
        }
        // One number for each thread.
        if !self.has_bound.load(Acquire) && place(fd).is_some() {
            self.fd.store(fd, SeqCst);
        }
        self.fd.load(Acquire) == fd && self.bind(fd)
    }

    /// Binds the vCPU of the descriptor.
    fn bind(&self, fd: c_int) -> bool {
        if !signal::is_caught() {
            return false;
        }
        signal::unblock();
        self.binding.store(true, SeqCst);
        let bound = self.enter_descriptor(fd) && self.bind_announced(fd);
        self.binding.store(false, SeqCst);
        // A thread may have asked meanwhile, or changed the descriptor, and the handler of
        // the signal may have been there.
        let stays = !self.is_asked() && self.bound.load(SeqCst) && of_this_thread(fd).is_some();
        if bound && stays {
            counts::count_event(Event::Bound);
            return true;
        }
        self.leave_descriptor();
        if bound {
            unbind_in_kernel();
        }
        self.bound.store(false, SeqCst);
        self.settle();
        false
    }

    /// The same after the record is at the descriptor.
    fn bind_announced(&self, fd: c_int) -> bool {
        self.bound.store(true, SeqCst);
        if HOLDS.load(SeqCst) != 0 {
            return false;
        }
        let answer = kernel::bind(fd);
        // The run by the descriptor finds out what is wrong. If the file is no vCPU, the
        // next one may be; otherwise it may be wrong each time.
        let no_vcpu = [libc::EBADF, libc::ENOTTY, libc::EINVAL, libc::EIO];
        if answer < 0 && !no_vcpu.contains(&(-answer as c_int)) {
            self.begin_rest();
        }
        if answer == 0 {
            self.has_bound.store(true, SeqCst);
        }
        answer == 0
    }

    /// Unbinds the thread's vCPU, if the record is the thread's own, and returns whether it
    /// is.
    pub(crate) fn unbind(&self, why: Event) -> bool {
        if !self.is_own() {
            return false;
        }
        self.leave_descriptor();
        unbind_in_kernel();
        self.bound.store(false, SeqCst);
        counts::count_event(why);
        if matches!(why, Event::Asked | Event::OtherVcpu) {
            self.begin_rest();
        }
        self.settle();
        true
    }

    /// The same in the handler of the signal.
    pub(crate) fn unbind_in_handler(&self) {
        self.leave_descriptor();
        if self.bound.load(SeqCst) {
            unbind_in_kernel();
            self.bound.store(false, SeqCst);
            counts::count_event(Event::Signalled);
            self.begin_rest();
        }
        self.answer();
    }

    /// What the thread has been asked.
    #[inline(always)]
    pub(crate) fn question(&self) -> Question {
        Question(self.asked.load(SeqCst))
    }

    /// Whether the thread has been asked for its vCPU.
    #[inline(always)]
    pub(crate) fn is_asked(&self) -> bool {
        self.question().state() != NONE
    }

    /// Answers what the thread has been asked.
    fn answer(&self) {
        self.asked.store(self.question().next().0, SeqCst);
        ask::wake(&self.asked);
    }

    /// Changes the question, if it is still this one.
    fn change(&self, from: Question, to: Question) -> bool {
        self.asked
            .compare_exchange(from.0, to.0, SeqCst, SeqCst)
            .is_ok()
    }

    /// Asks for the vCPU, and returns the question. `None` if no vCPU is bound, or if the
    /// thread has just answered.
    pub(crate) fn ask(&self) -> Option<Question> {
        let before = self.question();
        let mut asked = before;
        if before.state() == NONE {
            asked = before.with(ASKED);
            if !self.change(before, asked) {
                return None;
            }
        }
        if self.bound.load(SeqCst) {
            return Some(asked);
        }
        // The thread does not look at the question before it binds a vCPU again.
        if asked.state() == ASKED {
            self.change(asked, asked.next());
        }
        None
    }

    /// Ends what threads have asked of this one, which has no vCPU bound any more. A signal
    /// on its way must not end a run that is not bound, so the thread waits for it. The
    /// thread that sends it does so at once.
    fn settle(&self) {
        let mut unblocked = None;
        loop {
            let asked = self.question();
            match asked.state() {
                ASKED if self.change(asked, asked.next()) => return ask::wake(&self.asked),
                // The thread that asks sends the signal now.
                ASKED => {}
                SIGNALLED => {
                    // A handler of the program's may block it.
                    unblocked.get_or_insert_with(signal::Unblocked::begin);
                    yield_now();
                }
                _ => return,
            }
        }
    }

    fn begin_rest(&self) {
        let rests = self.rests.load(Relaxed);
        self.rests.store(rests.saturating_add(1), Relaxed);
        self.rest.store(REST << rests.min(DOUBLED), Relaxed);
    }

    /// Counts a run, if the thread is to bind no vCPU yet.
    fn is_resting(&self) -> bool {
        /// How often a thread looks whether it is another one that had to rest.
        const LOOK: u32 = 8;
        let rest = self.rest.load(Relaxed);
        self.rest.store(rest.saturating_sub(1), Relaxed);
        rest > 0 && (!rest.is_multiple_of(LOOK) || self.is_own())
    }

    /// Has the thread get a signal, if it has not answered this question. The thread that
    /// asks has no signal handler meanwhile that might not return.
    pub(crate) fn signal(&self, asked: Question) {
        // The process of a child has other threads.
        if !is_same_process() {
            return;
        }
        let _blocked = signal::Blocked::begin();
        let signalled = asked.with(SIGNALLED);
        if asked.state() != ASKED || !self.change(asked, signalled) {
            return;
        }
        match signal::send(self.task.load(Acquire)) {
            0 => {}
            // The kernel has unbound the vCPU of the thread, which has ended.
            libc::ESRCH => {
                self.change(signalled, signalled.next());
            }
            // No room for another signal now.
            _ => {
                self.change(signalled, asked);
            }
        }
    }
}

/// Unbinds the vCPU of the calling thread, if it has one.
fn unbind_in_kernel() {
    const NOT_BOUND: isize = -(libc::ENXIO as isize);
    if !matches!(kernel::unbind(), 0 | NOT_BOUND) {
        die(c"kvm-preload: the kernel refuses kvm_unbind, perhaps by a filter of system calls\n");
    }
}
