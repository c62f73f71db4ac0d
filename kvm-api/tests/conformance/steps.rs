//! The number of instructions of a function in user space, counted by single-stepping.

use std::arch::asm;
use std::hint::black_box;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Makes the counted call in the child: once to bind lazy symbols, then once between
/// two breakpoints.
fn between_breakpoints(mut measured: impl FnMut()) -> ! {
    let measured: &mut dyn FnMut() = black_box(&mut measured);
    measured();
    ptrace::traceme().unwrap();
    raise(Signal::SIGSTOP).unwrap();
    // SAFETY: the tracer continues after a breakpoint.
    unsafe { asm!("int3") };
    measured();
    // SAFETY: as above.
    unsafe { asm!("int3") };
    // SAFETY: nothing of the parent's is touched on the way out.
    unsafe { libc::_exit(0) }
}

/// Counts the instructions of the function that `set_up` returns. A child runs it, with a
/// machine of its own, because the machines of this process would refuse it.
pub fn count<F: FnMut()>(set_up: impl FnOnce() -> F) -> usize {
    // SAFETY: this process has one thread that does anything, and the child
    // leaves without unwinding.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let run = std::panic::AssertUnwindSafe(|| between_breakpoints(set_up()));
            let _ = std::panic::catch_unwind(run);
            // SAFETY: nothing of the parent's is touched on the way out.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Parent { child } => child,
    };
    let stepped = step(child);
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
    stepped.unwrap_or_else(|status| panic!("the child is {status:?}"))
}

/// Steps from the first breakpoint to the second.
fn step(child: Pid) -> Result<usize, WaitStatus> {
    let trapped = |expected| match waitpid(child, None).unwrap() {
        WaitStatus::Stopped(_, signal) if signal == expected => Ok(()),
        other => Err(other),
    };
    // The kernel sends the trap of a breakpoint; the trap of a step is a trace.
    let at_breakpoint = || ptrace::getsiginfo(child).unwrap().si_code == libc::SI_KERNEL;
    trapped(Signal::SIGSTOP)?;
    ptrace::cont(child, None).unwrap();
    trapped(Signal::SIGTRAP)?;
    assert!(at_breakpoint());
    let mut steps = 0;
    loop {
        ptrace::step(child, None).unwrap();
        trapped(Signal::SIGTRAP)?;
        if at_breakpoint() {
            return Ok(steps);
        }
        steps += 1;
    }
}

/// The steps of an empty measurement.
pub fn overhead() -> usize {
    count(|| || ())
}
