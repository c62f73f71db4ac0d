//! The user of a process, and whether it may create a virtual machine.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use guests::NODE;
use kvm_api::Errno;
use kvm_api::kvm_sys::{__NR_kvm_create_bound_vm, __NR_kvm_unbind_vm, FlatCall};
use nix::sys::prctl::set_dumpable;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::arguments::{Arguments, CallResult};

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

/// Creates a VM, by opening `/dev/kvm` and an ioctl, by `kvm_create_vm`, and by
/// `kvm_create_bound_vm`. Returns the result, which must be the same.
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
    // SAFETY: the calls touch no memory. The process has no other VM.
    let bound = unsafe {
        let created = libc::syscall(__NR_kvm_create_bound_vm);
        let created = CallResult::from(Errno::result(created));
        libc::syscall(__NR_kvm_unbind_vm);
        created
    };
    ensure!(
        bound == flat,
        "kvm_create_bound_vm gives {bound:?}, not {flat:?}"
    );
    Ok(flat)
}
