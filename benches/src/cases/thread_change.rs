//! A vCPU that changes threads.
//!
//! Two threads run one vCPU in turn, each on its own processor. The measured call is a run
//! by this thread after a run by the other. By a descriptor, it is `kvm_run` alone. A bound
//! vCPU is bound first, and unbound afterwards, so that the other thread can bind it.
//! Meanwhile the other thread sleeps, because the emulator's clock counts the instructions
//! of all processors.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvm_api::bound::BoundVcpu;
use kvm_api::syscall::Syscall;
use kvm_api::{ByFd, Kvm, RunMapping};
use kvm_bindings::KVM_EXIT_IO;

use super::exits::run_to;
use super::other_thread::{PATIENCE, why_ended};
use crate::case::Case;
use crate::fixture::{Fixture, Guest};
use crate::form::StaticForm;
use crate::guest::{Exit, Mode};
use crate::interface::ways;
use crate::processors::{self, Pinned};
use crate::workload::{Prepared, Workload};

/// A run after another thread has run the vCPU.
pub const WORK: &[Case] = &[Case {
    processors: 2,
    guest: Guest {
        exit: Exit::PioOut,
        mode: Mode::Long,
    },
    ..Case::new(
        "vcpu_changes_threads",
        "a run after another thread's run",
        ways![
            |kvm, guest| prepare(kvm, guest, by_descriptor) => Ioctl, Syscall;
            |form, guest| prepare(&form.0, guest, by_binding) => Bound;
        ],
    )
}];

/// The time that the other thread has to go to sleep after its run.
const REST: Duration = Duration::from_micros(200);

#[inline(always)]
fn by_descriptor<K: Kvm>(kvm: &K, vcpu: BorrowedFd<'_>, run: &mut RunMapping) {
    run_to(&ByFd::new(kvm, vcpu), run, KVM_EXIT_IO);
}

#[inline(always)]
fn by_binding(flat: &Syscall, vcpu: BorrowedFd<'_>, run: &mut RunMapping) {
    run_to(&BoundVcpu::bind(*flat, vcpu).unwrap(), run, KVM_EXIT_IO);
}

/// The vCPU that changes threads, with the part of this thread.
struct ThreadChange<'b, B: StaticForm, R> {
    fixture: Fixture<'b, B>,
    mode: Mode,
    run: R,
    other: OtherThread,
    /// The processor of this thread. It stays there only from the preparation of a call to
    /// its end, so that several cases can exist at a time.
    processor: usize,
    pinned: Option<Pinned>,
    /// Why a call could not be prepared. After that, nothing is run any more.
    failure: Option<anyhow::Error>,
}

/// The thread that has the other part. It sleeps unless it is asked for a run.
struct OtherThread {
    /// `None` when the thread is to end.
    asks: Option<Sender<()>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<Result<()>>>,
}

fn prepare<B, R>(form: &B, guest: Guest, run: R) -> Prepared<'_>
where
    B: StaticForm + 'static,
    R: Fn(&B::Kvm, BorrowedFd<'_>, &mut RunMapping) + Copy + Send + 'static,
{
    let fixture = Fixture::with_guest(form, guest)?;
    let [here, there, ..] = processors::allowed()?[..] else {
        bail!("this thread has only one processor");
    };
    Ok(Box::new(ThreadChange {
        other: OtherThread::new::<B, R>(&fixture, there, run)?,
        fixture,
        mode: guest.mode,
        run,
        processor: here,
        pinned: None,
        failure: None,
    }))
}

impl<B: StaticForm, R> ThreadChange<'_, B, R> {
    /// Moves the vCPU to the other thread, and this thread to its own processor.
    fn move_away(&mut self) -> Result<()> {
        self.pinned = Some(Pinned::to(self.processor)?);
        self.other.run()?;
        thread::sleep(REST);
        Ok(())
    }
}

impl<B, R> Workload for ThreadChange<'_, B, R>
where
    B: StaticForm,
    R: Fn(&B::Kvm, BorrowedFd<'_>, &mut RunMapping),
{
    fn needs_reset(&self) -> bool {
        true
    }

    fn before(&mut self) {
        if self.failure.is_none() {
            self.failure = self.move_away().err();
        }
    }

    fn call(&mut self) {
        if self.failure.is_none() {
            let f = &mut self.fixture;
            (self.run)(f.form.kvm(), f.vcpu.as_fd(), &mut f.run);
        }
    }

    fn after(&mut self) {
        self.pinned = None;
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        // One by each thread.
        self.fixture.check_rounds(self.mode, 2 * calls)
    }
}

impl OtherThread {
    /// Starts the thread on a processor.
    fn new<B, R>(fixture: &Fixture<'_, B>, processor: usize, run: R) -> Result<Self>
    where
        B: StaticForm + 'static,
        R: Fn(&B::Kvm, BorrowedFd<'_>, &mut RunMapping) + Send + 'static,
    {
        let vcpu = fixture.vcpu.as_fd().try_clone_to_owned()?;
        let size = fixture.kvm().kvm_get_vcpu_mmap_size(fixture.vm());
        let size = size.context("kvm_get_vcpu_mmap_size")?;
        let mut mapping = RunMapping::new(vcpu.as_fd(), size).context("mmap of the vCPU")?;
        let (asks, asked) = mpsc::channel();
        let (doing, done) = mpsc::channel();
        let serve = move || {
            let _pinned = Pinned::to(processor)?;
            let form = B::open()?;
            for () in asked {
                run(form.kvm(), vcpu.as_fd(), &mut mapping);
                doing.send(())?;
            }
            Ok(())
        };
        Ok(Self {
            asks: Some(asks),
            done,
            thread: Some(thread::spawn(serve)),
        })
    }

    /// Has the thread run the vCPU once.
    fn run(&mut self) -> Result<()> {
        let asks = self.asks.as_ref().expect("it ends with a drop");
        // If nobody receives this, nobody answers.
        let _ = asks.send(());
        match (self.done.recv_timeout(PATIENCE), self.thread.take()) {
            (Ok(()), thread) => {
                self.thread = thread;
                Ok(())
            }
            (Err(RecvTimeoutError::Disconnected), Some(thread)) => Err(why_ended(thread)),
            // Nor will anybody wait for its end.
            _ => bail!("the other thread does not run the vCPU for {PATIENCE:?}"),
        }
    }
}

impl Drop for OtherThread {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            // A failure would have been an answer that did not come.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ends_early_says_why() {
        let (asks, asked) = mpsc::channel();
        let (doing, done) = mpsc::channel();
        let fail = move || {
            drop((asked, doing));
            bail!("no vCPU")
        };
        let mut other = OtherThread {
            asks: Some(asks),
            done,
            thread: Some(thread::spawn(fail)),
        };
        let error = other.run().unwrap_err();
        assert_eq!(format!("{error:#}"), "the vCPU's thread: no vCPU");
    }
}
