//! A child process, for changes that cannot be undone.

use std::any::Any;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, anyhow, ensure};
use kvm_api::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The time limit of a child, in seconds.
const LIMIT: u32 = 60;

/// A running child.
pub struct Child {
    pid: Pid,
    said: PipeReader,
}

/// Starts a child that does `work`.
pub fn start<T: Serialize>(work: impl FnOnce() -> Result<T>) -> Result<Child> {
    let (said, mut say) = pipe()?;
    // SAFETY: this process has no other thread, so the child may do what it
    // could do itself; it leaves without unwinding.
    match unsafe { fork() }? {
        ForkResult::Child => {
            alarm::set(LIMIT);
            let done = catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|panic| Err(anyhow!("{}", message(&*panic))))
                .map_err(|error| format!("{error:#}"));
            let sent = serde_json::to_vec(&done)
                .map_err(anyhow::Error::from)
                .and_then(|text| Ok(say.write_all(&text)?));
            // SAFETY: nothing of the parent's is touched on the way out.
            unsafe { libc::_exit(sent.is_err().into()) }
        }
        ForkResult::Parent { child: pid } => Ok(Child { pid, said }),
    }
}

impl Child {
    /// Waits for the result of the work.
    pub fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        let mut said = Vec::new();
        self.said.read_to_end(&mut said)?;
        let status = waitpid(self.pid, None)?;
        ensure!(
            matches!(status, WaitStatus::Exited(_, 0)),
            "the child ends with {status:?}"
        );
        let done: Result<T, String> = serde_json::from_slice(&said).context("what it said")?;
        done.map_err(|error| anyhow!("in the child: {error}"))
    }
}

/// Does `work` in a child, and waits for it.
pub fn run<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    start(work)?.finish()
}

fn message(panic: &dyn Any) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "it panics",
    }
}

/// A pidfd of a process.
pub fn pidfd(process: u32) -> Result<OwnedFd> {
    // SAFETY: the call touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
    let fd = Errno::result(fd).context("pidfd_open")? as RawFd;
    // SAFETY: it is new.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
