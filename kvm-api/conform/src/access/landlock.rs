//! Landlock restricts the files that a process opens, and ioctls on devices. It
//! must restrict the calls in the same way.

use std::fs::File;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use kvm_api::Errno;
use kvm_api::kvm_sys::{Fd, FlatCall};
use nix::sys::prctl::set_no_new_privs;

use super::NamedCase;
use super::creators::{DONE, REFUSED};
use super::user::create_vm;
use crate::arguments::Arguments;
use crate::child;
use crate::requests::new_descriptor;

pub const CASES: &[NamedCase] = &[
    ("Landlock, ioctls of devices", no_ioctls),
    ("Landlock, reading and writing files", no_files),
];

/// The rights that a process gives up, by the kernel's numbers.
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const IOCTL_DEV: u64 = 1 << 15;

fn no_ioctls() -> Result<()> {
    child::run(|| {
        let before = device()?;
        restrict(IOCTL_DEV)?;
        let after = device()?;
        let mut arguments = Arguments::new()?;
        let taking = FlatCall::ALL.into_iter();
        let taking: Vec<_> = taking.filter(|call| call.fd == Fd::System).collect();
        ensure!(taking.len() == 3, "{} calls take /dev/kvm", taking.len());
        for call in taking {
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
                bound == (Some(REFUSED), REFUSED),
                "{} of a file from within gives {bound:?}",
                call.name
            );
        }
        refused()?;
        may_with(&before)
    })
}

/// A process that may not open files keeps the open ones.
fn no_files() -> Result<()> {
    for given_up in [READ_FILE, WRITE_FILE, READ_FILE | WRITE_FILE] {
        child::run(|| {
            let before = device()?;
            restrict(given_up)?;
            refused()?;
            may_with(&before)
        })?;
    }
    Ok(())
}

fn refused() -> Result<()> {
    let answer = create_vm()?;
    ensure!(answer == REFUSED, "creating a VM gives {answer:?}");
    Ok(())
}

/// Asserts that a file that was opened before can create a VM.
fn may_with(before: &File) -> Result<()> {
    let call = FlatCall::kvm_create_vm;
    let answer = Arguments::new()?.ioctl(call, before.as_raw_fd(), 0);
    ensure!(
        answer == Some(DONE),
        "KVM_CREATE_VM of a file from before gives {answer:?}"
    );
    Ok(())
}

fn device() -> Result<File> {
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    opened.context("/dev/kvm")
}

/// Drops these rights to all files that this process opens from now on.
fn restrict(rights: u64) -> Result<()> {
    let (create, size) = (libc::SYS_landlock_create_ruleset, size_of::<u64>());
    // SAFETY: the structure is one word long in its first version, and copied. The call
    // returns a new descriptor.
    let rules = unsafe { new_descriptor(libc::syscall(create, &rights, size, 0)) }?;
    set_no_new_privs()?;
    let (restrict, fd) = (libc::SYS_landlock_restrict_self, rules.as_raw_fd());
    // SAFETY: the call touches no memory.
    Errno::result(unsafe { libc::syscall(restrict, fd, 0) })?;
    Ok(())
}
