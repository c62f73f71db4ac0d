//! Files that another process gets through a socket. It may do the same with
//! them by system call as by ioctl.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::*;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Kvm, RunMapping};
use nix::sched::{CloneFlags, clone};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use super::NamedCase;
use super::creators::{OTHER, REFUSED};
use super::user::{NOBODY, become_user, create_vm};
use crate::arguments::{Arguments, CallResult, machine};
use crate::child;
use crate::passing::{receive, send};
use crate::requests::new_descriptor;

pub const CASES: &[NamedCase] = &[
    ("a VM and a vCPU for another process", another_process),
    (
        "a VM and a vCPU for a process in the same memory",
        same_memory,
    ),
    ("/dev/kvm for a user", device),
];

/// The files that are sent: `/dev/kvm`, a VM, and a vCPU.
type Files = [OwnedFd; 3];

/// The results of one call.
#[derive(Serialize, Deserialize)]
struct Comparison {
    name: String,
    /// The ioctl on the same file, where there is one.
    ioctl: Option<CallResult>,
    flat: CallResult,
    /// The same on `/dev/kvm`, for calls that take that one as well.
    device: Option<(Option<CallResult>, CallResult)>,
}

/// Makes each call that takes a file.
fn call_all(files: &Files) -> Result<Vec<Comparison>> {
    let [device, vm, vcpu] = files.each_ref().map(AsRawFd::as_raw_fd);
    let mut arguments = Arguments::new()?;
    let mut both = |call: FlatCall, fd| {
        // The system call takes the lowest ID, and the ioctl another one.
        (arguments.ioctl(call, fd, 9), arguments.flat(call, fd))
    };
    let taking = FlatCall::ALL.into_iter().filter(|call| call.fd != Fd::None);
    let row = |call: FlatCall| {
        let (ioctl, flat) = both(call, if call.fd == Fd::Vcpu { vcpu } else { vm });
        Comparison {
            name: call.name.to_owned(),
            ioctl,
            flat,
            device: (call.fd == Fd::System).then(|| both(call, device)),
        }
    };
    Ok(taking.map(row).collect())
}

/// Tests a virtual machine from each interface.
fn for_both(test: impl Fn(&Ioctl, &dyn Kvm) -> Result<()>) -> Result<()> {
    let (ioctl, syscall) = (Ioctl::open()?, Syscall::open()?);
    test(&ioctl, &ioctl).context("a VM made by ioctl")?;
    test(&ioctl, &syscall).context("a VM made by system call")
}

fn another_process() -> Result<()> {
    for_both(|ioctl, kvm| {
        // The process is created before the files, so that it gets them through
        // the socket only.
        let (here, there) = UnixStream::pair()?;
        let child = child::start(|| {
            become_user(NOBODY, OTHER, &[])?;
            let files: Files = receive(&there)?;
            let rows = call_all(&files)?;
            // A process with a vCPU's file may map its page, as always. Only
            // its owner may map the VM's memory.
            let [device, vm, vcpu] = files.each_ref().map(AsFd::as_fd);
            let syscall = Syscall::open()?;
            let size = syscall.kvm_get_vcpu_mmap_size(device)?;
            RunMapping::new(vcpu, size)?;
            let memory = syscall.kvm_map_memory(vm, 0, 0x1000).err();
            ensure!(
                memory == Some(Errno::EIO),
                "mapping memory gives {memory:?}"
            );
            Ok(rows)
        })?;
        let machine = machine(kvm);
        send(&here, [ioctl.as_fd(), machine.vm(), machine.vcpu()])?;
        let eio = CallResult::refused(Errno::EIO);
        for row in child.finish::<Vec<Comparison>>()? {
            let Comparison {
                name, ioctl, flat, ..
            } = &row;
            ensure!(
                *flat == eio && ioctl.is_none_or(|ioctl| ioctl == eio),
                "{name} gives {flat:?}, its ioctl {ioctl:?}"
            );
            works_on_device(&row)?;
        }
        Ok(())
    })
}

