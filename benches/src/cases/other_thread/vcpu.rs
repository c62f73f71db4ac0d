//! The thread of the vCPU.

use std::cell::Cell;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::thread::Thread;

use anyhow::{Context, Result, bail};
use kvm_api::{Errno, Reason, Vcpu};
use kvm_bindings::kvm_run;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::{Kick, Request, Shared};
use crate::fixture::Fixture;
use crate::form::StaticForm;
use crate::guest::{INTERRUPTED, VECTOR};

/// The signal that stops the vCPU, unless a call does.
pub const SIGNAL: Signal = Signal::SIGUSR1;

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs, for the handler.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

extern "C" fn on_signal(_: libc::c_int) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: it is mapped until this thread sets the pointer to null.
        unsafe { &*flag }.store(1, SeqCst);
    }
}

/// Installs the handler, as VMMs do: the signal ends a run, or the next run if it arrives
/// just before one.
///
/// # Errors
///
/// Those of sigaction(2).
pub fn handle_signal() -> Result<()> {
    let handler = SigHandler::Handler(on_signal);
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only stores a byte.
    unsafe { sigaction(SIGNAL, &action) }.context("sigaction")?;
    Ok(())
}

/// A second mapping of the first page of the run mapping, for the handler.
struct Flag(NonNull<libc::c_void>);

/// The size of a page, in bytes.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("not 0");

impl Flag {
    fn new(vcpu: BorrowedFd<'_>) -> Result<Self> {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the address, so no mapping is replaced.
        let page = unsafe { mmap(None, PAGE, prot, MapFlags::MAP_SHARED, vcpu, 0) };
        let page = page.context("mmap of the vCPU")?;
        // SAFETY: the field lies within the page.
        let flag = unsafe { page.byte_add(offset_of!(kvm_run, immediate_exit)) };
        IMMEDIATE_EXIT.set(flag.as_ptr().cast());
        Ok(Self(page))
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null());
        // SAFETY: nothing refers to the page any more.
        let _ = unsafe { munmap(self.0, PAGE.get()) };
    }
}

/// The start of the vCPU's thread.
pub struct VcpuThread {
    pub(super) shared: Arc<Shared>,
    pub(super) kick: Kick,
    /// The thread that waits for completed requests.
    pub(super) requester: Thread,
}

impl VcpuThread {
    /// Makes a vCPU, sends the descriptor by which to kick it, and runs it until the request
    /// to end.
    pub fn serve<B: StaticForm>(self, started: &Sender<OwnedFd>) -> Result<()> {
        let form = B::open()?;
        let mut f = Fixture::with_code(&form, INTERRUPTED)?;
        let (target, _flag) = match self.kick {
            Kick::Signal => (pidfd()?, Some(Flag::new(f.vcpu.as_fd())?)),
            Kick::Vcpu(_) => (f.vcpu.as_fd().try_clone_to_owned()?, None),
            Kick::Pidfd(_) => (pidfd()?, None),
        };
        started.send(target)?;
        loop {
            self.shared.entries.fetch_add(1, SeqCst);
            self.requester.unpark();
            match f.vcpu.kvm_run(&mut f.run) {
                Ok(exit) => match exit.reason() {
                    // The handler has run.
                    Reason::Io { .. } => self.done(),
                    other => bail!("the guest exits with {other:?}"),
                },
                Err(Errno::EINTR) => {
                    f.run.set_immediate_exit(false);
                    match self.shared.request.swap(0, SeqCst) {
                        it if it == Request::Stop as u32 => self.done(),
                        it if it == Request::Interrupt as u32 => {
                            f.vcpu.kvm_interrupt(VECTOR).context("kvm_interrupt")?
                        }
                        it if it == Request::End as u32 => return Ok(()),
                        _ => {}
                    }
                }
                Err(error) => return Err(error).context("kvm_run"),
            }
        }
    }

    fn done(&self) {
        self.shared.done.fetch_add(1, SeqCst);
        self.requester.unpark();
    }
}

/// A pidfd of the calling thread.
fn pidfd() -> Result<OwnedFd> {
    // SAFETY: the call touches no memory, and nothing else owns the descriptor.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, libc::gettid(), libc::PIDFD_THREAD);
        let fd = Errno::result(fd).context("pidfd_open")?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}
