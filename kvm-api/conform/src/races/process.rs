//! A process that runs a vCPU forks, executes another program, ends, or is
//! killed.

use std::env;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::process;
use std::thread;

use kvm_api::kvm_sys::kvm_regs;
use kvm_api::{ByFd, Errno, Kvm};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execv, fork};

use super::Race;
use super::guest::{Guest, wait_for_count};
use super::round::Round;
use crate::trait_calls::{ON_VCPU, ON_VM};

pub const RACES: &[Race] = &[
    ("a process forks while its vCPU runs", forks),
    ("a process executes another while its vCPU runs", |round| {
        ends(round, executes, |child| WaitStatus::Exited(child, 0));
    }),
    ("a process exits while its vCPU runs", |round| {
        ends(round, || leave(7), |child| WaitStatus::Exited(child, 7));
    }),
    ("a process is killed while its vCPU runs", |round| {
        let kills = || kill(Pid::this(), Signal::SIGKILL).unwrap();
        ends(round, kills, |child| {
            WaitStatus::Signaled(child, Signal::SIGKILL, false)
        });
    }),
];

/// Ends a forked process, with all threads at once and without dropping values.
fn leave(code: i32) {
    // SAFETY: nothing is needed any more.
    unsafe { libc::_exit(code) }
}

fn forks(round: &Round) {
    let guest = round.counting();
    let (vm, vcpu) = (guest.vm.as_fd(), guest.vcpu.as_fd());
    guest.while_running(round.runner(), |_| {
        round.pause();
        // SAFETY: the child makes system calls, takes memory from an allocator
        // that survives a fork, and leaves without unwinding.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                // A process that is not the owner: KVM refuses at once,
                // although the vCPU is in use.
                let by_fd = ByFd::<dyn Kvm, _>::new(round.other(), vcpu);
                for (call, make) in ON_VCPU {
                    assert_eq!(make(&by_fd), Err(Errno::EIO), "{call:?}");
                }
                for (call, make) in ON_VM {
                    assert_eq!(make(round.other(), vm), Err(Errno::EIO), "{call:?}");
                }
                // The child may create a VM of its own.
                let own = Guest::counting(round.other());
                let mut run = own.run.into_inner().unwrap();
                let end = round.other().kvm_run(vcpu, &mut run).err();
                assert_eq!(end, Some(Errno::EIO));
                run.set_immediate_exit(true);
                let end = round.other().kvm_run(own.vcpu.as_fd(), &mut run).err();
                assert_eq!(end, Some(Errno::EINTR));
                leave(0);
            }
            ForkResult::Parent { child } => {
                wait_for_count(&guest.memory);
                let status = waitpid(child, None).unwrap();
                assert_eq!(status, WaitStatus::Exited(child, 0));
                wait_for_count(&guest.memory);
            }
        }
    });
}

/// Ends a process during a run, a call that waits for the run, and calls that create
/// vCPUs. Its status must be `expected`. Above all the process must end: its threads
/// must leave the kernel.
fn ends(round: &Round, end: fn(), expected: fn(Pid) -> WaitStatus) {
    // SAFETY: this process has no other threads, so the child may do anything.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let guest = round.counting();
            let (vm, vcpu) = (guest.vm.as_fd(), guest.vcpu.as_fd());
            guest.while_running(round.runner(), |_| {
                thread::scope(|scope| {
                    scope.spawn(|| {
                        let answer = round.other().kvm_get_regs(vcpu, &mut kvm_regs::default());
                        unreachable!("nobody kicks the vCPU: {answer:?}");
                    });
                    scope.spawn(|| {
                        loop {
                            drop(round.other().kvm_create_vcpu(vm));
                        }
                    });
                    round.pause();
                    end();
                });
            });
            unreachable!("it has ended");
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), expected(child));
        }
    }
}

/// Executes this program, which prints its version.
fn executes() {
    let nowhere = File::options().write(true).open("/dev/null").unwrap();
    // SAFETY: the call touches no memory; this process does not need its stdout.
    unsafe { libc::dup2(nowhere.as_raw_fd(), 1) };
    let this = env::current_exe().unwrap().into_os_string().into_vec();
    let this = CString::new(this).expect("a path has no zeros");
    let error = execv(&this, &[this.as_c_str(), c"--version"]).unwrap_err();
    process::exit(error as i32);
}
