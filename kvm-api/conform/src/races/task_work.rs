//! io_uring handles a request on a vCPU's file, or closes the last file of a VM, while
//! its task runs a vCPU: KVM makes the task do its work before each entry of the guest.
//!
//! The kernel ends a run for work of io_uring, unless the work comes after its last check.
//! To make that happen often, a timer with an ignored signal gives the thread other work
//! at each tick of the clock, and another thread shares its processor. At a tick, the
//! kernel schedules the thread out before it does this work. Meanwhile, io_uring gives
//! the thread its request.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use kvm_api::bound::BoundVcpu;
use kvm_api::files::File as VcpuFile;
use kvm_api::kvm_sys::kvm_regs;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Kvm, Vcpu};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;

use super::Race;
use super::guest::{Guest, wait_for_count_or};
use super::migrate::pin;
use super::round::Round;
use super::threads::wait_until;
use crate::kernel_memory;
use crate::requests::new_descriptor;
use crate::signal::set_timer;

pub const RACES: &[Race] = &[
    ("a task does not enter its own vCPU from its run", own),
    ("a task does not load a vCPU below its own", below),
    ("a task does not destroy a VM below its own vCPU", destroys),
];

/// The number of requests that may come outside the run. About every third one
/// comes during the run.
const ATTEMPTS: u64 = 200;

/// The number of requests on another vCPU, or another VM.
const OTHERS: u64 = 10;

/// The processor that the vCPU's thread shares, as a mask, and the other one.
const SHARED: u64 = 1 << 1;
const OTHER: u64 = 1 << 0;

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// A request on the vCPU that a thread runs goes to a worker, for which the
/// vCPU is bound to another task.
fn own(round: &Round) {
    let guest = round.counting();
    let write = Rewrite::new(guest.vcpu.as_fd());
    let refused = |end| {
        // Outside the run, its task may use the vCPU.
        if end == Rewrite::DONE {
            return false;
        }
        assert_eq!(end, -(Errno::EBUSY as i32));
        true
    };
    let write = || write.request();
    let tried = requests(round, &guest, write, |n, end| refused(end) || n == ATTEMPTS);
    assert!(tried < ATTEMPTS, "{tried} requests, none was refused");
}

/// A request on another vCPU succeeds, by a worker if it comes during the run.
/// The debug kernel would complain if the request were handled during the run.
fn below(round: &Round) {
    let (guest, other) = (round.counting(), round.counting());
    let write = Rewrite::new(other.vcpu.as_fd());
    let write = || write.request();
    requests(round, &guest, write, |n, end| {
        assert_eq!(end, Rewrite::DONE);
        n == OTHERS
    });
}

/// The last file of a VM is closed. KVM loads the vCPUs of a VM that it destroys, and
/// the debug kernel would complain if it did so during the run.
fn destroys(round: &Round) {
    let guest = round.counting();
    let flat = Syscall::open().unwrap();
    let vms = (0..OTHERS).map(|_| {
        let vm = round.counting().vm;
        // The kernel allocates memory, and maps it here.
        flat.kvm_set_memory_region(vm.as_fd(), 1, 0, 1 << 30, 0x1000)
            .unwrap();
        vm
    });
    // The files of the vCPUs, which would keep the VMs, are closed now.
    let mut vms = vms.collect::<Vec<_>>().into_iter();
    let close = || {
        let vm = vms.next().expect("there is one for each");
        opcode::Close::new(types::Fd(vm.into_raw_fd())).build()
    };
    requests(round, &guest, close, |n, end| {
        assert_eq!(end, 0);
        n == OTHERS
    });
    // A worker destroys the VMs and unmaps the memory.
    wait_until(|| kernel_memory::address().unwrap().is_none());
}

/// A write of a vCPU's registers, with their present values.
struct Rewrite {
    file: File,
    regs: kvm_regs,
}

impl Rewrite {
    /// The result of a write that succeeds.
    const DONE: i32 = size_of::<kvm_regs>() as i32;

