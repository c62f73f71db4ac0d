//! Calls that collide with another thread's.

use std::fs;
use std::os::fd::AsRawFd;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guests::{ENTRY, programs};
use kvm_sys::{FlatCall, KVM_RUN};
use libc::{c_int, c_void};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, alarm};

use super::invocation::{Invocation, Raw};
use super::misuse::{Made, Observed};
use super::testbed::Testbed;
use crate::signal::{kick, kick_to_end, spawn};
use crate::tested_call::TestedCall;
use crate::{child, wait};

/// The time limit of a case, in seconds. Then a signal ends the process.
const LIMIT: u32 = 60;
/// The time limit for something that is about to happen.
const SOON: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_micros(200);
/// The length of the stack of another process, in words of its alignment.
const STACK: usize = 0x1000;

/// From a new thread.
pub fn another(testbed: &mut Testbed<'_>, invocation: &Invocation) -> Result<Made> {
    invocation.place(testbed);
    let call = invocation.placed(testbed.both);
    let answer = thread::scope(|scope| scope.spawn(call).join());
    let answer = answer.ok().context("the thread has panicked")?;
    Ok(Made::returned(answer).with_slot(invocation.slot(testbed)))
}

/// While another thread runs the vCPU. A call on the vCPU waits for the run to
/// end.
pub fn while_running(
    testbed: &mut Testbed<'_>,
    mut invocation: Invocation,
    waits: bool,
    signal: bool,
) -> Result<Made> {
    if waits {
        invocation.words[0] = testbed.machine.vcpu().as_raw_fd() as u64;
    }
    invocation.place(testbed);
    let both = testbed.both;
    let call = invocation.placed(both);
    let done = run_meanwhile(testbed, |testbed, stop| {
        thread::scope(|scope| {
            let (thread, caller) = spawn(scope, call);
            let waited = until(|| caller.is_finished() || waits && is_waiting(thread));
            let mut wrong = waited.err().map(|error| format!("{error:#}"));
            if waits && caller.is_finished() {
                wrong = Some("it has not waited for the vCPU".into());
            }
            if signal {
                kick(thread);
                // It keeps waiting. This takes only a few ticks.
                sleep(10 * PAUSE);
                if caller.is_finished() {
                    wrong = Some("the signal has ended it".into());
                }
            }
            // A run that has waited must end.
            let immediate = invocation.call == TestedCall::Flat(FlatCall::kvm_run);
            testbed.machine.run.set_immediate_exit(immediate);
            stop();
            let answer = caller.join().ok().context("the thread has panicked")?;
            testbed.machine.run.set_immediate_exit(false);
            Ok(Made::returned(answer).but(wrong))
        })
    })?;
    Ok(done.with_slot(invocation.slot(testbed)))
}

/// While this process runs the vCPU, from another one with the same memory and
/// files. That process is killed while it waits, and the run continues.
pub fn killed(testbed: &mut Testbed<'_>, mut invocation: Invocation) -> Result<Made> {
    invocation.words[0] = testbed.machine.vcpu().as_raw_fd() as u64;
    invocation.place(testbed);
    let raw = invocation.raw();
    run_meanwhile(testbed, |testbed, stop| {
        let mut stack = vec![0_u128; STACK];
        let process = twin(&mut stack, &raw)?;
        let mut ended = None;
        let mut wrong = until(|| {
            ended = child::ended(process).ok().flatten();
            ended.is_some() || is_waiting(process)
        });
        kill(process, Signal::SIGKILL).ok();
        let gone = until(|| {
            ended = ended.or_else(|| child::ended(process).ok().flatten());
            ended.is_some()
        });
        if gone.is_err() {
            // It waits for a vCPU that does not become free by itself.
            wrong = wrong.and(Err(anyhow::anyhow!("SIGKILL does not end it")));
        } else {
            until(|| counts(testbed).unwrap_or(false)).context("the vCPU has stopped")?;
        }
        stop();
        if gone.is_err() {
            waitpid(process, None)?;
        }
        let made = match ended {
            Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => Made::observed(Observed::Died),
            // The exit status of the twin is its result.
            Some(WaitStatus::Exited(_, code)) => Made::returned(Ok(code.into())),
            other => bail!("the process ends with {other:?}"),
        };
        Ok(made.but(wrong.err().map(|error| format!("{error:#}"))))
    })
}

/// Runs a counting guest in another thread while `act` runs, which gets the
/// means to end the run.
fn run_meanwhile<'k>(
    testbed: &mut Testbed<'k>,
    act: impl FnOnce(&mut Testbed<'k>, &dyn Fn()) -> Result<Made>,
) -> Result<Made> {
    alarm::set(LIMIT);
    testbed.machine.load(programs::COUNT);
    testbed.machine.start_at(ENTRY);
    let vcpu = testbed.machine.vcpu().as_raw_fd();
    let made = thread::scope(|scope| {
        let (thread, runner) = spawn(scope, move || {
            // SAFETY: the request touches no memory but the guest's.
            Errno::result(unsafe { libc::ioctl(vcpu, KVM_RUN, 0) })
        });
        let stop = || kick_to_end(thread, &runner);
        let made = until(|| counts(testbed).unwrap_or(false)).and_then(|()| act(testbed, &stop));
        stop();
        made
    });
    alarm::cancel();
    testbed.machine.load(programs::HLT);
    testbed.machine.start_at(ENTRY);
    made
}

/// Whether the guest is counting.
fn counts(testbed: &Testbed<'_>) -> Result<bool> {
    let count = || -> Result<[u8; 4]> {
        let mut count = [0; 4];
        testbed.machine.memory.read(programs::COUNTER, &mut count)?;
        Ok(count)
    };
    let before = count()?;
    sleep(PAUSE);
    Ok(count()? != before)
}

/// Waits until the condition holds.
fn until(mut condition: impl FnMut() -> bool) -> Result<()> {
    let holds = wait::until(SOON, PAUSE, || Ok(condition()))?;
    ensure!(holds, "not within {SOON:?}");
    Ok(())
}

/// Whether a thread sleeps in a way that only a fatal signal can interrupt.
fn is_waiting(thread: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{thread}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default();
    state.trim_start().starts_with('D')
}

/// A process with the memory and files of this one, which makes the call.
fn twin(stack: &mut [u128], raw: &Raw) -> Result<Pid> {
    extern "C" fn call(raw: *mut c_void) -> c_int {
        // SAFETY: it is the value that `clone` got, which lives until the process has
        // ended.
        let raw = unsafe { *raw.cast::<Raw>() };
        raw.make_only().is_err().into()
    }
    let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::SIGCHLD;
    let argument = std::ptr::from_ref(raw).cast_mut().cast();
    // SAFETY: the stack is as long as its slice, and grows down. The process makes one
    // system call on it, and allocates nothing. It shares the errno of this thread, and
    // writes it only if the expected kill does not happen.
    let process = unsafe {
        let top = stack.as_mut_ptr_range().end.cast();
        libc::clone(call, top, flags, argument)
    };
    Ok(Pid::from_raw(Errno::result(process)?))
}
