//! Counts a batch of reads and writes of a vcpu's files against the same, one by
//! one, by each interface. It takes the patched kernel: without it, it is
//! ignored. It runs inside the machine by
//! `kernel-patch cargo -- test -p benches --test batch -- --ignored --nocapture`.

#![allow(missing_docs)]

use std::os::fd::{AsFd, AsRawFd, RawFd};

use benches::batch::{Calls, Ring};
use benches::{Files, StaticForm, Workload, counter, exact};
use kvm_api::Kvm;
use kvm_api::files::{File, FileVcpu};
use kvm_api::ioctl::Ioctl;
use kvm_api::syscall::Syscall;

#[test]
#[ignore = "takes the patched kernel"]
fn a_batch_is_done_when_it_is_submitted() {
    let files = Files::open().unwrap();
    let mut ring = Ring::new(&files).unwrap();
    ring.call();
    ring.check(1).unwrap();
}

fn show(name: &str, workload: &mut dyn Workload) {
    let count = exact::count(workload).unwrap();
    let unit = counter::detect();
    println!(
        "{name}: {} {unit}, {} of {}",
        count.mode, count.at_mode, count.calls
    );
}

#[test]
#[ignore = "takes the patched kernel"]
fn what_a_batch_takes() {
    let ioctl = Ioctl::open().unwrap();
    let (calls, files) = (Syscall::open().unwrap(), Files::open().unwrap());
    show("six ioctls", &mut Calls::new(&ioctl).unwrap());
    show("six system calls", &mut Calls::new(&calls).unwrap());
    show("six reads and writes", &mut Calls::new(&files).unwrap());
    show("one submission", &mut Ring::new(&files).unwrap());
}

/// The registers, at offset 0 or at the position that never moves.
struct Read {
    file: RawFd,
    at_offset: bool,
}

impl Workload for Read {
    fn call(&mut self) {
        let mut buffer = [0_u8; 144];
        let (to, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the buffer is that long.
        let read = unsafe {
            if self.at_offset {
                nix::libc::pread(self.file, to, size, 0)
            } else {
                nix::libc::read(self.file, to, size)
            }
        };
        assert_eq!(read, 144);
    }
}

#[test]
#[ignore = "takes the patched kernel"]
fn read_and_pread() {
    let calls = Syscall::open().unwrap();
    let vm = calls.kvm_create_vm().unwrap();
    let vcpu = calls.kvm_create_vcpu(vm.as_fd()).unwrap();
    let vcpu = FileVcpu::open(calls, vcpu).unwrap();
    let file = vcpu.file(File::Regs).as_raw_fd();
    for (name, at_offset) in [("read", false), ("pread", true)] {
        show(name, &mut Read { file, at_offset });
    }
}
