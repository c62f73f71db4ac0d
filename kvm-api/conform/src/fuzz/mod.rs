//! Raw calls with arguments of every kind. They must not make the kernel
//! complain or hang.

mod argument;
mod child;
mod corpus;
mod fitting;
mod pool;
mod rows;
mod step;
#[cfg(test)]
mod syzlang;
mod tally;

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::{ForkResult, Pid, fork};

use crate::child::ended;
use crate::cli::Options;
use crate::inside::progress;
use crate::outcome::{Failure, Outcome};
use crate::property::{Kernels, Property, Test};
use crate::wait;
use tally::Tally;

pub const PROPERTY: Property = Property {
    name: "fuzz",
    about: "no raw call makes the kernel report a problem or hang",
    backends: "syscall, merged, ranges, files, bound, process, ioctl",
    kernels: Kernels::Both,
    test: Test::inside(test),
};

/// The number of calls of each child, unless it dies.
const CALLS: u64 = 10_000;
/// The number of calls after which each call must have succeeded.
const MANY: u64 = 20_000;
/// A child that makes no call for this time is killed, and must be gone after
/// as long again.
const STILL: Duration = Duration::from_millis(500);
const GONE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

fn test(options: &Options) -> Result<Outcome> {
    let calls = options.cases(100_000, 1_000_000, 50_000);
    let tally = Tally::new()?;
    let mut outcome = Outcome::default();
    let (mut died, mut stuck) = (0, 0);
    for seed in options.seed.. {
        let left = calls.saturating_sub(tally.calls());
        if left == 0 {
            break;
        }
        progress(&format!("{} of {calls} calls, seed {seed}", calls - left));
        let calls = CALLS.min(left);
        match one(seed, calls, &tally)? {
            End::Done => {}
            End::Died => died += 1,
            End::Killed => stuck += 1,
            End::Hung(stack) => {
                outcome.failures.push(Failure {
                    what: format!("a killed child does not exit; its stack:\n{stack}"),
                    replay: Some(format!("--seed {seed} --cases {calls}")),
                });
                break;
            }
        }
    }
    outcome.cases = tally.calls();
    if calls >= MANY {
        for name in tally.never() {
            outcome.fail(format!("{name} never succeeded"));
        }
    }
    outcome.notes.push(format!(
        "{}\n  {died} children died of writes to their own memory, {stuck} ran a guest that no signal reached",
        tally.lines()
    ));
    Ok(outcome)
}

enum End {
    Done,
    /// Killed by a signal: guests and calls write to its memory.
    Died,
    /// Killed because it made no progress.
    Killed,
    /// It did not end; these are its stacks.
    Hung(String),
}

fn one(seed: u64, calls: u64, tally: &Tally) -> Result<End> {
    // SAFETY: there are no other threads, so that the child may do anything.
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let done = child::run(seed, calls, tally);
            if let Err(error) = &done {
                eprintln!("fuzz: {error:#}");
            }
            // SAFETY: nothing of the parent's is to be dropped here.
            unsafe { libc::_exit(done.is_err().into()) }
        }
    };
    let mut done = tally.done();
    let mut moved = Instant::now();
    loop {
        if let Some(status) = ended(child)? {
            return match status {
                WaitStatus::Exited(_, 0) => Ok(End::Done),
                WaitStatus::Exited(_, code) => bail!("a child could not begin (status {code})"),
                _ => Ok(End::Died),
            };
        }
        if tally.done() != done {
            done = tally.done();
            moved = Instant::now();
        } else if moved.elapsed() > STILL {
            return end(child);
        }
        sleep(PAUSE);
    }
}

/// Kills a child that makes no progress.
fn end(child: Pid) -> Result<End> {
    kill(child, Signal::SIGKILL)?;
    if wait::until(GONE, PAUSE, || Ok(ended(child)?.is_some()))? {
        return Ok(End::Killed);
    }
    let stack = fs::read_to_string(format!("/proc/{child}/stack"));
    Ok(End::Hung(stack.unwrap_or_else(|error| error.to_string())))
}
