//! The machine is suspended, up to the point at which it would sleep, and
//! resumed, while tasks have bound vCPUs.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};
use kvm_api::Errno;

use super::calls::run_bound;
use super::model::Model;
use super::program::{SPIN, START};
use super::steps::{Action, By, Step};
use super::task_set::TaskSet;
use crate::outcome::Outcome;
use crate::random;

/// The task that suspends the machine, and another one, each with a vCPU of its
/// own.
const SUSPENDS: usize = 0;
const IS_FROZEN: usize = 1;

type SuspendCase = (&'static str, fn(&mut Suspension) -> Result<()>);

const CASES: &[SuspendCase] = &[
    ("the task that suspends the machine has a vCPU", suspends),
    ("a task that is frozen has a vCPU", frozen),
    ("a task that is frozen runs its vCPU", runs),
];

pub fn all(outcome: &mut Outcome) {
    for (name, case) in CASES {
        let mut result = Ok(());
        let whole = random::caught(|| result = case(&mut Suspension::new()));
        outcome.case(name, whole.map_err(Error::msg).and(result));
    }
}

/// The tasks and their vCPUs, in lockstep with the model.
struct Suspension {
    task_set: TaskSet,
    model: Model,
}

impl Suspension {
    fn new() -> Self {
        Self {
            task_set: TaskSet::new(),
            model: Model::new(),
        }
    }

    /// Takes steps, whose results must be those of the model.
    fn take(&mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            let before = self.model.clone();
            self.model.take(step);
            let (answer, expected) = (self.task_set.take(step, &before), self.model.answer);
            ensure!(answer == expected, "{step:?}: {answer:?}, not {expected:?}");
            if let Some(difference) = self.task_set.difference(&self.model) {
                bail!("{step:?}: {difference}");
            }
        }
        Ok(())
    }

    /// Suspends the machine, from one of the tasks.
    fn suspend(&self) -> Result<()> {
        self.task_set.task(SUSPENDS).execute(|_| suspend())
    }
}

/// Binds the task's vCPU, and runs it twice: the last run leaves it in use
/// after the registers of all were read.
fn parked(task: usize) -> [Step; 3] {
    let run = Action::Run(By::Binding);
    [Action::Bind(task), run.clone(), run].map(|action| Step { task, action })
}

/// Continues running: also after its state was set again, and by its
/// descriptor.
fn continues(task: usize) -> [Step; 4] {
    [
        Action::Run(By::Binding),
        Action::Accessors(By::Binding),
        Action::Run(By::Ioctl(task)),
        Action::Unbind,
    ]
    .map(|action| Step { task, action })
}

fn suspends(suspension: &mut Suspension) -> Result<()> {
    suspension.take(&parked(SUSPENDS))?;
    suspension.suspend()?;
    suspension.take(&continues(SUSPENDS))
}

fn frozen(suspension: &mut Suspension) -> Result<()> {
    suspension.take(&[Step {
        task: IS_FROZEN,
        action: Action::Move(1),
    }])?;
    suspension.take(&parked(IS_FROZEN))?;
    // The task stays in user space.
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let waits = suspension.task_set.task(IS_FROZEN).start(move |_| {
        while !seen.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    let suspended = suspension.suspend();
    over.store(true, Ordering::Relaxed);
    waits.end();
    suspended?;
    suspension.take(&continues(IS_FROZEN))
}

fn runs(suspension: &mut Suspension) -> Result<()> {
    let task = IS_FROZEN;
    let step = |action| Step { task, action };
    let (by, bx) = (By::Binding, 7);
    let at = |rip| {
        step(Action::SetRegs {
            by,
            rip: Some(rip),
            bx,
        })
    };
    suspension.take(&[step(Action::Move(1)), step(Action::Bind(task)), at(SPIN)])?;
    let run = || suspension.task_set.task(task).start(run_bound);
    let first = run();
    sleep(IN_GUEST);
    let suspended = suspension.suspend();
    if suspended.is_err() {
        // Nothing else ends it.
        suspension.task_set.kick(task)?;
    }
    // To freeze, a task leaves the guest, as for a signal.
    let first = first.end();
    suspended?;
    let second = run();
    sleep(IN_GUEST);
    suspension.task_set.kick(task)?;
    for (which, end) in [("frozen", first), ("kicked", second.end())] {
        ensure!(
            end == Err(Errno::EINTR),
            "the {which} run ends with {end:?}"
        );
    }
    suspension.take(&[at(START)])?;
    suspension.take(&continues(task))
}

/// Long enough for a task to be in the guest.
const IN_GUEST: Duration = Duration::from_millis(50);

/// Suspends the machine as far as possible without a device to wake it up.
fn suspend() -> Result<()> {
    let set = |path: &str, value: &str| {
        fs::write(path, value).with_context(|| format!("{value} to {path}"))
    };
    let successes = || -> Result<u64> {
        let path = "/sys/power/suspend_stats/success";
        Ok(fs::read_to_string(path).context(path)?.trim().parse()?)
    };
    set("/sys/module/suspend/parameters/pm_test_delay", "0")?;
    set("/sys/power/mem_sleep", "deep")?;
    set("/sys/power/pm_test", "core")?;
    let before = successes()?;
    set("/sys/power/state", "mem")?;
    ensure!(successes()? == before + 1, "the machine was not suspended");
    Ok(())
}
