//! Virtual machines that refuse all calls of this process: another process owns
//! one, and KVM has given up the other.

use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};
use guests::TestVm;
use kvm_api::Kvm;
use kvm_api::kvm_sys::KVM_SMI;
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

/// The file descriptors of a virtual machine and its vcpu.
pub struct Others {
    pub vm: OwnedFd,
    pub vcpu: OwnedFd,
}

impl Others {
    /// Creates them in another process, which ends.
    pub fn make(kvm: &dyn Kvm) -> Result<Self> {
        let (mut said, mut say) = pipe()?;
        let (wait, go) = pipe()?;
        // SAFETY: this process has one thread only, so the child may do what it
        // could do itself; it leaves without unwinding.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop(go);
                let made = kvm
                    .kvm_create_vm()
                    .and_then(|vm| Ok((kvm.kvm_create_vcpu(vm.as_fd())?, vm)));
                if let Ok((vcpu, vm)) = &made {
                    for fd in [vm.as_raw_fd(), vcpu.as_raw_fd()] {
                        let _ = say.write_all(&fd.to_ne_bytes());
                    }
                }
                drop(say);
                // Wait until the parent has taken them, or has ended.
                let _ = (&wait).read(&mut [0]);
                // SAFETY: nothing of the parent's is touched on the way out.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                drop((wait, say));
                let mut fds = [[0; size_of::<RawFd>()]; 2];
                let read = said.read_exact(fds.as_flattened_mut());
                let taken = read.map_err(anyhow::Error::from).and_then(|()| {
                    let [vm, vcpu] = fds.map(|fd| take(child, RawFd::from_ne_bytes(fd)));
                    Ok(Self {
                        vm: vm?,
                        vcpu: vcpu?,
                    })
                });
                drop(go);
                waitpid(child, None)?;
                taken.context("another process' machine")
            }
        }
    }
}

/// Duplicates a file descriptor of another process.
fn take(process: Pid, fd: RawFd) -> Result<OwnedFd> {
    let owned = |fd: libc::c_long| -> Result<OwnedFd> {
        let fd = Errno::result(fd)? as RawFd;
        // SAFETY: it is new.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    // SAFETY: the call touches no memory.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) })?;
    // SAFETY: likewise.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

/// A virtual machine that KVM has given up, because a vCPU entered system
/// management mode without memory to save its state.
pub fn dead(kvm: &dyn Kvm) -> Result<Others> {
    let mut machine = TestVm::new(kvm);
    // SAFETY: the request touches no memory.
    Errno::result(unsafe { libc::ioctl(machine.vcpu().as_raw_fd(), KVM_SMI, 0) })?;
    let run = machine.try_run();
    ensure!(run == Err(Errno::EIO), "the machine lives: {run:?}");
    let vcpu = machine.vcpu_fd();
    Ok(Others {
        vm: machine.vm,
        vcpu,
    })
}
