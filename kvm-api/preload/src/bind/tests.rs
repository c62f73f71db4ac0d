//! When a thread binds and unbinds its vCPU. The kernel is simulated.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libc::c_int;

use super::record::{ASKED, Hold, Record, SIGNALLED, claim, of_task, of_this_thread};
use super::watch::Change;
use super::{MODE, NAMED, UNNAMED, ask, begin, kernel, mode, record, signal, this_task};
use crate::bindings::Event;

/// Descriptors that the tests use in turn.
const FD: c_int = 3000;
const OTHER: c_int = 3001;

/// A step that takes no time unless it hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// One test at a time, since they share the records.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    record::reset();
    begin();
    MODE.store(NAMED, SeqCst);
    assert!(signal::catch());
    alone
}

fn bind(fd: c_int) -> bool {
    claim().unwrap().bind_before_run(fd)
}

fn is_bound(fd: c_int) -> bool {
    let known = of_this_thread(fd).is_some();
    assert_eq!(known, kernel::is_bound());
    known
}

/// Does something in a new thread.
fn elsewhere<T: Send>(something: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(something).join().unwrap())
}

pub(super) fn until(reached: impl Fn() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < PATIENCE);
        thread::yield_now();
    }
}

/// A thread that binds, prepares, waits for this one, and then does something.
fn with_bound(
    prepare: impl FnOnce(&'static Record) + Send,
    meanwhile: impl FnOnce(&'static Record),
    finally: impl FnOnce(&'static Record) + Send,
) {
    let (tell, told): (Sender<c_int>, _) = channel();
    let (end, ended) = channel::<()>();
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            assert!(bind(FD));
            let record = record::mine().unwrap();
            prepare(record);
            tell.send(this_task()).unwrap();
            ended.recv_timeout(PATIENCE).unwrap();
            finally(record);
        });
        let record = of_task(told.recv_timeout(PATIENCE).unwrap()).unwrap();
        meanwhile(record);
        end.send(()).unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn a_mode_is_named_in_full() {
    assert_eq!(mode(c"with-fd"), Some(NAMED));
    assert_eq!(mode(c"without-fd"), Some(UNNAMED));
    for other in [c"", c"1", c"with", c"With-fd", c"with-fd "] {
        assert_eq!(mode(other), None, "{other:?}");
    }
}

#[test]
fn a_thread_binds_by_one_descriptor() {
    let _alone = alone();
    elsewhere(|| {
        assert!(bind(FD));
        assert!(is_bound(FD));
        assert!(record::mine().unwrap().unbind(Event::Changed));
        assert!(!is_bound(FD));
        assert!(!bind(OTHER));
        assert!(!is_bound(OTHER));
        assert!(bind(FD));
        for no_descriptor in [-1, c_int::MAX] {
            assert!(of_this_thread(no_descriptor).is_none());
        }
    });
    elsewhere(|| assert!(!bind(-1)));
}

#[test]
fn a_thread_that_runs_another_vcpu_unbinds_its_own_and_rests() {
    let _alone = alone();
    elsewhere(|| {
        assert!(bind(FD));
        // This run is the first.
        for rest in [63, 127, 255] {
            assert!(!bind(OTHER));
            assert!(!kernel::is_bound());
            let runs = (0..).find(|_| bind(FD)).unwrap();
            assert_eq!(runs, rest);
            assert!(is_bound(FD));
        }
    });
}

#[test]
fn nobody_binds_while_another_holds() {
    let _alone = alone();
    elsewhere(|| {
        let hold = Hold::begin();
        assert!(!bind(FD));
        assert!(!is_bound(FD));
        drop(hold);
        assert!(bind(FD));
    });
}

/// The memory of a thread that has ended tells another thread from the rest.
#[test]
fn a_thread_inherits_no_descriptor() {
    let _alone = alone();
    elsewhere(|| {
        assert!(bind(FD));
        let record = record::mine().unwrap();
        // The kernel has unbound the vCPU of a thread with another number.
        record.task.store(1, SeqCst);
        kernel::unbind();
        assert!(bind(OTHER));
        assert!(of_this_thread(FD).is_none());
        assert!(is_bound(OTHER));
        assert_eq!(record::bound().count(), 1);
    });
}

#[test]
fn a_descriptor_belongs_to_one_thread_that_lives() {
    let _alone = alone();
    with_bound(
        |_| (),
        |_| assert!(!elsewhere(|| bind(FD))),
        |_| assert!(is_bound(FD)),
    );
    // The thread has ended.
    assert!(elsewhere(|| bind(FD) && is_bound(FD)));
}

#[test]
fn a_thread_that_waits_is_asked_by_a_signal() {
    let _alone = alone();
    with_bound(
        |_| (),
        |record| {
            ask::ask(record, Duration::ZERO);
            until(|| !record.bound.load(SeqCst));
            until(|| !record.is_asked());
        },
        |_| {
            assert!(!is_bound(FD));
            assert_eq!((0..).find(|_| bind(FD)), Some(64));
        },
    );
}

/// A thread that has answered may be in a run of an unbound vCPU.
#[test]
fn a_question_that_was_answered_sends_no_signal() {
    let _alone = alone();
    with_bound(
        |_| (),
        |record| {
            let question = record.ask().unwrap();
            record.signal(question);
            until(|| !record.is_asked());
            assert!(record.ask().is_none());
            // As if another thread had asked at the next binding.
            record.bound.store(true, SeqCst);
            record.ask().unwrap();
            record.signal(question);
            assert_eq!(record.question().state(), ASKED);
        },
        |record| assert!(record.unbind(Event::Asked)),
    );
}

#[test]
fn a_thread_in_a_run_is_not_interrupted() {
    let _alone = alone();
    with_bound(
        |record| record.running.store(true, SeqCst),
        |record| {
            ask::ask(record, Duration::ZERO);
            assert_eq!(record.question().state(), ASKED);
        },
        |record| {
            assert!(is_bound(FD));
            record.running.store(false, SeqCst);
            assert!(record.unbind(Event::Asked));
            assert!(!record.is_asked());
        },
    );
}

/// It has left the run for a handler of a signal, and waits there.
#[test]
fn a_thread_that_waits_in_a_handler_is_asked_by_a_signal() {
    let _alone = alone();
    with_bound(
        |record| record.running.store(true, SeqCst),
        |record| {
            until(|| {
                ask::ask(record, Duration::from_secs(1));
                !record.bound.load(SeqCst)
            });
        },
        |_| assert!(!is_bound(FD)),
    );
}

#[test]
fn a_thread_that_blocks_the_signal_answers_at_its_next_run() {
    let _alone = alone();
    with_bound(
        |_| std::mem::forget(signal::Blocked::begin()),
        |record| {
            ask::ask(record, Duration::ZERO);
            assert_eq!(record.question().state(), SIGNALLED);
            assert!(record.bound.load(SeqCst));
        },
        |record| {
            assert!(record.unbind(Event::Asked));
            assert!(!record.is_asked());
            assert!(super::proc::blocks(this_task(), signal::bit()));
        },
    );
}

#[test]
fn a_change_of_the_descriptor_unbinds() {
    let _alone = alone();
    elsewhere(|| {
        assert!(bind(FD));
        let change = Change::of(FD as u32 - 1, FD as u32);
        assert!(!is_bound(FD));
        assert!(!bind(FD));
        change.done();
        assert!(bind(FD));
        Change::of(OTHER as u32, u32::MAX).done();
        assert!(is_bound(FD));
    });
}

#[test]
fn a_change_by_another_thread_does_not_wait() {
    let _alone = alone();
    with_bound(
        |record| record.running.store(true, SeqCst),
        |record| {
            Change::of(0, u32::MAX).done();
            assert_eq!(record.question().state(), ASKED);
        },
        |_| {
            assert!(of_this_thread(FD).is_none());
            assert!(kernel::is_bound());
        },
    );
}
