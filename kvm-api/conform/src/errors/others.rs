//! Virtual machines that refuse all calls of this process: another process owns
//! one, and KVM has given up the other.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use guests::TestVm;
use kvm_api::kvm_sys::KVM_SMI;
use kvm_api::{Errno, Kvm};

use crate::child;
use crate::passing::{receive, send};

/// The file descriptors of a virtual machine and its vCPU.
pub struct Others {
    pub vm: OwnedFd,
    pub vcpu: OwnedFd,
}

impl Others {
    /// Creates them in another process, which ends.
    pub fn make(kvm: &dyn Kvm) -> Result<Self> {
        let (here, there) = UnixStream::pair()?;
        child::run(|| {
            let vm = kvm.kvm_create_vm()?;
            let vcpu = kvm.kvm_create_vcpu(vm.as_fd())?;
            send(&there, [vm, vcpu])
        })?;
        let [vm, vcpu] = receive(&here)?;
        Ok(Self { vm, vcpu })
    }
}

/// A virtual machine that KVM has given up, because a vCPU entered system
/// management mode without memory to save its state.
pub fn dead(kvm: &dyn Kvm) -> Result<Others> {
    let mut machine = TestVm::new(kvm);
    // SAFETY: the request touches no memory.
    Errno::result(unsafe { libc::ioctl(machine.vcpu().as_raw_fd(), KVM_SMI, 0) })?;
    let run = machine.try_run();
    ensure!(run == Err(Errno::EIO), "the machine is not dead: {run:?}");
    let vcpu = machine.vcpu_fd();
    let vm = machine.vm.into_fd().context("it has a descriptor")?;
    Ok(Others { vm, vcpu })
}
