//! A vcpu goes while its directory is watched, and its owner is told of what is
//! unmapped, if only it would listen.
//!
//! The watch keeps the directory's inode when all else is gone. The last vcpu of
//! all takes the file system with it, in the course of which nobody may wait for
//! userspace: sync(2) would wait as well.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, ensure};
use guests::TestVm;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Kvm};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::absent::refused;
use super::loading::{self, LIMIT, VENDOR};

/// Memory that the kernel allocates, in a slot that the machine leaves alone.
const SLOT: u32 = 1;
const ADDRESS: u64 = 1 << 30;
const SIZE: u64 = 0x1000;

/// How the memory is called among the mappings of its owner.
const MAPPING: &str = "kvm-memory";

/// There is no other vcpu: the file system goes.
pub fn last() -> Result<()> {
    loading::load_all()?;
    goes()?;
    loading::unload_soon(VENDOR)?;
    refused()
}

/// There is another one: the inode stays for as long as the watch.
pub fn one() -> Result<()> {
    loading::load_all()?;
    let kvm = Syscall::open()?;
    let other = TestVm::new(&kvm);
    goes()?;
    drop(other);
    loading::unload_soon(VENDOR)?;
    refused()
}

fn goes() -> Result<()> {
    let before = loading::references(VENDOR)?;
    let watch = Inotify::init(InitFlags::IN_CLOEXEC)?;
    // Who waits for it is let go when it is closed.
    let listener = Listener::new()?;
    let vcpu = {
        let kvm = Syscall::open()?;
        let machine = TestVm::new(&kvm);
        let vcpu = machine.vcpu_fd();
        let TestVm { vm, memory, .. } = machine;
        kvm.kvm_set_memory_region(vm.as_fd(), SLOT, 0, ADDRESS, SIZE)?;
        listener.listen(mapping()?.context("the memory is not mapped")?)?;
        let path = format!("/proc/self/fd/{}", vcpu.as_raw_fd());
        watch.add_watch(path.as_str(), AddWatchFlags::IN_ALL_EVENTS)?;
        drop(vm);
        // The machine is not run any more.
        drop(memory);
        vcpu
    };
    within_limit("closing the vcpu", move || drop(vcpu))?;
    // SAFETY: the call takes nothing.
    within_limit("sync()", || unsafe { libc::sync() })?;
    // The VM has gone, and has left nothing in its owner's address space.
    loading::settle(VENDOR, before)?;
    ensure!(mapping()?.is_none(), "the memory is still mapped");
    within_limit("closing the watch", move || drop(watch))
}

/// Does something that may hang. What does hang does so until the process ends, or
/// what it waits for is closed.
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

/// Where the memory is mapped that the kernel has allocated.
fn mapping() -> Result<Option<u64>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let Some(line) = maps.lines().find(|line| line.contains(MAPPING)) else {
        return Ok(None);
    };
    let (start, _) = line.split_once('-').context("an odd mapping")?;
    Ok(Some(u64::from_str_radix(start, 16)?))
}

/// A userfaultfd that wants to know what is unmapped, and is never read.
struct Listener(OwnedFd);

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

impl Listener {
    const API: u64 = 0xaa;
    const EVENT_UNMAP: u64 = 1 << 6;
    const MODE_MISSING: u64 = 1;
    const UFFDIO_API: libc::c_ulong = nix::request_code_readwrite!(0xaa, 0x3f, size_of::<Api>());
    const UFFDIO_REGISTER: libc::c_ulong =
        nix::request_code_readwrite!(0xaa, 0x00, size_of::<Register>());

    fn new() -> Result<Self> {
        // SAFETY: the call touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let fd = Errno::result(fd).context("userfaultfd()")?;
        // SAFETY: it is a new descriptor.
        let listener = Self(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        let mut api = Api {
            api: Self::API,
            features: Self::EVENT_UNMAP,
            ioctls: 0,
        };
        listener
            .ioctl(Self::UFFDIO_API, &mut api)
            .context("UFFDIO_API")?;
        Ok(listener)
    }

    /// Has it be told of the memory that is mapped there.
    fn listen(&self, start: u64) -> Result<()> {
        let mut register = Register {
            start,
            len: SIZE,
            mode: Self::MODE_MISSING,
            ioctls: 0,
        };
        self.ioctl(Self::UFFDIO_REGISTER, &mut register)
            .context("UFFDIO_REGISTER")
    }

    fn ioctl<T>(&self, request: libc::c_ulong, value: &mut T) -> Result<()> {
        let value = std::ptr::from_mut(value);
        // SAFETY: the requests pass a structure of this type.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), request, value) };
        Errno::result(answer)?;
        Ok(())
    }
}
