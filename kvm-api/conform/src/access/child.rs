//! A child process, for changes that cannot be undone.

use std::any::Any;
use std::fs::File;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, anyhow, ensure};
use guests::NODE;
use kvm_api::Errno;
use kvm_api::kvm_sys::FlatCall;
use nix::sys::prctl::set_dumpable;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, alarm, fork, setgroups, setresgid, setresuid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::arguments::{Arguments, CallResult};

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

/// The user `nobody`.
pub const NOBODY: u32 = 65534;

/// Becomes a user without privileges, in these groups.
pub fn become_user(user: u32, group: u32, supplementary: &[u32]) -> Result<()> {
    let supplementary: Vec<_> = supplementary.iter().copied().map(Gid::from_raw).collect();
    setgroups(&supplementary)?;
    let (group, user) = (Gid::from_raw(group), Uid::from_raw(user));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    // Otherwise root owns the files of the process in /proc.
    Ok(set_dumpable(true)?)
}

/// Creates a VM, by opening `/dev/kvm` and an ioctl, and by `kvm_create_vm`.
/// Returns the result, which must be the same.
pub fn create_vm() -> Result<CallResult> {
    let (call, mut arguments) = (FlatCall::kvm_create_vm, Arguments::new()?);
    let by_ioctl = match File::options().read(true).write(true).open(NODE) {
        Ok(node) => arguments.ioctl(call, node.as_raw_fd(), 0),
        Err(error) => error
            .raw_os_error()
            .map(Errno::from_raw)
            .map(CallResult::refused),
    };
    let flat = arguments.flat(call, 0);
    ensure!(
        Some(flat) == by_ioctl,
        "kvm_create_vm gives {flat:?}, {NODE} by ioctl {by_ioctl:?}"
    );
    Ok(flat)
}