    fn new(vcpu: BorrowedFd<'_>) -> Self {
        let mut file = File::from(VcpuFile::Regs.open(vcpu).unwrap());
        let mut regs = kvm_regs::default();
        let to = (&raw mut regs).cast::<u8>();
        // SAFETY: any bytes are registers, and the structure has no padding.
        let bytes = unsafe { std::slice::from_raw_parts_mut(to, size_of_val(&regs)) };
        file.read_exact(bytes).unwrap();
        Self { file, regs }
    }

    fn request(&self) -> squeue::Entry {
        let file = types::Fd(self.file.as_raw_fd());
        let from = ptr::from_ref(&self.regs).cast();
        opcode::Write::new(file, from, size_of_val(&self.regs) as u32).build()
    }
}

/// Binds the guest's vCPU to a thread, which runs it, while io_uring handles a `request`
/// whenever the thread gets other work. Ends when `enough` accepts the number and the
/// result of a request, and returns the last number.
///
/// The memory and the files of a request must exist until this function returns.
fn requests(
    round: &Round,
    guest: &Guest,
    mut request: impl FnMut() -> squeue::Entry + Send,
    mut enough: impl FnMut(u64, i32) -> bool + Send,
) -> u64 {
    let (event, over) = (eventfd(), AtomicBool::new(false));
    let [begun, ended, done] = [const { AtomicU64::new(0) }; 3];
    let (over, begun, ended, done, event) = (&over, &begun, &ended, &done, &event);
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
            let bound = BoundVcpu::bind(Syscall::open().unwrap(), &guest.vcpu).unwrap();
            let mut run = guest.run.lock().unwrap();
            let mut ring = IoUring::new(2).unwrap();
            for number in 1.. {
                submit(&mut ring, event, request());
                begun.store(number, Ordering::Relaxed);
                // A request of io_uring ends the run, whoever handles it.
                let end = bound.kvm_run(&mut run).map(|exit| exit.reason());
                assert_eq!(end, Err(Errno::EINTR));
                ended.store(number, Ordering::Relaxed);
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
            // io_uring also ends a run to make another worker, before there is an event.
            wait_for_count_or(&guest.memory, || ended.load(Ordering::Relaxed) == number);
            sleep(Duration::from_micros(round.random.below(8000)));
            (&*event).write_all(&1_u64.to_ne_bytes()).unwrap();
            wait_until(|| done.load(Ordering::Relaxed) >= number);
        }
    });
    done.load(Ordering::Relaxed)
}

/// Submits a request that waits for the event.
fn submit(ring: &mut IoUring, event: &File, request: squeue::Entry) {
    let event = types::Fd(event.as_raw_fd());
    let poll = opcode::PollAdd::new(event, libc::POLLIN as u32)
        .build()
        .flags(squeue::Flags::IO_LINK);
    // SAFETY: the request's memory exists until both are complete, see `complete`.
    unsafe { ring.submission().push_multiple(&[poll, request]) }.unwrap();
    ring.submit().unwrap();
}

/// Waits for the request, and returns its result.
fn complete(ring: &mut IoUring) -> i32 {
    while ring.completion().len() < 2 {
        match ring.submit_and_wait(2) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
        }
    }
    let results: Vec<i32> = ring.completion().map(|done| done.result()).collect();
    match results[..] {
        [_, result] => result,
        _ => unreachable!("there are two requests: {results:?}"),
    }
}

fn eventfd() -> File {
    // SAFETY: the call touches no memory, and returns a new descriptor.
    let event = unsafe { new_descriptor(libc::eventfd(0, libc::EFD_CLOEXEC)) };
    event.unwrap().into()
}

/// Work for the running thread at each tick of the clock.
struct Ticks;

impl Ticks {
    fn begin() -> Self {
        let ignored = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: nobody in the race's process wants the signal.
        unsafe { sigaction(Signal::SIGPROF, &ignored) }.unwrap();
        // An interval that is shorter than a tick expires at each tick.
        set_timer(libc::ITIMER_PROF, 1);
        Self
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        set_timer(libc::ITIMER_PROF, 0);
    }
}
