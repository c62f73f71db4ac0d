//! Concurrent operations: files are closed, memory is replaced, and processes
//! end while a vCPU runs, by either interface and by both at once.
//!
//! A race runs in its own process, round after round. Each round makes assertions that
//! hold whichever operation comes first, and panics if one of them fails.
//! Meanwhile the watchdog tries to unload KVM.

mod accessors;
mod bound_vm;
mod capabilities;
mod close;
mod create;
mod dirty;
mod guest;
mod host_memory;
mod immediate;
mod kicks;
mod memory;
mod migrate;
mod process;
mod race_run;
mod random;
mod ranges;
mod round;
mod signals;
mod stacks;
mod table;
mod task_work;
mod threads;
mod torn;
mod unmapped;

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use kernel_patch::{Accel, Machine};
use kvm_api::syscall::Syscall;

use self::guest::Guest;
use self::race_run::{Limit, RaceRun};
use self::round::{Pairing, Round};
use crate::cli::Options;
use crate::delays;
use crate::inside::progress;
use crate::outcome::{Failure, Outcome};
use crate::processors;
use crate::property::{Kernels, Property, Test};
use crate::test_kernel::TestKernel;

pub const PROPERTY: Property = Property {
    name: "races",
    about: "whichever operation comes first, nothing is lost, torn or used after it is freed",
    backends: "ioctl, syscall, process, mixed",
    kernels: Kernels::All,
    test: Test::Inside { machine, test },
};

/// A race: its name, and the function that runs a round.
pub type Race = (&'static str, fn(&Round));

const RACES: &[&[Race]] = &[
    close::RACES,
    accessors::RACES,
    torn::RACES,
    capabilities::RACES,
    memory::RACES,
    unmapped::RACES,
    host_memory::RACES,
    dirty::RACES,
    ranges::RACES,
    process::RACES,
    signals::RACES,
    immediate::RACES,
    kicks::RACES,
    bound_vm::RACES,
    create::RACES,
    table::RACES,
    migrate::RACES,
    task_work::RACES,
];

/// The time limit of a race whose number of rounds the user has chosen.
const ALL_ROUNDS: Duration = Duration::from_secs(900);

/// The numbers of online processors to run the races on, in ascending order. The
/// machine starts with one.
fn processors(options: &Options) -> &'static [u32] {
    match (options.debug, options.sample) {
        (true, false) => &[2, 4],
        (true, true) => &[4],
        (false, _) => &[2],
    }
}

fn machine(kernel: &TestKernel<'_>) -> Result<Machine> {
    let most = processors(kernel.options).iter().max();
    let most = *most.context("no numbers of processors")?;
    Ok(delays::machine(kernel)
        .accel(Accel::Mttcg)
        .smp(most)
        .cmdline("maxcpus=1"))
}

fn test(options: &Options) -> Result<Outcome> {
    let limit = Limit {
        rounds: options.cases(1000, 1000, 200),
        time: match (options.sample, options.debug) {
            _ if options.has_cases() => ALL_ROUNDS,
            (true, _) => Duration::from_millis(250),
            (false, false) => Duration::from_millis(500),
            (false, true) => Duration::from_millis(2000),
        },
    };
    // This VM keeps KVM loaded. It also keeps KVM from patching the kernel's
    // code whenever the first VM is created or the last one destroyed, while
    // other processors are online.
    let kept = Guest::counting(&Syscall::open()?);
    capabilities::keep(kept.vm.as_fd());
    let mut outcome = Outcome::default();
    let (mut refused, mut lost) = (0, 0);
    let mut held = Vec::new();
    let mut online = 1;
    for &processors in processors(options) {
        for processor in online..processors {
            processors::bring_online(processor)?;
        }
        online = processors;
        let races = RACES.iter().copied().flatten();
        for &(race, round) in races.filter(|(race, _)| options.wants(race)) {
            for pairing in Pairing::all() {
                let name = format!("{race} ({pairing}, {processors} processors)");
                progress(&name);
                let seed = options.seed;
                let run = RaceRun {
                    round,
                    pairing,
                    limit,
                    seed,
                };
                let report = run.run()?;
                outcome.cases += report.rounds;
                refused += report.refused;
                lost += report.lost;
                let Some(what) = report.failure else {
                    held.push((report.rounds, name));
                    continue;
                };
                progress(&format!("{name} fails: {what}"));
                let what = format!("{name}, after {} rounds: {what}", report.rounds);
                let replay = Some(format!("--seed {seed} --case {race:?}"));
                outcome.failures.push(Failure { what, replay });
            }
        }
    }
    drop(kept);
    let races = RACES.iter().map(|races| races.len()).sum::<usize>();
    let fewest = held.iter().min().map_or(String::new(), |(rounds, name)| {
        format!(", the fewest {rounds}, of: {name}")
    });
    delays::note(options, &mut outcome)?;
    if lost > 0 {
        outcome.notes.push(format!(
            "QEMU lost a guest's state {lost} times, and the races ran again"
        ));
    }
    outcome.notes.push(format!(
        "rounds of {races} races in {} ways{fewest}; meanwhile {refused} attempts to unload KVM were refused",
        Pairing::all().count(),
    ));
    Ok(outcome)
}
