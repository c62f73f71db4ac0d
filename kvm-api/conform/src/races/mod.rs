//! What happens at the same time: files closed, memory replaced, processes
//! ended while a vcpu runs, by either interface and by both at once.
//!
//! A race is tried in a process of its own, round after round. Each round sets
//! up what it needs and asserts what must hold whoever comes first; a panic is
//! what it finds. Meanwhile the watchdog tries to unload KVM.

mod accessors;
mod capabilities;
mod close;
mod create;
mod dirty;
mod guest;
mod host_memory;
mod immediate;
mod kick;
mod memory;
mod migrate;
mod process;
mod race_run;
mod random;
mod round;
mod running;
mod signals;
mod stacks;
mod table;
mod task_work;
mod torn;
mod unmapped;

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use kernel_patch::{Accel, Machine};
use kvm_api::syscall::Syscall;

use self::guest::Guest;
use self::race_run::{Limit, RaceRun};
use self::round::{Pairing, Round};
use crate::cli::Options;
use crate::inside::Stage;
use crate::outcome::{Failure, Outcome};
use crate::property::{Kernels, Property, Test};

pub const PROPERTY: Property = Property {
    name: "races",
    about: "whoever comes first, nothing is lost, torn or used after it is gone",
    backends: "ioctl, syscall, mixed",
    kernels: Kernels::Both,
    test: Test::Inside { machine, test },
};

/// One kind of race.
pub struct Race {
    pub name: &'static str,
    /// One round of it.
    pub round: fn(&Round),
}

impl Race {
    const fn new(name: &'static str, round: fn(&Round)) -> Self {
        Self { name, round }
    }
}

const RACES: &[&[Race]] = &[
    close::RACES,
    accessors::RACES,
    torn::RACES,
    capabilities::RACES,
    memory::RACES,
    unmapped::RACES,
    host_memory::RACES,
    dirty::RACES,
    process::RACES,
    signals::RACES,
    immediate::RACES,
    create::RACES,
    table::RACES,
    migrate::RACES,
    task_work::RACES,
];

/// How many processors there are. All but the first are off at first.
fn processors(options: &Options) -> u32 {
    if options.debug { 4 } else { 2 }
}

fn machine(machine: Machine, options: &Options) -> Machine {
    let machine = machine.accel(Accel::Mttcg).smp(processors(options));
    machine.cmdline("maxcpus=1")
}

fn test(stage: &Stage<'_>) -> Result<Outcome> {
    let options = stage.options;
    let limit = Limit {
        rounds: options.cases(1000, 1000, 200),
        time: Duration::from_millis(match (options.sample, options.debug) {
            (true, _) => 250,
            (false, false) => 500,
            (false, true) => 2000,
        }),
    };
    // As long as a VM lives KVM may not be unloaded. This one also keeps KVM
    // from patching the kernel's code each time that the first VM is made or the
    // last one goes, which QEMU does not get right with a thread a processor:
    // another one may still run into the breakpoint that was there meanwhile. So
    // there is none yet.
    let kept = Guest::counting(&Syscall::open()?);
    capabilities::keep(kept.vm.as_fd());
    for processor in 1..processors(options) {
        let online = format!("/sys/devices/system/cpu/cpu{processor}/online");
        fs::write(&online, "1").context(online)?;
    }
    let mut outcome = Outcome::default();
    let mut refused = 0;
    let mut least: Option<(u64, String)> = None;
    for race in RACES.iter().copied().flatten() {
        for pairing in Pairing::ALL {
            let name = format!("{} ({pairing})", race.name);
            stage.say(&name);
            let seed = options.seed;
            let report = RaceRun {
                race,
                pairing,
                limit,
                seed,
            }
            .run()?;
            outcome.cases += report.rounds;
            refused += report.refused;
            if let Some(what) = report.failure {
                stage.say(&format!("{name} fails: {what}"));
                outcome.failures.push(Failure {
                    what: format!("{name}, after {} rounds: {what}", report.rounds),
                    replay: Some(format!("--seed {}", options.seed)),
                });
            } else if least
                .as_ref()
                .is_none_or(|(rounds, _)| report.rounds < *rounds)
            {
                least = Some((report.rounds, name));
            }
        }
    }
    drop(kept);
    let races = RACES.iter().map(|races| races.len()).sum::<usize>();
    let fewest = least.map_or(String::new(), |(rounds, name)| {
        format!(", the fewest {rounds}, of: {name}")
    });
    outcome.notes.push(format!(
        "rounds of {races} races in {} ways{fewest}; meanwhile {refused} attempts to unload KVM were refused",
        Pairing::ALL.len(),
    ));
    Ok(outcome)
}
