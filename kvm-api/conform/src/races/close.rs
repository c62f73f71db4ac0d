//! The file descriptors of a running vCPU are closed, or replaced by others.

use std::io::pipe;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::thread;

use kvm_api::Errno;
use kvm_api::kvm_sys::kvm_regs;
use nix::unistd::close;

use super::Race;
use super::guest::{Guest, wait_for_count, while_running};
use super::round::Round;

pub const RACES: &[Race] = &[
    ("a running vCPU's files are closed", closed),
    ("another file takes a running vCPU's place", replaced),
    ("a VM is closed in the middle of its calls", vm_closed),
];

/// Gives up the ownership of a file descriptor, which is closed by its number.
fn give_up(fd: OwnedFd) -> (RawFd, BorrowedFd<'static>) {
    let number = fd.into_raw_fd();
    // SAFETY: the race uses the number after it was closed, which Rust does not allow
    // for. Only this round opens files here, and it expects that.
    (number, unsafe { BorrowedFd::borrow_raw(number) })
}

fn closed(round: &Round) {
    let Guest {
        run,
        vcpu,
        vm,
        memory,
    } = round.counting();
    // The mapping of the vCPU would keep its file open.
    let spare = Guest::counting(round.other()).run;
    let mut spare = spare.into_inner().unwrap();
    drop(run);
    let (number, vcpu) = give_up(vcpu);
    while_running(round.runner(), vcpu, &mut spare, &memory, |_| {
        round.pause();
        if round.random.coin() {
            drop(vm);
            close(number).unwrap();
        } else {
            close(number).unwrap();
            drop(vm);
        }
        // The call in progress continues.
        wait_for_count(&memory);
        wait_for_count(&memory);
    });
    for n in 0..2 {
        let kvm = round.interface(n);
        let read = kvm.kvm_get_regs(vcpu, &mut kvm_regs::default());
        assert_eq!(read, Err(Errno::EBADF));
        assert_eq!(kvm.kvm_run(vcpu, &mut spare).err(), Some(Errno::EBADF));
    }
}

fn replaced(round: &Round) {
    let guest = round.counting();
    let mut run = guest.run.into_inner().unwrap();
    let (reader, _writer) = pipe().unwrap();
    let (number, vcpu) = give_up(guest.vcpu);
    while_running(round.runner(), vcpu, &mut run, &guest.memory, |_| {
        round.pause();
        // SAFETY: the call touches no memory; the number is ours.
        Errno::result(unsafe { libc::dup2(reader.as_raw_fd(), number) }).unwrap();
        // Later calls get the pipe, and do not wait for the vCPU.
        let answer = round.other().kvm_get_regs(vcpu, &mut kvm_regs::default());
        assert_eq!(answer, Err(Errno::ENOTTY));
        wait_for_count(&guest.memory);
    });
    close(number).unwrap();
}

/// Only the calls of two threads keep the VM alive.
fn vm_closed(round: &Round) {
    let Guest {
        vcpu, vm, memory, ..
    } = round.counting();
    drop(vcpu);
    let (number, vm) = give_up(vm);
    let address = memory.as_ptr().expose_provenance() as u64;
    thread::scope(|scope| {
        let calls = |n: usize| {
            let kvm = round.interface(n);
            let slot = 1 + n as u32;
            move || {
                for n in 0.. {
                    let size = if n % 2 == 0 { 0x1000 } else { 0 };
                    let at = u64::from(slot) << 20;
                    // SAFETY: the memory outlives the machine's files.
                    let answer =
                        unsafe { kvm.kvm_set_user_memory_region(vm, slot, 0, at, size, address) };
                    match answer {
                        Ok(()) => {}
                        Err(Errno::EBADF) => return,
                        other => panic!("{other:?}"),
                    }
                }
            }
        };
        let threads = [scope.spawn(calls(0)), scope.spawn(calls(1))];
        round.pause();
        close(number).unwrap();
        for thread in threads {
            thread.join().expect("a panic ends the process");
        }
    });
}
