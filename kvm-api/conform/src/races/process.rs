//! A process that runs a vCPU forks, executes another program, ends, or is
//! killed.

use std::env;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::process;
use std::thread;

use kvm_api::Errno;
use kvm_api::kvm_sys::kvm_regs;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execv, fork};

use super::Race;
use super::accessors::{ON_VCPU, ON_VM};
use super::guest::{Guest, wait_for_count};
use super::round::Round;
use super::running::while_running;

pub const RACES: &[Race] = &[
    Race::new("a process forks while its vcpu runs", forks),
    Race::new("a process executes another while its vcpu runs", |round| {
        ends(round, executes, |status| {
            assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
        });
    }),
    Race::new("a process exits while its vcpu runs", |round| {
        ends(
            round,
            |_| leave(7),
            |status| {
                assert!(matches!(status, WaitStatus::Exited(_, 7)), "{status:?}");
            },
        );
    }),
    Race::new("a process is killed while its vcpu runs", |round| {
        let kills = |_: &Round| kill(Pid::this(), Signal::SIGKILL).unwrap();
        ends(round, kills, |status| {
            let killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _));
            assert!(killed, "{status:?}");
        });
    }),
];

/// Ends a forked process, with all threads at once and without dropping values.
fn leave(code: i32) {
    // SAFETY: nothing is needed any more.
    unsafe { libc::_exit(code) }
}

fn forks(round: &Round) {
    let mut guest = Guest::counting(round.runner());
    let (vm, vcpu) = (guest.vm.as_fd(), guest.vcpu.as_fd());
    let (run, memory) = (&mut guest.run, &guest.memory);
    let (end, ()) = while_running(round.runner(), vcpu, run, memory, |_| {
        round.pause();
        // SAFETY: the child makes system calls, takes memory from an allocator
        // that survives a fork, and leaves without unwinding.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                // A process that is not the owner: KVM refuses at once,
                // although the vCPU is in use.
                for (name, call) in ON_VCPU {
                    assert_eq!(call(round.other(), vcpu), Err(Errno::EIO), "{name}");
                }
                for (name, call) in ON_VM {
                    assert_eq!(call(round.other(), vm), Err(Errno::EIO), "{name}");
                }
                // The child may create a VM of its own.
                let mut own = Guest::counting(round.other());
                assert_eq!(
                    round.other().kvm_run(vcpu, &mut own.run).err(),
                    Some(Errno::EIO)
                );
                own.run.set_immediate_exit(true);
                assert_eq!(
                    round.other().kvm_run(own.vcpu.as_fd(), &mut own.run).err(),
                    Some(Errno::EINTR)
                );
                leave(0);
            }
            ForkResult::Parent { child } => {
                wait_for_count(memory);
                let status = waitpid(child, None).unwrap();
                assert_eq!(status, WaitStatus::Exited(child, 0));
                wait_for_count(memory);
            }
        }
    });
    assert_eq!(end, Err(Errno::EINTR));
}

/// Ends a process during a run, a call that waits for the run, and another
/// setup, and checks how it has ended. Above all the process must end: its
/// threads must leave the kernel.
fn ends(round: &Round, end: fn(&Round), check: fn(WaitStatus)) {
    // SAFETY: this process has no other threads, so that the child may do
    // whatever it could.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let mut guest = Guest::counting(round.runner());
            let (vm, vcpu) = (guest.vm.as_fd(), guest.vcpu.as_fd());
            let (run, memory) = (&mut guest.run, &guest.memory);
            let _ = while_running(round.runner(), vcpu, run, memory, |_| {
                thread::scope(|scope| {
                    scope.spawn(|| {
                        let answer = round.other().kvm_get_regs(vcpu, &mut kvm_regs::default());
                        unreachable!("nobody kicks the vcpu: {answer:?}");
                    });
                    scope.spawn(|| {
                        loop {
                            drop(round.other().kvm_create_vcpu(vm));
                        }
                    });
                    round.pause();
                    end(round);
                });
            });
            unreachable!("it has ended");
        }
        ForkResult::Parent { child } => check(waitpid(child, None).unwrap()),
    }
}

/// Executes this program, which prints its version.
fn executes(_: &Round) {
    let nowhere = File::options().write(true).open("/dev/null").unwrap();
    // SAFETY: the call touches no memory; what stdout was is not needed here.
    unsafe { libc::dup2(nowhere.as_raw_fd(), 1) };
    let this = env::current_exe().unwrap().into_os_string().into_vec();
    let this = CString::new(this).expect("a path has no zeros");
    let error = execv(&this, &[this.as_c_str(), c"--version"]).unwrap_err();
    process::exit(error as i32);
}
