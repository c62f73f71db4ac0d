//! Objects that keep the vendor's module loaded: exactly those through which a
//! process can still enter it, for virtual machines of either interface.

use std::any::Any;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use anyhow::{Result, ensure};
use guests::TestVm;
use kvm_api::files::File as VcpuFile;
use kvm_api::kvm_sys::{__NR_kvm_bind, __NR_kvm_unbind};
use kvm_api::process::BoundVm;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Form, GuestMemory, Kvm};
use nix::unistd::{chdir, fchdir};

use super::absent::refused;
use super::loading::{self, KVM, VENDOR};
use crate::outcome::Outcome;
use crate::passing::send;
use crate::trait_calls::complete_forms;

/// The remaining part of a virtual machine, until it is dropped.
type Held = Box<dyn Any>;

/// Makes a virtual machine, and returns a part of it.
type Make = fn(&dyn Kvm) -> Result<Held>;

/// The parts that keep KVM loaded.
const HOLDERS: &[(&str, Make)] = &[
    ("/dev/kvm, open", |_| held(File::open("/dev/kvm")?)),
    ("a VM's file descriptor", |kvm| held(kvm.kvm_create_vm()?)),
    ("a VM's file descriptor in the queue of a socket", in_flight),
    ("a vCPU's file descriptor", |kvm| {
        held(TestVm::new(kvm).vcpu_fd())
    }),
    // The mapping keeps the vCPU's file open.
    ("a vCPU's run mapping", |kvm| held(TestVm::new(kvm).run)),
    // The next three have no operations of the vendor's module.
    ("a file of a vCPU's state", |kvm| {
        held(VcpuFile::Regs.open(TestVm::new(kvm).vcpu())?)
    }),
    ("a vCPU's directory, opened with O_PATH", path),
    ("a vCPU's directory as the current directory", current),
    ("a vCPU that is bound, and has no file descriptor", bound),
    ("a VM that is bound, and has no file descriptor", |_| {
        held(BoundVm::create(Syscall::open()?)?)
    }),
];

/// The parts that do not keep KVM loaded.
const OTHERS: &[(&str, Make)] = &[
    ("memory that a guest was given", |kvm| {
        held(TestVm::new(kvm).memory)
    }),
    // This maps the memory, which belongs to shmem, and not the VM.
    (
        "a mapping of memory that the kernel has allocated",
        allocated,
    ),
];

fn held(part: impl Any) -> Result<Held> {
    Ok(Box::new(part))
}

/// A VM's file descriptor that exists only in the queue of a socket.
fn in_flight(kvm: &dyn Kvm) -> Result<Held> {
    let (from, to) = UnixStream::pair()?;
    let vm = kvm.kvm_create_vm()?;
    send(&from, [vm])?;
    held((from, to))
}

/// A descriptor for the directory that a vCPU is, without operations.
fn path(kvm: &dyn Kvm) -> Result<Held> {
    let machine = TestVm::new(kvm);
    let name = format!("/proc/self/fd/{}", machine.vcpu().as_raw_fd());
    let mut options = File::options();
    held(options.read(true).custom_flags(libc::O_PATH).open(name)?)
}

/// Undoes something when it is dropped.
struct OnDrop(fn());

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0();
    }
}

/// The process is in a vCPU's directory.
fn current(kvm: &dyn Kvm) -> Result<Held> {
    fchdir(TestVm::new(kvm).vcpu())?;
    held(OnDrop(|| chdir("/").expect("there is a root")))
}

/// The binding of this thread, which alone keeps a vCPU.
fn bound(kvm: &dyn Kvm) -> Result<Held> {
    let machine = TestVm::new(kvm);
    // SAFETY: the call touches no memory.
    Errno::result(unsafe { libc::syscall(__NR_kvm_bind, machine.vcpu().as_raw_fd()) })?;
    held(OnDrop(|| {
        // SAFETY: the call touches no memory.
        unsafe { libc::syscall(__NR_kvm_unbind) };
    }))
}

const MARK: &[u8] = b"still here";

/// Memory that the kernel has allocated, and whose VM is gone. The memory is
/// unchanged.
struct Allocated(GuestMemory);

fn allocated(kvm: &dyn Kvm) -> Result<Held> {
    let vm = kvm.kvm_create_vm()?;
    kvm.kvm_set_memory_region(vm.as_fd(), 0, 0, 0, 0x1000)?;
    let mut memory = kvm.kvm_map_memory(vm.as_fd(), 0, 0x1000)?;
    memory.write(0, MARK)?;
    held(Allocated(memory))
}

impl Drop for Allocated {
    fn drop(&mut self) {
        let mut mark = [0; MARK.len()];
        self.0.read(0, &mut mark).expect("the mark is within");
        assert_eq!(mark, MARK, "the memory went with the VM");
        self.0.write(0, MARK).expect("the mark is within");
    }
}

/// Tests each part, of a virtual machine of each interface.
pub fn all(outcome: &mut Outcome) {
    for (parts, hold) in [(HOLDERS, true), (OTHERS, false)] {
        for (name, make) in parts {
            for form in complete_forms() {
                let name = format!("{name} ({})", form.name());
                outcome.case(&name, test(*make, hold, form));
            }
        }
    }
}

/// Tests a part, which keeps KVM loaded if it `holds`.
fn test(make: Make, holds: bool, form: Form) -> Result<()> {
    loading::load_all()?;
    let before = [KVM, VENDOR].map(loading::references);
    let mut held = {
        // The backend `ioctl` keeps /dev/kvm open.
        let kvm = form.open()?;
        Some(make(&*kvm)?)
    };
    if holds {
        for module in [VENDOR, KVM] {
            let answer = loading::unload(module);
            let refused = answer == Err(Errno::EAGAIN);
            ensure!(refused, "unloading {module} gives {answer:?}");
        }
        // The refused attempt has no effect.
        Syscall::open()?;
        held = None;
    }
    for (module, before) in [KVM, VENDOR].into_iter().zip(before) {
        loading::settle(module, before?)?;
    }
    loading::unload(VENDOR)?;
    drop(held);
    refused()
}
