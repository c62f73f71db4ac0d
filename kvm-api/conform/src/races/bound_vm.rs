//! The VM of an address space is bound, used and unbound by several threads at once.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use kvm_api::process::BoundVm;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Result};
use kvm_sys::{__NR_kvm_create_bound_vcpu, __NR_kvm_unbind, __NR_kvm_unbind_vm, KVM_BOUND_VM};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, gettid};

use super::Race;
use super::round::Round;
use super::threads::repeating;
use crate::trait_calls::ON_VM;

pub const RACES: &[Race] = &[
    (
        "the VM of a process is unbound while others use it",
        unbound,
    ),
    ("two threads create the VM of a process", created),
    ("a process ends while its threads use its VM", ended),
    ("a status is read while its thread binds and unbinds", shown),
];

/// The number of bindings that a thread tries in a round.
const TRIES: usize = 20;

fn flat() -> Syscall {
    Syscall::open().unwrap()
}

/// A binding that the kernel ends, or another thread.
fn create() -> Result<()> {
    BoundVm::create(flat()).map(std::mem::forget)
}

fn unbind() -> Result<()> {
    // SAFETY: the call touches no memory.
    Errno::result(unsafe { libc::syscall(__NR_kvm_unbind_vm) }).map(drop)
}

/// Makes all calls on the bound VM. Each works, or finds none. Memory slots that another
/// thread sets meanwhile, or that went with another VM, are other errors.
fn use_vm() {
    // SAFETY: the number is no descriptor, so nothing closes it.
    let vm = unsafe { BorrowedFd::borrow_raw(KVM_BOUND_VM) };
    for (call, make) in ON_VM {
        match make(&flat(), vm) {
            Ok(()) | Err(Errno::EBADF | Errno::EEXIST | Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => panic!("{call:?}: {errno}"),
        }
    }
}

/// Counts bindings that have begun, less those that have ended.
fn counted(bindings: &AtomicI64, begun: Result<()>, allowed: Errno, by: i64) {
    match begun {
        Ok(()) => drop(bindings.fetch_add(by, Ordering::SeqCst)),
        Err(errno) => assert_eq!(errno, allowed),
    }
}

fn unbound(round: &Round) {
    // KVM counts its workers in the address space. In a new one, a worker that has ended
    // and still counts stands for one of the two threads.
    in_child(|| {
        create().unwrap();
        bind_and_lose_vcpu();
        unbind().unwrap();
        used_while_unbound(round);
    });
}

fn used_while_unbound(round: &Round) {
    let bindings = AtomicI64::new(0);
    let other = round.counting();
    repeating(|threads| {
        threads.repeat(use_vm);
        for _ in 0..TRIES {
            round.pause();
            // A VM without a descriptor, and one with.
            counted(&bindings, create(), Errno::EEXIST, 1);
            round.pause();
            counted(&bindings, unbind(), Errno::ENXIO, -1);
            let bound = BoundVm::bind(flat(), other.vm.as_fd()).map(std::mem::forget);
            counted(&bindings, bound, Errno::EEXIST, 1);
            round.pause();
            counted(&bindings, unbind(), Errno::ENXIO, -1);
        }
    });
    assert_eq!(bindings.into_inner(), 0);
    assert_eq!(unbind(), Err(Errno::ENXIO));
}

fn created(round: &Round) {
    let bindings = AtomicI64::new(0);
    repeating(|threads| {
        threads.repeat(|| {
            counted(&bindings, create(), Errno::EEXIST, 1);
            counted(&bindings, unbind(), Errno::ENXIO, -1);
        });
        for _ in 0..TRIES {
            counted(&bindings, create(), Errno::EEXIST, 1);
            round.pause();
            counted(&bindings, unbind(), Errno::ENXIO, -1);
        }
    });
    let left = unbind().is_ok();
    assert_eq!(bindings.into_inner(), i64::from(left));
    assert_eq!(unbind(), Err(Errno::ENXIO));
}

fn ended(round: &Round) {
    in_child(|| {
        create().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    use_vm();
                }
            });
            scope.spawn(|| {
                loop {
                    bind_and_lose_vcpu();
                }
            });
            round.pause();
            leave(0)
        });
    });
}

/// Makes a vCPU that is bound to this thread, if there is a VM, and unbinds it.
fn bind_and_lose_vcpu() {
    // SAFETY: the calls touch no memory.
    unsafe {
        libc::syscall(__NR_kvm_create_bound_vcpu);
        libc::syscall(__NR_kvm_unbind);
    }
}

/// Does something in a child, with an address space of its own.
fn in_child(does: impl FnOnce()) {
    // SAFETY: this process has no other threads, so the child may do anything. It leaves
    // without unwinding into the frames of the parent.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => leave(catch_unwind(AssertUnwindSafe(does)).is_err().into()),
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
}

/// Ends a child, with all threads at once.
fn leave(code: i32) -> ! {
    // SAFETY: nothing is needed any more.
    unsafe { libc::_exit(code) }
}

/// The paths of the files of a VM and of its first vCPU.
const SHOWN: [&str; 2] = [
    "KVM_bound_vm:\tanon_inode:kvm-vm",
    "KVM_bound_vcpu:\tanon_inode:kvm-vcpu:0",
];

fn shown(round: &Round) {
    let status = format!("/proc/self/task/{}/status", gettid());
    repeating(|threads| {
        threads.repeat(|| {
            let text = fs::read_to_string(&status).unwrap();
            for line in text.lines().filter(|line| line.starts_with("KVM")) {
                assert!(SHOWN.contains(&line), "{line}");
            }
        });
        for _ in 0..TRIES {
            let vm = BoundVm::create(flat()).unwrap();
            round.pause();
            let vcpu = vm.create_vcpu().unwrap();
            round.pause();
            // Nothing else keeps the files.
            drop(vm);
            drop(vcpu);
        }
    });
}
