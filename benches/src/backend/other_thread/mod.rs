//! What another thread wants of a vcpu that runs: that it stop, or that it take
//! an interrupt.
//!
//! What is measured begins with the request and ends when the thread that made it
//! knows that it is done: that the vcpu's thread is back in user space, or that
//! the guest's handler has run. KVM gives an interrupt to a vcpu that does not
//! run only, so that the vcpu is stopped first, and its own thread does it. (With
//! interrupt controllers in the kernel, nobody need be stopped for that.)

mod vcpu;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use kvm_api::bound;
use kvm_api::syscall::Syscall;
use nix::sys::pthread::pthread_kill;

use self::vcpu::VcpuThread;
use super::form::StaticForm;
use crate::workload::Workload;

/// How long to wait for the other thread.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a vcpu has to get into its guest, once its thread is about to run it.
const HEAD_START: Duration = Duration::from_micros(200);

/// What a vcpu's thread is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// To be back in user space.
    Stop = 1,
    /// To have its guest take an interrupt.
    Interrupt,
    /// To end.
    End,
}

/// How a thread stops a vcpu that another one runs.
#[derive(Clone, Copy)]
pub enum Kick {
    /// By a signal, whose handler sets `immediate_exit`, as VMMs do.
    Signal,
    /// By a call on the thread's pidfd.
    Pidfd(Syscall),
}

/// What the two threads have in common.
#[derive(Default)]
struct Shared {
    /// A [`Request`], or 0.
    request: AtomicU32,
    /// How often the vcpu's thread was about to run it.
    entries: AtomicU32,
    /// How many requests are done.
    done: AtomicU32,
}

/// A vcpu that another thread runs, and a request of it.
pub struct OtherThread {
    shared: Arc<Shared>,
    kick: Kick,
    request: Request,
    thread: Option<JoinHandle<Result<()>>>,
    pidfd: OwnedFd,
}

impl OtherThread {
    pub fn new<B: StaticForm + 'static>(kick: Kick, request: Request) -> Result<Self> {
        vcpu::handle_signal()?;
        let shared = Arc::new(Shared::default());
        let (started, start) = mpsc::channel();
        let vcpu = VcpuThread {
            shared: Arc::clone(&shared),
            requester: thread::current(),
        };
        let thread = thread::spawn(move || vcpu.serve::<B>(&started));
        let Ok(pidfd) = start.recv_timeout(PATIENCE) else {
            if !thread.is_finished() {
                bail!("the vcpu's thread does not begin");
            }
            let ended = thread.join().map_err(|_| anyhow!("it panicked"));
            return Err(match ended {
                Ok(Err(error)) | Err(error) => error.context("the vcpu's thread"),
                Ok(Ok(())) => anyhow!("the vcpu's thread ended"),
            });
        };
        Ok(Self {
            shared,
            kick,
            request,
            thread: Some(thread),
            pidfd,
        })
    }

    fn ask(&self, request: Request) {
        self.shared.request.store(request as u32, SeqCst);
        match self.kick {
            Kick::Signal => {
                let thread = self.thread.as_ref().expect("it is joined at the end only");
                pthread_kill(thread.as_pthread_t(), vcpu::SIGNAL).unwrap();
            }
            Kick::Pidfd(flat) => bound::kick(flat, self.pidfd.as_fd()).unwrap(),
        }
    }
}

/// Waits until `done`, or for too long.
fn wait(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what} for {PATIENCE:?}");
        thread::park_timeout(PATIENCE);
    }
}

impl Workload for OtherThread {
    fn apart(&self) -> bool {
        true
    }

    /// Lets the vcpu get into its guest.
    fn before(&mut self) {
        let entries = self.shared.entries.swap(0, SeqCst);
        if entries == 0 {
            wait("the vcpu is not run", || {
                self.shared.entries.load(SeqCst) != 0
            });
        }
        thread::sleep(HEAD_START);
    }

    fn call(&mut self) {
        let before = self.shared.done.load(SeqCst);
        self.ask(self.request);
        wait("the vcpu does not answer", || {
            self.shared.done.load(SeqCst) != before
        });
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        let done = self.shared.done.load(SeqCst);
        ensure!(u64::from(done) == calls, "{done} of {calls} requests done");
        Ok(())
    }
}

impl Drop for OtherThread {
    fn drop(&mut self) {
        self.ask(Request::End);
        if let Some(thread) = self.thread.take() {
            // What it may have failed of has been seen as a request not done.
            let _ = thread.join();
        }
    }
}
