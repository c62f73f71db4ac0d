//! Objects that keep the vendor's module loaded: exactly those through which a
//! process can still enter it, for virtual machines of either interface.

use std::any::Any;
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Result, ensure};
use guests::TestVm;
use kvm_api::files::File as VcpuFile;
use kvm_api::kvm_sys::{__NR_kvm_bind, __NR_kvm_unbind};
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Form, GuestMemory, Kvm};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::{chdir, fchdir};

use super::absent::refused;
use super::loading::{self, KVM, VENDOR};
use crate::outcome::Outcome;

/// The remaining part of a virtual machine, until it is dropped.
type Held = Box<dyn Any>;

struct Holder {
    what: &'static str,
    /// Whether it keeps KVM loaded.
    holds: bool,
    make: fn(&dyn Kvm) -> Result<Held>,
}

const HOLDERS: &[Holder] = &[
    Holder {
        what: "/dev/kvm, open",
        holds: true,
        make: |_| Ok(Box::new(File::open("/dev/kvm")?)),
    },
    Holder {
        what: "a VM's file descriptor",
        holds: true,
        make: |kvm| Ok(Box::new(kvm.kvm_create_vm()?)),
    },
    Holder {
        what: "a VM's file descriptor on its way through a socket",
        holds: true,
        make: |kvm| Ok(Box::new(in_flight(kvm)?)),
    },
    Holder {
        what: "a vcpu's file descriptor",
        holds: true,
        make: |kvm| Ok(Box::new(TestVm::new(kvm).vcpu_fd())),
    },
    // The mapping keeps the vCPU's file open.
    Holder {
        what: "a vcpu's run mapping",
        holds: true,
        make: |kvm| Ok(Box::new(TestVm::new(kvm).run)),
    },
    // The next three have no operations of the vendor's module.
    Holder {
        what: "a file of a vcpu's state",
        holds: true,
        make: |kvm| Ok(Box::new(VcpuFile::Regs.open(TestVm::new(kvm).vcpu())?)),
    },
    Holder {
        what: "a vcpu's directory as a path, open for nothing",
        holds: true,
        make: |kvm| Ok(Box::new(path(TestVm::new(kvm).vcpu())?)),
    },
    Holder {
        what: "a vcpu's directory as the current one",
        holds: true,
        make: |kvm| Ok(Box::new(Current::make(kvm)?)),
    },
    Holder {
        what: "a vcpu that is bound, and has no file descriptor",
        holds: true,
        make: |kvm| Ok(Box::new(Binding::make(kvm)?)),
    },
    Holder {
        what: "memory that a guest was given",
        holds: false,
        make: |kvm| Ok(Box::new(TestVm::new(kvm).memory)),
    },
    // This maps the memory, which belongs to shmem, and not the VM.
    Holder {
        what: "a mapping of memory that the kernel has allocated",
        holds: false,
        make: |kvm| Ok(Box::new(allocated(kvm)?)),
    },
];

/// A VM's file descriptor that exists only in the queue of a socket.
fn in_flight(kvm: &dyn Kvm) -> Result<(UnixStream, UnixStream)> {
    let (from, to) = UnixStream::pair()?;
    let vm = kvm.kvm_create_vm()?;
    sendmsg::<()>(
        from.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&[vm.as_raw_fd()])],
        MsgFlags::empty(),
        None,
    )?;
    Ok((from, to))
}

/// A descriptor for the directory that a vcpu is, without operations.
fn path(vcpu: BorrowedFd<'_>) -> Result<OwnedFd> {
    let name = format!("/proc/self/fd/{}\0", vcpu.as_raw_fd());
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the name ends with a zero.
    let fd = Errno::result(unsafe { libc::open(name.as_ptr().cast(), flags) })?;
    // SAFETY: it is a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The process is in a vcpu's directory, until this is dropped.
struct Current;

impl Current {
    fn make(kvm: &dyn Kvm) -> Result<Self> {
        fchdir(TestVm::new(kvm).vcpu())?;
        Ok(Self)
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        chdir("/").expect("there is a root");
    }
}

/// The binding of this thread, which alone keeps a vcpu.
struct Binding;

impl Binding {
    fn make(kvm: &dyn Kvm) -> Result<Self> {
        let vcpu = TestVm::new(kvm).vcpu;
        // SAFETY: the call touches no memory.
        Errno::result(unsafe { libc::syscall(__NR_kvm_bind, vcpu.as_fd().as_raw_fd()) })?;
        Ok(Self)
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: the call touches no memory.
        unsafe { libc::syscall(__NR_kvm_unbind) };
    }
}

const MARK: &[u8] = b"still here";

/// Memory that the kernel has allocated, and whose VM is gone. The memory is
/// unchanged.
struct Allocated(GuestMemory);

fn allocated(kvm: &dyn Kvm) -> Result<Allocated> {
    let vm = kvm.kvm_create_vm()?;
    kvm.kvm_set_memory_region(vm.as_fd(), 0, 0, 0, 0x1000)?;
    let mut memory = kvm.kvm_map_memory(vm.as_fd(), 0, 0x1000)?;
    memory.write(0, MARK)?;
    Ok(Allocated(memory))
}

impl Drop for Allocated {
    fn drop(&mut self) {
        let mut mark = [0; MARK.len()];
        self.0.read(0, &mut mark).expect("the mark is within");
        assert_eq!(mark, MARK, "the memory went with the VM");
        self.0.write(0, MARK).expect("the mark is within");
    }
}

/// Tests each of them, on either interface.
pub fn all(outcome: &mut Outcome) {
    for holder in HOLDERS {
        for form in [Form::Ioctl, Form::Syscall] {
            let name = format!("{} ({})", holder.what, form.name());
            outcome.case(&name, hold(holder, form));
        }
    }
}

fn hold(holder: &Holder, form: Form) -> Result<()> {
    loading::load_all()?;
    let before = [KVM, VENDOR].map(loading::references);
    let held = {
        // The backend `ioctl` keeps /dev/kvm open.
        let kvm = form.open()?;
        (holder.make)(&*kvm)?
    };
    if holder.holds {
        for module in [VENDOR, KVM] {
            let refusal = loading::unload(module);
            ensure!(
                refusal == Err(Errno::EAGAIN),
                "unloading {module} gives {refusal:?}"
            );
        }
        // The refused attempt has no effect.
        Syscall::open()?;
        drop(held);
        for (module, before) in [KVM, VENDOR].into_iter().zip(before) {
            loading::settle(module, before?)?;
        }
        loading::unload(VENDOR)?;
    } else {
        for (module, before) in [KVM, VENDOR].into_iter().zip(before) {
            loading::settle(module, before?)?;
        }
        loading::unload(VENDOR)?;
        drop(held);
    }
    refused()
}
