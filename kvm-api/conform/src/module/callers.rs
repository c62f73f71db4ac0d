//! Threads that make calls while KVM is loaded and unloaded.

use std::fs::File;
use std::io::pipe;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kvm_api::Errno;
use kvm_api::kvm_sys::*;
use nix::unistd::dup2_raw;

use super::absent::{CLOSED, calls_on_files};
use crate::arguments::Arguments;

const PAUSE: Duration = Duration::from_millis(2);
/// After this many VMs, a pause lasts until KVM is unloaded.
const LONG: u64 = 8;

#[derive(Default)]
pub struct Callers {
    /// Tells them to end.
    pub done: AtomicBool,
    /// How often KVM was unloaded, and how often it was loaded.
    pub absent: AtomicU64,
    pub present: AtomicU64,
    /// The number of virtual machines that were created.
    pub made: AtomicU64,
    /// Whether a thread tries to unload KVM.
    pub unloading: AtomicBool,
}

impl Callers {
    /// Makes each call on files that are not KVM's, and on `shifting`, which
    /// alternates between a virtual machine and a pipe.
    pub fn call_all(&self, shifting: RawFd) -> Result<()> {
        let (reader, _writer) = pipe()?;
        let null = File::open("/dev/null")?;
        let mut arguments = Arguments::new()?;
        let files = [
            (CLOSED, Some(Errno::EBADF)),
            (reader.as_raw_fd(), Some(Errno::ENOTTY)),
            (null.as_raw_fd(), Some(Errno::ENOTTY)),
            (shifting, None),
        ];
        while !self.done.load(Relaxed) {
            for (fd, errno) in files {
                for call in calls_on_files() {
                    let answer = arguments.flat(call, fd);
                    let (good, present) = match (answer.errno(), errno) {
                        (Some(Errno::ENOSYS), _) => (true, false),
                        (found, Some(errno)) => (found == Some(errno), true),
                        // The result of a virtual machine, or of the pipe.
                        (Some(found), None) => (documented(&call, found), true),
                        (None, None) => (call.fd != Fd::Vcpu, true),
                    };
                    ensure!(good, "{} of {fd} gives {answer:?}", call.name);
                    self.count(present);
                    self.probe()?;
                }
            }
        }
        Ok(())
    }

    /// Makes a call of KVM without a file.
    fn probe(&self) -> Result<()> {
        // SAFETY: the call touches no memory.
        let answer = unsafe { libc::syscall(__NR_kvm_check_extension, -1, KVM_CAP_SYSCALLS) };
        let errno = Errno::result(answer).err();
        match (answer, errno) {
            (_, Some(Errno::ENOSYS)) => self.count(false),
            (answer, None) if answer == i64::from(KVM_SYSCALLS_ABI) => self.count(true),
            _ => bail!("the probe gives {answer}, {errno:?}"),
        }
        Ok(())
    }

    /// Creates virtual machines, which keep KVM loaded, and moves each to the
    /// number `shifting`, which is a pipe before and after.
    pub fn make(&self, shifting: RawFd) -> Result<()> {
        let (reader, _writer) = pipe()?;
        let mut arguments = Arguments::new()?;
        while !self.done.load(Relaxed) {
            // SAFETY: the call touches no memory.
            let answer = unsafe { libc::syscall(__NR_kvm_create_vm) };
            match Errno::result(answer) {
                Ok(vm) => {
                    let vm = vm as RawFd;
                    shift(vm, shifting)?;
                    // SAFETY: only this thread has the number.
                    unsafe { libc::close(vm) };
                    let size = arguments.flat(FlatCall::kvm_get_vcpu_mmap_size, shifting);
                    ensure!(size.number() > Some(0), "the size for a VM is {size:?}");
                    sleep(PAUSE);
                    shift(reader.as_raw_fd(), shifting)?;
                    self.made.fetch_add(1, Relaxed);
                }
                Err(Errno::ENOSYS) => self.count(false),
                Err(errno) => bail!("kvm_create_vm gives {errno}"),
            }
            // The pauses with and without a VM have the same length.
            sleep(PAUSE);
            // In each of them, the scheduler may leave another thread in the middle
            // of a call, so that some last until KVM is unloaded.
            if self.made.load(Relaxed).is_multiple_of(LONG) {
                while self.unloading.load(Relaxed) {
                    sleep(PAUSE);
                }
            }
        }
        Ok(())
    }

    fn count(&self, present: bool) {
        let which = if present { &self.present } else { &self.absent };
        which.fetch_add(1, Relaxed);
    }
}

/// Whether this is a valid result of a call on a virtual machine's file, or on
/// a file that is not KVM's.
fn documented(call: &Call, errno: Errno) -> bool {
    errno == Errno::ENOTTY || call.fd != Fd::Vcpu && call.errors.contains(&errno)
}

/// Replaces the file at the number `to` by that at `from`.
fn shift(from: RawFd, to: RawFd) -> Result<()> {
    // SAFETY: no code expects a particular file at this number.
    Ok(Errno::result(unsafe { libc::dup2(from, to) }).map(drop)?)
}

/// A number for alternating files, with a file that is not KVM's.
pub fn shifting() -> Result<OwnedFd> {
    const NUMBER: RawFd = 200;
    let null = File::open("/dev/null")?;
    // SAFETY: numbers are given from the lowest up, and so many are not open.
    Ok(unsafe { dup2_raw(&null, NUMBER) }?)
}
