//! The results of calls before, during and after the time that KVM is loaded.

use std::fs::File;
use std::io::pipe;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::{Result, bail, ensure};
use guests::TestVm;
use kvm_api::kvm_sys::*;
use kvm_api::syscall::{OpenError, Syscall};
use kvm_api::{Errno, Kvm};
use nix::unistd::dup2_raw;

use super::loading::{self, KVM, VENDOR};
use crate::arguments::{Arguments, CallResult, machine};
use crate::trait_calls::complete_forms;

/// A file descriptor that is not open, because it is above all limits.
pub const CLOSED: RawFd = RawFd::MAX;

/// Each call returns `ENOSYS`, whatever its arguments are, and so does the
/// backend.
pub fn refused() -> Result<()> {
    let (reader, _writer) = pipe()?;
    let null = File::open("/dev/null")?;
    let fds = [-1, CLOSED, reader.as_raw_fd(), null.as_raw_fd()];
    each_refuses(&fds, FlatCall::ALL, Errno::ENOSYS)?;
    match Syscall::open() {
        Err(OpenError::Missing { .. }) => Ok(()),
        other => bail!("Syscall::open() gives {other:?}"),
    }
}

/// Asserts that calls with valid arguments refuse each of the descriptors.
fn each_refuses(
    fds: &[RawFd],
    calls: impl IntoIterator<Item = FlatCall> + Clone,
    errno: Errno,
) -> Result<()> {
    let mut arguments = Arguments::new()?;
    for &fd in fds {
        for call in calls.clone() {
            let answer = arguments.flat(call, fd);
            ensure!(
                answer == CallResult::refused(errno),
                "{} of {fd} gives {answer:?}, not {errno:?}",
                call.name
            );
        }
    }
    Ok(())
}

/// kvm.ko alone is not enough: the vendor's module registers the calls after it
/// has created `/dev/kvm`.
pub fn without_vendor() -> Result<()> {
    loading::load("irqbypass")?;
    loading::load(KVM)?;
    refused()?;
    ensure!(loading::references(KVM)? == 0, "a refused call holds kvm");
    // Unloading kvm.ko alone must not unregister anything.
    loading::unload(KVM)?;
    refused()
}

/// With all modules loaded, each call works on the objects of either interface.
pub fn loaded() -> Result<()> {
    loading::load_all()?;
    let before = loading::references(VENDOR)?;
    for form in complete_forms() {
        each_works(&*form.open()?)?;
    }
    files_of_others()?;
    loading::settle(VENDOR, before)?;
    loading::unload(VENDOR)?;
    refused()?;
    loading::unload(KVM)?;
    refused()
}

fn each_works(kvm: &dyn Kvm) -> Result<()> {
    let machine = machine(kvm);
    let mut arguments = Arguments::new()?;
    for call in FlatCall::ALL {
        let fd = match call.fd {
            Fd::Vcpu => machine.vcpu().as_raw_fd(),
            _ => machine.vm.as_raw_fd(),
        };
        let answer = arguments.flat(call, fd);
        ensure!(answer.succeeds(call), "{} gives {answer:?}", call.name);
    }
    Ok(())
}

/// The result for a file that is not KVM's differs from the result without KVM.
fn files_of_others() -> Result<()> {
    let (reader, _writer) = pipe()?;
    each_refuses(&[CLOSED], calls_on_files(), Errno::EBADF)?;
    each_refuses(&[reader.as_raw_fd()], calls_on_files(), Errno::ENOTTY)
}

/// The calls that take a file descriptor.
pub fn calls_on_files() -> impl Iterator<Item = FlatCall> + Clone {
    FlatCall::ALL.into_iter().filter(|call| call.fd != Fd::None)
}

/// A descriptor number of KVM is refused after another file has taken it, whether
/// KVM is unloaded or was loaded a second time.
pub fn stale() -> Result<()> {
    // Opened first, to have another number.
    let null = File::open("/dev/null")?;
    loading::load_all()?;
    let kvm = Syscall::open()?;
    let TestVm { vm, vcpu, .. } = TestVm::new(&kvm);
    let numbers = [vm.as_raw_fd(), vcpu.as_fd().as_raw_fd()];
    drop((vm, vcpu));
    loading::unload_soon(VENDOR)?;
    each_refuses(&numbers, FlatCall::ALL, Errno::ENOSYS)?;
    // SAFETY: the number is free: it was closed above, and all files that were
    // opened since are closed, too.
    let reused = numbers.map(|number| unsafe { dup2_raw(&null, number) });
    each_refuses(&numbers, FlatCall::ALL, Errno::ENOSYS)?;
    loading::load(VENDOR)?;
    each_refuses(&numbers, calls_on_files(), Errno::ENOTTY)?;
    reused.into_iter().try_for_each(|fd| Ok(fd.map(drop)?))
}
