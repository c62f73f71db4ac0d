//! Landlock, which decides about the ioctls of devices that a process opens: it
//! decides about the calls that take the file of `/dev/kvm` likewise.

use std::fs::File;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use kvm_api::Errno;
use kvm_api::kvm_sys::{CALLS, Fd};
use nix::sys::prctl::set_no_new_privs;

use super::Case;
use super::child::{self, create_vm};
use crate::arguments::{Answer, Arguments, call};

pub const CASES: &[Case] = &[("Landlock", sandboxed)];

fn sandboxed() -> Result<()> {
    child::run(|| {
        let before = device()?;
        restrict()?;
        let after = device()?;
        let refused = Answer::refused(Errno::EACCES);
        let mut arguments = Arguments::new()?;
        let mut tried = 0;
        for call in CALLS.iter().filter(|call| call.fd == Fd::System) {
            let [free, bound] = [&before, &after].map(AsRawFd::as_raw_fd).map(|fd| {
                let ioctl = arguments.ioctl(call, fd, 0);
                (ioctl, arguments.flat(call, fd))
            });
            ensure!(
                free.1.number().is_some() && free.0 == Some(free.1),
                "{} of a file from before gives {free:?}",
                call.name
            );
            ensure!(
                bound == (Some(refused), refused),
                "{} of a file from within gives {bound:?}",
                call.name
            );
            tried += 1;
        }
        ensure!(tried == 3, "{tried} calls take /dev/kvm");

        // The call that opens no device is none that Landlock hears of. It has
        // another guard.
        let by_ioctl = arguments.ioctl(call("kvm_create_vm"), after.as_raw_fd(), 0);
        ensure!(
            by_ioctl == Some(refused),
            "KVM_CREATE_VM gives {by_ioctl:?}"
        );
        let flat = create_vm()?;
        ensure!(flat == Answer::DONE, "kvm_create_vm gives {flat:?}");
        Ok(())
    })
}

fn device() -> Result<File> {
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    opened.context("/dev/kvm")
}

/// Leaves this process no ioctl of a device that it opens from now on.
fn restrict() -> Result<()> {
    const LANDLOCK_ACCESS_FS_IOCTL_DEV: u64 = 1 << 15;
    let handled = LANDLOCK_ACCESS_FS_IOCTL_DEV;
    let (create, size) = (libc::SYS_landlock_create_ruleset, size_of::<u64>());
    // SAFETY: the structure is one word long in its first version, and copied.
    let fd = Errno::result(unsafe { libc::syscall(create, &handled, size, 0) })?;
    // SAFETY: it is a new file descriptor.
    let rules = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    set_no_new_privs()?;
    let (restrict, fd) = (libc::SYS_landlock_restrict_self, rules.as_raw_fd());
    // SAFETY: the call touches no memory.
    Errno::result(unsafe { libc::syscall(restrict, fd, 0) })?;
    Ok(())
}
