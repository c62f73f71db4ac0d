//! The raw interfaces below the backends.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use kvm_api::kvm_sys::{KVM_CHECK_EXTENSION, KVM_CREATE_IRQCHIP, KVM_CREATE_VCPU};
use kvm_api::{Errno, Result};

/// `/dev/kvm`, opened anew.
pub fn device() -> File {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .unwrap()
}

/// The ioctl KVM_CREATE_VCPU, with an id.
pub fn create_vcpu(vm: BorrowedFd<'_>, id: libc::c_ulong) -> Result<OwnedFd> {
    // SAFETY: the request touches no memory.
    let fd = Errno::result(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_CREATE_VCPU, id) })?;
    // SAFETY: it is a new file descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The ioctl KVM_CREATE_IRQCHIP.
pub fn create_irqchip(vm: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the request touches no memory.
    Errno::result(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_CREATE_IRQCHIP) }).map(drop)
}

/// The ioctl KVM_CHECK_EXTENSION.
pub fn check_extension(fd: BorrowedFd<'_>, extension: u32) -> Result<i32> {
    let extension = libc::c_ulong::from(extension);
    // SAFETY: the request touches no memory.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), KVM_CHECK_EXTENSION, extension) })
}
