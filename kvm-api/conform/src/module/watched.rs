//! A vCPU is destroyed while its directory is watched, and while its owner's userfaultfd,
//! which nobody reads, waits for unmapped memory.
//!
//! The watch keeps the directory's inode when all else is gone. The last vCPU of
//! all takes the file system with it. Meanwhile nobody may wait for user space:
//! sync(2) would wait as well.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, ensure};
use guests::TestVm;
use kvm_api::Kvm;
use kvm_api::syscall::Syscall;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::absent::refused;
use super::loading::{self, LIMIT, VENDOR};
use crate::kernel_memory;
use crate::requests::new_descriptor;

/// Memory that the kernel allocates, in a slot that the machine leaves alone.
const SLOT: u32 = 1;
const ADDRESS: u64 = 1 << 30;
const SIZE: u64 = 0x1000;

/// There is no other vCPU: the file system is destroyed, too.
pub fn last() -> Result<()> {
    loading::load_all()?;
    destroy()?;
    loading::unload_soon(VENDOR)?;
    refused()
}

/// There is another vCPU: the inode stays as long as the watch.
pub fn one() -> Result<()> {
    loading::load_all()?;
    let kvm = Syscall::open()?;
    let other = TestVm::new(&kvm);
    destroy()?;
    drop(other);
    loading::unload_soon(VENDOR)?;
    refused()
}

fn destroy() -> Result<()> {
    let before = loading::references(VENDOR)?;
    let watch = Inotify::init(InitFlags::IN_CLOEXEC)?;
    // Closing it wakes up those who wait for it.
    let listener = Listener::new()?;
    let vcpu = {
        let kvm = Syscall::open()?;
        let machine = TestVm::new(&kvm);
        let vcpu = machine.vcpu_fd();
        let TestVm { vm, memory, .. } = machine;
        kvm.kvm_set_memory_region(vm.as_fd(), SLOT, 0, ADDRESS, SIZE)?;
        let address = kernel_memory::address()?.context("the memory is not mapped")?;
        listener.listen(address as u64)?;
        let path = format!("/proc/self/fd/{}", vcpu.as_raw_fd());
        watch.add_watch(path.as_str(), AddWatchFlags::IN_ALL_EVENTS)?;
        drop(vm);
        // The guest does not run any more.
        drop(memory);
        vcpu
    };
    within_limit("closing the vCPU", move || drop(vcpu))?;
    // SAFETY: the call takes nothing.
    within_limit("sync()", || unsafe { libc::sync() })?;
    // The VM has gone, and has left nothing in its owner's address space.
    loading::settle(VENDOR, before)?;
    let address = kernel_memory::address()?;
    ensure!(address.is_none(), "the memory is still mapped");
    within_limit("closing the watch", move || drop(watch))
}

/// Runs `act`, which may hang. Then its thread stays until the process ends, or until the
/// file that it waits for is closed.
fn within_limit(what: &str, act: impl FnOnce() + Send + 'static) -> Result<()> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        act();
        // The receiver may have given up.
        let _ = tell.send(());
    });
    told.recv_timeout(LIMIT)
        .with_context(|| format!("{what} hangs"))
}

/// A userfaultfd that reports unmapped memory, and that nobody reads.
struct Listener(OwnedFd);

const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_EVENT_UNMAP: u64 = 1 << 6;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;

/// struct uffdio_api.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// struct uffdio_register.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

nix::ioctl_readwrite!(uffdio_api, UFFD_API, 0x3f, Api);
nix::ioctl_readwrite!(uffdio_register, UFFD_API, 0x00, Register);

impl Listener {
    fn new() -> Result<Self> {
        // SAFETY: the call touches no memory, and returns a new descriptor.
        let fd = unsafe { new_descriptor(libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC)) };
        let listener = Self(fd.context("userfaultfd()")?);
        let mut api = Api {
            api: UFFD_API,
            features: UFFD_FEATURE_EVENT_UNMAP,
            ioctls: 0,
        };
        // SAFETY: the request passes this structure.
        unsafe { uffdio_api(listener.0.as_raw_fd(), &raw mut api) }.context("UFFDIO_API")?;
        Ok(listener)
    }

    /// Makes it report changes of the memory that is mapped there.
    fn listen(&self, start: u64) -> Result<()> {
        let mut register = Register {
            start,
            len: SIZE,
            mode: UFFDIO_REGISTER_MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: the request passes this structure.
        unsafe { uffdio_register(self.0.as_raw_fd(), &raw mut register) }
            .context("UFFDIO_REGISTER")?;
        Ok(())
    }
}
