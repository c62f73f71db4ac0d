//! A child process, for changes that cannot be undone.

use std::any::Any;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::requests::new_descriptor;

/// The time limit of a child, in seconds.
const LIMIT: u32 = 60;

pub struct Child {
    pid: Pid,
    result: PipeReader,
}

/// Starts a child that does `work`.
pub fn start<T: Serialize>(work: impl FnOnce() -> Result<T>) -> Result<Child> {
    let (result, mut sender) = pipe()?;
    // SAFETY: this process has no other thread, so the child may do anything that the
    // parent may do. It ends without unwinding.
    match unsafe { fork() }? {
        ForkResult::Child => {
            alarm::set(LIMIT);
            let done = catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|panic| Err(anyhow!("{}", message(&*panic))))
                .map_err(|error| format!("{error:#}"));
            let sent = serde_json::to_vec(&done)
                .map_err(anyhow::Error::from)
                .and_then(|text| Ok(sender.write_all(&text)?));
            // SAFETY: the exit touches nothing of the parent.
            unsafe { libc::_exit(sent.is_err().into()) }
        }
        ForkResult::Parent { child: pid } => Ok(Child { pid, result }),
    }
}

impl Child {
    /// Waits for the result of the work.
    pub fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        let mut json = Vec::new();
        self.result.read_to_end(&mut json)?;
        let status = waitpid(self.pid, None)?;
        ensure!(
            matches!(status, WaitStatus::Exited(_, 0)),
            "the child ends with {status:?}"
        );
        let done: Result<T, String> =
            serde_json::from_slice(&json).context("the result of the child")?;
        done.map_err(|error| anyhow!("in the child: {error}"))
    }
}

/// Does `work` in a child, and waits for it.
pub fn run<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    start(work)?.finish()
}

/// The status of a child, if it has ended.
pub fn ended(child: Pid) -> nix::Result<Option<WaitStatus>> {
    let status = waitpid(child, Some(WaitPidFlag::WNOHANG))?;
    Ok((status != WaitStatus::StillAlive).then_some(status))
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
    open_pidfd(process, 0)
}

/// A pidfd of a thread.
pub fn pidfd_of_thread(thread: Pid) -> Result<OwnedFd> {
    open_pidfd(thread.as_raw() as u32, libc::PIDFD_THREAD)
}

fn open_pidfd(id: u32, flags: libc::c_uint) -> Result<OwnedFd> {
    // SAFETY: the call touches no memory, and returns a new descriptor.
    let fd = unsafe { new_descriptor(libc::syscall(libc::SYS_pidfd_open, id, flags)) };
    fd.context("pidfd_open")
}
