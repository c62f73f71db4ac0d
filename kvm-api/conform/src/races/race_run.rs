//! A race in a process of its own, and the watchdog over it.

use std::io::{self, PipeWriter, Read, Write};
use std::panic;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::WaitStatus;
use nix::unistd::{ForkResult, Pid, fork, setpgid};

use super::guest::LOST;
use super::random::Random;
use super::round::{Pairing, Round};
use super::stacks;
use crate::child::ended;
use crate::module::loading::{KVM, VENDOR, unload};
use crate::signal;
use crate::wait;

/// How long a race may exceed its time.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a race is run if the emulator loses a guest's state each time.
const TRIES: u64 = 3;

/// The interval at which the watchdog looks, and tries to unload KVM.
const STEP: Duration = Duration::from_millis(5);

/// The limits of a race. The race ends at the first that it reaches.
#[derive(Clone, Copy)]
pub struct Limit {
    pub rounds: u64,
    pub time: Duration,
}

/// A race with one pairing of interfaces.
pub struct RaceRun {
    pub round: fn(&Round),
    pub pairing: Pairing,
    pub limit: Limit,
    pub seed: u64,
}

#[derive(Default)]
pub struct RaceResult {
    pub rounds: u64,
    /// The number of refused attempts to unload KVM.
    pub refused: u64,
    /// How often the emulator has lost a guest's state.
    pub lost: u64,
    pub failure: Option<String>,
}

/// The byte that the process of a race writes after each round. All other
/// output is a failure.
const ROUND: u8 = 0;

impl RaceRun {
    /// Runs the race, and again if the emulator loses a guest's state.
    pub fn run(&self) -> Result<RaceResult> {
        let mut report = RaceResult::default();
        for lost in 0..TRIES {
            self.run_once(&mut report)?;
            if report.lost == lost {
                return Ok(report);
            }
        }
        report.failure = Some(format!("QEMU has lost a guest's state {TRIES} times"));
        Ok(report)
    }

    fn run_once(&self, report: &mut RaceResult) -> Result<()> {
        let (mut reader, writer) = io::pipe()?;
        // SAFETY: this process has no other threads, so the child may do anything.
        let child = match unsafe { fork() }? {
            ForkResult::Child => self.rounds(writer),
            ForkResult::Parent { child } => child,
        };
        drop(writer);
        let ended = self.watch(child, report);
        // Also kill processes that the race has started and left behind.
        let _ = killpg(child, Signal::SIGKILL);
        let ended = ended?;
        let mut output = Vec::new();
        reader.read_to_end(&mut output)?;
        report.rounds += output.iter().filter(|it| **it == ROUND).count() as u64;
        output.retain(|it| *it != ROUND);
        report.failure = match output.is_empty() {
            true => ended,
            false => Some(String::from_utf8_lossy(&output).into_owned()),
        };
        Ok(())
    }

    /// The process of the race.
    fn rounds(&self, writer: PipeWriter) -> ! {
        let _ = setpgid(Pid::this(), Pid::this());
        signal::handle(signal::KICK).expect("the signal can be handled");
        let mut rounds = writer.try_clone().expect("a file descriptor is left");
        panic::set_hook(Box::new(move |panic| {
            // Exit, whichever thread has panicked: unwinding would have to end
            // the others.
            let _ = write!(&writer, "{panic}");
            // SAFETY: nothing of this process is needed any more.
            unsafe { libc::_exit(1) }
        }));
        let began = Instant::now();
        for number in 0..self.limit.rounds {
            let random = Random::new(self.seed ^ number.rotate_left(32));
            (self.round)(&Round::new(number, self.pairing, random));
            rounds.write_all(&[ROUND]).expect("the watchdog lives");
            if began.elapsed() > self.limit.time {
                break;
            }
        }
        // SAFETY: as above.
        unsafe { libc::_exit(0) }
    }

    /// Waits for the process up to its time limit, and returns the error if it
    /// does not end well.
    fn watch(&self, child: Pid, report: &mut RaceResult) -> Result<Option<String>> {
        let began = Instant::now();
        loop {
            match ended(child)? {
                None => {}
                Some(WaitStatus::Exited(_, 0)) => return Ok(None),
                Some(WaitStatus::Exited(_, LOST)) => {
                    report.lost += 1;
                    return Ok(None);
                }
                Some(how) => return Ok(Some(format!("the race's process: {how:?}"))),
            }
            for module in [VENDOR, KVM] {
                let answer = unload(module);
                if answer != Err(Errno::EWOULDBLOCK) {
                    let what = format!("with a VM alive, unloading {module} gave {answer:?}");
                    return Ok(Some(what));
                }
                report.refused += 1;
            }
            if began.elapsed() > self.limit.time + PATIENCE {
                let what = format!("the race hangs:\n{}", stacks::of_group(child));
                kill(child)?;
                return Ok(Some(what));
            }
            sleep(STEP);
        }
    }
}

/// Ends a process that hangs.
fn kill(child: Pid) -> Result<()> {
    killpg(child, Signal::SIGKILL)?;
    let killed = wait::until(PATIENCE, STEP, || Ok(ended(child)?.is_some()))?;
    ensure!(
        killed,
        "a race hangs, and cannot be killed:\n{}",
        stacks::of_group(child)
    );
    Ok(())
}
