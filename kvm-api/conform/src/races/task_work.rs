//! io_uring handles a request on a vCPU's file while its task runs a vCPU: KVM
//! makes the task do its work before each entry of the guest.
//!
//! The kernel ends a run for work of io_uring's, but for work that comes when it
//! has looked already. To make that happen often, other work is due at each tick
//! of the clock, by a timer whose signal is ignored, and so is another thread on
//! the same processor. A tick finds both: the thread is scheduled out with its
//! work ahead, and meets there what io_uring has been given meanwhile.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use kvm_api::bound::Bound;
use kvm_api::files::File as VcpuFile;
use kvm_api::kvm_sys::kvm_regs;
use kvm_api::{Errno, GuestMemory, Kvm, RunMapping};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;

use super::Race;
use super::guest::{Guest, wait_for_count};
use super::migrate::pin;
use super::round::Round;

pub const RACES: &[Race] = &[
    Race::new("a task does not enter its own vcpu from its run", own),
    Race::new("a task does not load a vcpu below its own", below),
];

/// The number of requests that may come outside the run. About every third one
/// comes during the run.
const ATTEMPTS: u64 = 200;

/// The number of requests on another vCPU.
const OTHERS: u64 = 10;

/// The processor that the vCPU's thread shares, as a mask, and the other one.
const SHARED: u64 = 1 << 1;
const OTHER: u64 = 1 << 0;

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// A request on the vCPU that a thread runs goes to a worker, for which the
/// vCPU is bound to another task.
fn own(round: &Round) {
    let mut guest = Guest::counting(round.runner());
    let vcpu = guest.vcpu.as_fd();
    let refused = |end| match end {
        // Outside the run, its task may use the vCPU.
        Ok(()) => false,
        Err(error) => {
            assert_eq!(error, Errno::EBUSY);
            true
        }
    };
    let tried = requests(
        round,
        vcpu,
        &mut guest.run,
        &guest.memory,
        vcpu,
        |n, end| refused(end) || n == ATTEMPTS,
    );
    assert!(tried < ATTEMPTS, "{tried} requests, none was refused");
}

/// A request on another vCPU succeeds, by a worker if it comes during the run.
/// The debug kernel would complain if the request were handled during the run.
fn below(round: &Round) {
    let mut guest = Guest::counting(round.runner());
    let other = Guest::counting(round.runner());
    let vcpu = guest.vcpu.as_fd();
    let of = other.vcpu.as_fd();
    requests(round, vcpu, &mut guest.run, &guest.memory, of, |n, end| {
        assert_eq!(end, Ok(()));
        n == OTHERS
    });
}

/// Has a thread bind `vcpu` and run it, and io_uring write the registers of the
/// vcpu `of` when the thread is given the next work, until `enough` says so of a
/// request's number and what came of it. Returns the last number.
fn requests(
    round: &Round,
    vcpu: BorrowedFd<'_>,
    run: &mut RunMapping,
    memory: &GuestMemory,
    of: BorrowedFd<'_>,
    mut enough: impl FnMut(u64, Result<(), Errno>) -> bool + Send,
) -> u64 {
    let regs_file = VcpuFile::Regs.open(of).unwrap();
    let (event, over) = (eventfd(), AtomicBool::new(false));
    let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let (over, begun, done, event) = (&over, &begun, &done, &event);
    let _work = Ticks::begin();
    pin(SELF, OTHER);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(SELF, SHARED);
            while !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        scope.spawn(move || {
            pin(SELF, SHARED);
            let kvm = Bound::open().unwrap();
            let mut ring = IoUring::new(2).unwrap();
            let mut regs = kvm_regs::default();
            kvm.kvm_get_regs(vcpu, &mut regs).unwrap();
            for number in 1.. {
                submit(&mut ring, event, &regs_file, &regs);
                begun.store(number, Ordering::Relaxed);
                // A request of io_uring ends the run, whoever handles it.
                let end = kvm.kvm_run(vcpu, run).map(|exit| exit.reason());
                assert_eq!(end, Err(Errno::EINTR));
                let end = complete(&mut ring);
                (&*event).read_exact(&mut [0; 8]).unwrap();
                done.store(number, Ordering::Relaxed);
                if enough(number, end) {
                    break;
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            let number = begun.load(Ordering::Relaxed);
            if number == done.load(Ordering::Relaxed) {
                thread::yield_now();
                continue;
            }
            wait_for_count(memory);
            sleep(Duration::from_micros(round.random.below(8000)));
            (&*event).write_all(&1_u64.to_ne_bytes()).unwrap();
            // If the run does not end, the watchdog ends the race.
            while done.load(Ordering::Relaxed) < number {
                thread::yield_now();
            }
        }
    });
    done.load(Ordering::Relaxed)
}

/// Submits a write of the registers that waits for the event.
fn submit(ring: &mut IoUring, event: &File, file: &OwnedFd, regs: &kvm_regs) {
    let event = types::Fd(event.as_raw_fd());
    let poll = opcode::PollAdd::new(event, libc::POLLIN as u32)
        .build()
        .flags(squeue::Flags::IO_LINK);
    let write = opcode::Write::new(
        types::Fd(file.as_raw_fd()),
        ptr::from_ref(regs).cast(),
        size_of_val(regs) as u32,
    );
    // SAFETY: the registers are there until both are complete, see `complete`.
    unsafe { ring.submission().push_multiple(&[poll, write.build()]) }.unwrap();
    ring.submit().unwrap();
}

/// Waits for the request, and returns its result.
fn complete(ring: &mut IoUring) -> Result<(), Errno> {
    while ring.completion().len() < 2 {
        match ring.submit_and_wait(2) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
        }
    }
    let results: Vec<i32> = ring.completion().map(|done| done.result()).collect();
    match results[..] {
        [_, written] if written == size_of::<kvm_regs>() as i32 => Ok(()),
        [_, error] => Err(Errno::from_raw(-error)),
        _ => unreachable!("there are two requests: {results:?}"),
    }
}

fn eventfd() -> File {
    // SAFETY: the call touches no memory.
    let fd = Errno::result(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }).unwrap();
    // SAFETY: it is a new descriptor.
    unsafe { File::from_raw_fd(fd) }
}

/// Work for the running thread at each tick of the clock.
struct Ticks;

impl Ticks {
    fn begin() -> Self {
        let ignored = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: nobody in the race's process wants the signal.
        unsafe { sigaction(Signal::SIGPROF, &ignored) }.unwrap();
        Self::set(Duration::from_micros(1));
        Self
    }

    /// An interval that is shorter than a tick expires at each tick.
    fn set(interval: Duration) {
        let interval = libc::timeval {
            tv_sec: 0,
            tv_usec: interval.subsec_micros().into(),
        };
        let timer = libc::itimerval {
            it_interval: interval,
            it_value: interval,
        };
        // SAFETY: the call reads the structure.
        let set = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, ptr::null_mut()) };
        Errno::result(set).unwrap();
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        Self::set(Duration::ZERO);
    }
}
