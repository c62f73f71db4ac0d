//! Requests to a vCPU that another thread runs: to stop, or to take an interrupt.
//!
//! The measured call begins with the request. It ends when the requesting thread knows
//! that the vCPU's thread is back in user space, or that the guest's handler has run. KVM
//! delivers an interrupt only to a vCPU that does not run. So the request stops the vCPU,
//! and its own thread delivers the interrupt. (With an interrupt controller in the kernel,
//! no vCPU has to stop for that.)

mod vcpu;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use kvm_api::syscall::Syscall;
use nix::sys::pthread::pthread_kill;

use self::vcpu::VcpuThread;
use crate::case::Case;
use crate::form::StaticForm;
use crate::interface::ways;
use crate::workload::{Prepared, Workload};

/// The ways of the interfaces to make a request.
macro_rules! request_ways {
    ($request:expr) => {
        ways![
            |form, _| request(form, Kick::Signal, $request) => Ioctl;
            |form, _| request(form, Kick::Vcpu(*form), $request) => Syscall;
            |form, _| request(form, Kick::Pidfd(form.0), $request) => Bound;
            |form, _| request(form, Kick::Pidfd(form.0), $request) => Process;
        ]
    };
}

/// The requests.
pub const WORK: &[Case] = &[
    Case::new(
        "kick",
        "another thread's vCPU made to exit",
        request_ways!(Request::Stop),
    ),
    Case::new(
        "interrupt_by_another_thread",
        "an interrupt from another thread",
        request_ways!(Request::Interrupt),
    ),
];

/// The timeout of the other thread.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The time that a vCPU has to enter its guest, once its thread is about to run it.
const HEAD_START: Duration = Duration::from_micros(200);

/// A request to the thread of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Request {
    /// Return to user space.
    Stop = 1,
    /// Deliver an interrupt to the guest.
    Interrupt,
    /// End.
    End,
}

/// The way in which a thread stops a vCPU that another thread runs.
#[derive(Clone, Copy)]
enum Kick {
    /// By a signal whose handler sets `immediate_exit`, as VMMs do.
    Signal,
    /// By a call on the vCPU's descriptor.
    Vcpu(Syscall),
    /// By a call on the thread's pidfd.
    Pidfd(Syscall),
}

/// The state that the two threads share.
#[derive(Default)]
struct Shared {
    /// A [`Request`], or 0.
    request: AtomicU32,
    /// The number of times that the vCPU's thread was about to run it.
    entries: AtomicU32,
    /// The number of completed requests.
    done: AtomicU32,
}

/// A request to a vCPU that another thread runs.
struct OtherThread {
    shared: Arc<Shared>,
    kick: Kick,
    request: Request,
    thread: Option<JoinHandle<Result<()>>>,
    /// The descriptor that the call takes.
    target: OwnedFd,
    /// What did not happen in time. Then nothing is asked any more.
    late: Option<&'static str>,
}

fn request<B: StaticForm + 'static>(_: &B, kick: Kick, request: Request) -> Prepared<'_> {
    Ok(Box::new(OtherThread::new::<B>(kick, request)?))
}

impl OtherThread {
    fn new<B: StaticForm + 'static>(kick: Kick, request: Request) -> Result<Self> {
        vcpu::handle_signal()?;
        let shared = Arc::new(Shared::default());
        let (started, start) = mpsc::channel();
        let vcpu = VcpuThread {
            shared: Arc::clone(&shared),
            kick,
            requester: thread::current(),
        };
        let thread = thread::spawn(move || vcpu.serve::<B>(&started));
        let Ok(target) = start.recv_timeout(PATIENCE) else {
            if !thread.is_finished() {
                bail!("the vCPU's thread does not start");
            }
            return Err(why_ended(thread));
        };
        Ok(Self {
            shared,
            kick,
            request,
            thread: Some(thread),
            target,
            late: None,
        })
    }

    fn ask(&self, request: Request) {
        self.shared.request.store(request as u32, SeqCst);
        match self.kick {
            Kick::Signal => {
                let thread = self.thread.as_ref().expect("it is joined at the end only");
                pthread_kill(thread.as_pthread_t(), vcpu::SIGNAL).unwrap();
            }
            Kick::Vcpu(flat) | Kick::Pidfd(flat) => {
                kvm_api::kick(flat, self.target.as_fd()).unwrap();
            }
        }
    }

    /// Waits until `done`, or notes `what` did not happen in time.
    fn wait(&mut self, what: &'static str, done: impl Fn(&Shared) -> bool) {
        let begin = Instant::now();
        while !done(&self.shared) {
            if begin.elapsed() >= PATIENCE {
                self.late = Some(what);
                return;
            }
            thread::park_timeout(PATIENCE);
        }
    }
}

/// Why the vCPU's thread has ended too early.
pub(super) fn why_ended(thread: JoinHandle<Result<()>>) -> anyhow::Error {
    let ended = thread.join().map_err(|_| anyhow!("it panicked"));
    match ended {
        Ok(Err(error)) | Err(error) => error.context("the vCPU's thread"),
        Ok(Ok(())) => anyhow!("the vCPU's thread ended"),
    }
}

impl Workload for OtherThread {
    fn needs_reset(&self) -> bool {
        true
    }

    /// Waits until the vCPU is in its guest.
    fn before(&mut self) {
        if self.late.is_some() {
            return;
        }
        let entries = self.shared.entries.swap(0, SeqCst);
        if entries == 0 {
            self.wait("the vCPU is not run", |it| it.entries.load(SeqCst) != 0);
        }
        thread::sleep(HEAD_START);
    }

    fn call(&mut self) {
        if self.late.is_some() {
            return;
        }
        let before = self.shared.done.load(SeqCst);
        self.ask(self.request);
        let done = |it: &Shared| it.done.load(SeqCst) != before;
        self.wait("the vCPU does not answer", done);
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        if let Some(what) = self.late {
            return Err(match self.thread.take_if(|it| it.is_finished()) {
                Some(thread) => why_ended(thread),
                None => anyhow!("{what} for {PATIENCE:?}"),
            });
        }
        let done = self.shared.done.load(SeqCst);
        ensure!(u64::from(done) == calls, "{done} of {calls} requests done");
        Ok(())
    }
}

impl Drop for OtherThread {
    fn drop(&mut self) {
        if self.thread.is_none() {
            return;
        }
        self.ask(Request::End);
        if let Some(thread) = self.thread.take() {
            // check() has seen its failure as a missing request.
            let _ = thread.join();
        }
    }
}
