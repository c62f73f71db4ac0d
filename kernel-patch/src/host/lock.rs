//! Locks on directories. One process builds at a time. Machines run at the same time, but
//! not while another process builds their kernel.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

use super::error::{HostError, IoContext, Result};
use crate::host::interrupt;

/// The interval at which a process that waits polls.
const STEP: Duration = Duration::from_millis(200);

/// A lock on a directory, until the value is dropped or its process dies.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Takes the lock of a process that uses a build.
    pub(crate) fn shared(dir: &Path, wait: bool) -> Result<Self> {
        Self::take(dir, wait, File::try_lock_shared)
    }

    /// Takes the lock of a process that uses a build, unless another process builds there.
    pub(crate) fn try_shared(dir: &Path) -> Result<Option<Self>> {
        unless_locked(Self::shared(dir, false))
    }

    /// Takes the lock of a process that builds, unless another process builds there or uses
    /// the build.
    pub(crate) fn try_exclusive(dir: &Path) -> Result<Option<Self>> {
        unless_locked(Self::exclusive(dir, false))
    }

    /// Takes the lock of a process that builds.
    pub(crate) fn exclusive(dir: &Path, wait: bool) -> Result<Self> {
        let Self(mut file) = Self::take(dir, wait, File::try_lock)?;
        let signed = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", process::id()));
        signed.cannot("write in", dir)?;
        Ok(Self(file))
    }

    fn take(dir: &Path, wait: bool, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Self> {
        let path = dir.join("lock");
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = options.open(&path).cannot("open", &path)?;
        let mut is_first = true;
        loop {
            match lock(&file) {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(error)) => return Err(error).cannot("lock", dir),
                Err(TryLockError::WouldBlock) => {}
            }
            if !wait {
                return Err(HostError::Locked(holder(&mut file), dir.into()));
            }
            if is_first {
                let holder = holder(&mut file);
                eprintln!("kernel-patch: waiting: {holder} in {}", dir.display());
                is_first = false;
            }
            interrupt::check()?;
            thread::sleep(STEP);
        }
    }
}

/// Turns the error of a taken lock into `None`.
fn unless_locked(lock: Result<Lock>) -> Result<Option<Lock>> {
    match lock {
        Ok(lock) => Ok(Some(lock)),
        Err(HostError::Locked(..)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Describes the process that holds the lock: one that builds, or one that runs a machine.
fn holder(file: &mut File) -> String {
    let shared = file.try_lock_shared().is_ok();
    if shared {
        let _ = file.unlock();
        return "a machine is running with the kernel".into();
    }
    let mut pid = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut pid));
    match read {
        Ok(1..) => format!("another kernel-patch (pid {pid}) is building"),
        _ => "another kernel-patch is building".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let _builder = Lock::exclusive(dir.path(), false).unwrap();
        let expected = format!(
            "another kernel-patch (pid {}) is building in {}; wait until it ends, or pass --wait",
            process::id(),
            dir.path().display()
        );
        for lock in [Lock::shared, Lock::exclusive] {
            assert_eq!(lock(dir.path(), false).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn machines_share() {
        let dir = tempfile::tempdir().unwrap();
        let one = Lock::shared(dir.path(), false).unwrap();
        let two = Lock::shared(dir.path(), false).unwrap();
        let error = Lock::exclusive(dir.path(), false).unwrap_err().to_string();
        assert!(
            error.starts_with("a machine is running with the kernel in"),
            "{error}"
        );
        assert!(Lock::try_shared(dir.path()).unwrap().is_some());
        assert!(Lock::try_exclusive(dir.path()).unwrap().is_none());
        drop((one, two));
        Lock::exclusive(dir.path(), false).unwrap();
    }

    #[test]
    fn waiting_comes_to_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::exclusive(dir.path(), false).unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| Lock::shared(dir.path(), true).map(drop));
            thread::sleep(STEP);
            drop(first);
            second.join().unwrap().unwrap();
        });
    }
}