/// Asserts that a call on `/dev/kvm` has the same result as the ioctl.
fn works_on_device(row: &Comparison) -> Result<()> {
    if let Some((ioctl, flat)) = row.device {
        ensure!(
            flat.number().is_some() && ioctl == Some(flat),
            "{} of /dev/kvm gives {flat:?}, its ioctl {ioctl:?}",
            row.name
        );
    }
    Ok(())
}

fn same_memory() -> Result<()> {
    for_both(|ioctl, kvm| {
        let machine = machine(kvm);
        let (here, there) = UnixStream::pair()?;
        send(&here, [ioctl.as_fd(), machine.vm(), machine.vcpu()])?;
        let rows = in_same_memory(|| {
            drop_privileges()?;
            call_all(&receive(&there)?)
        })?;
        for row in rows {
            works_on_device(&row)?;
            let Comparison {
                name,
                ioctl,
                flat,
                device,
            } = &row;
            let same = match device {
                // A VM does not have all of these ioctls.
                Some((_, on_device)) => flat == on_device,
                None => ioctl.is_none_or(|ioctl| *flat == ioctl),
            };
            let succeeds = FlatCall::named(name).is_some_and(|call| flat.succeeds(call));
            ensure!(
                succeeds && same,
                "{name} gives {flat:?}, its ioctl {ioctl:?}"
            );
        }
        Ok(())
    })
}

/// Does `work` in a process that shares this one's memory, but not its files
/// and user. This process waits meanwhile.
fn in_same_memory<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (mut work, mut done) = (Some(work), None);
    let mut stack = vec![0; 1 << 20];
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    let body = Box::new(|| {
        done = work.take().map(|work| work());
        // Do not return: the first run of a vCPU gives the calling process a thread of
        // KVM, which has to end too.
        // SAFETY: the exit touches nothing of the parent.
        unsafe { libc::_exit(0) }
    });
    // SAFETY: this thread, whose memory and thread-local values the process
    // uses, waits until it has ended; there is no other thread.
    let pid = unsafe { clone(body, &mut stack, flags, Some(Signal::SIGCHLD as i32)) }?;
    let status = waitpid(pid, None)?;
    ensure!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    done.context("nothing was done")?
}

/// Changes the user of this process only. The C library would change all
/// threads that it knows.
fn drop_privileges() -> Result<()> {
    let user = NOBODY;
    // SAFETY: the calls touch no memory.
    let answers = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, 0, 0),
            libc::syscall(libc::SYS_setresgid, user, user, user),
            libc::syscall(libc::SYS_setresuid, user, user, user),
        ]
    };
    for answer in answers {
        Errno::result(answer)?;
    }
    Ok(())
}

/// A process that gets `/dev/kvm` may create a VM by ioctl, and use it. The
/// system call checks whether the process may open the device.
fn device() -> Result<()> {
    let (here, there) = UnixStream::pair()?;
    let child = child::start(|| {
        become_user(NOBODY, OTHER, &[])?;
        let [device] = receive(&there)?;
        // SAFETY: the request touches no memory, and returns a new descriptor.
        let vm = unsafe { new_descriptor(libc::ioctl(device.as_raw_fd(), KVM_CREATE_VM, 0)) };
        let vm = vm.context("KVM_CREATE_VM")?;
        let flat = create_vm()?;
        ensure!(flat == REFUSED, "kvm_create_vm gives {flat:?}");
        let kvm = Syscall::open()?;
        let vcpu = kvm.kvm_create_vcpu(vm.as_fd())?;
        let mut run = RunMapping::new(vcpu.as_fd(), kvm.kvm_get_vcpu_mmap_size(vm.as_fd())?)?;
        run.set_immediate_exit(true);
        kvm.kvm_set_memory_region(vm.as_fd(), 0, 0, 0, 0x1000)?;
        kvm.kvm_map_memory(vm.as_fd(), 0, 0x1000)?;
        let ran = kvm.kvm_run(vcpu.as_fd(), &mut run).map(drop);
        ensure!(ran == Err(Errno::EINTR), "kvm_run gives {ran:?}");
        Ok(())
    })?;
    let kvm = Ioctl::open()?;
    send(&here, [kvm.as_fd()])?;
    child.finish()
}
