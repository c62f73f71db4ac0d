//! The measurement inside the machine.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::counter::{self, Unit, now};
use benches::place;
use benches::vmm::record::{Figure, Interface, Loop, Request, WorkRecord};
use benches::vmm::way::Way;
use kvm_api::kvm_sys::__NR_kvm_check_extension;
use kvm_ioctls::Kvm;
use kvm_preload::{BIND_VARIABLE, COUNTS_VARIABLE, Counts, REPORT_VARIABLE};
use nix::libc::{ENOSYS, ioctl};
use nix::time::{ClockId, clock_gettime};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde::{Deserialize, Serialize};

use crate::child::{self, Outcome};

const COUNTS: &str = "/tmp/counts";

/// What to measure.
#[derive(Serialize, Deserialize)]
pub struct Job {
    /// The name of the work.
    pub name: String,
    /// The VMM, for a reader.
    pub vmm: String,
    /// How often the work is measured in each way.
    pub runs: u32,
    /// The program, and its arguments.
    pub command: Vec<String>,
    /// A text in its output that shows that the work was done. Without one, the exit status
    /// of the first run is the expected one.
    pub shows: Option<String>,
    /// The time limit of a run, on the machine's clock.
    pub limit: Duration,
    /// The library to preload.
    pub library: PathBuf,
    /// The directory of the libraries that the program needs. A program in the root of the
    /// host finds them itself, and has the environment of the host.
    pub libraries: Option<PathBuf>,
}

/// The lines of progress of a job: one for each run.
pub fn lines(runs: u32) -> u32 {
    1 + (1 + runs) * Way::ALL.len() as u32
}

/// Measures a work in each way. If one fails, the others go on.
pub fn measure(job: &Job) -> Result<WorkRecord> {
    let unit = counter::detect();
    let clock = Clock::calibrate(unit)?;
    let mut record = WorkRecord {
        name: job.name.clone(),
        vmm: job.vmm.clone(),
        measured_on: place::here()?,
        unit,
        interface: interface()?,
        figures: Way::ALL.map(|way| (way, Figure::default())).into(),
        failures: [].into(),
    };
    // The first run of a program in a boot takes longer.
    eprintln!("warming up");
    let first = child::run(job.command(Way::Ioctl)?, job.limit)?;
    job.check(&first, first.status)?;
    let expected = first.status;
    // In turns, so that what changes with time does not look like a difference.
    for nth in 0..=job.runs {
        for way in Way::ALL {
            let counts = nth == 0;
            let what = if counts { "requests" } else { "instructions" };
            eprintln!("{what} by {}", way.name());
            let Some(figure) = record.figures.get_mut(&way) else {
                continue;
            };
            let added = if counts {
                count(job, way, expected).map(|requests| figure.requests = requests)
            } else {
                add_run(job, way, expected, &clock, figure)
            };
            if let Err(error) = added {
                record.figures.remove(&way);
                record.failures.insert(way, format!("{error:#}"));
            }
        }
    }
    Ok(record)
}

/// Measures a run.
fn add_run(
    job: &Job,
    way: Way,
    expected: ExitStatus,
    clock: &Clock,
    figure: &mut Figure,
) -> Result<()> {
    let outcome = child::run(job.command(way)?, job.limit)?;
    job.check(&outcome, expected)?;
    figure.runs.push(clock.ticks(outcome.time));
    let loops = outcome.output.lines().filter_map(Loop::parse);
    for (nth, new) in loops.enumerate() {
        match figure.loops.get_mut(nth) {
            // A timer interrupt adds to some.
            Some(least) => least.ticks = least.ticks.min(new.ticks),
            None => figure.loops.push(new),
        }
    }
    Ok(())
}

/// Counts the requests of a run.
fn count(job: &Job, way: Way, expected: ExitStatus) -> Result<Vec<Request>> {
    Counts::prepare(Path::new(COUNTS)).context(COUNTS)?;
    let mut command = job.command(way)?;
    command
        .env("LD_PRELOAD", &job.library)
        .env(COUNTS_VARIABLE.to_str()?, COUNTS);
    if !way.has_library() {
        hide_calls(&mut command)?;
    }
    job.check(&child::run(command, job.limit)?, expected)?;
    let counts = Counts::read(Path::new(COUNTS)).context(COUNTS)?;
    ensure!(
        !counts.lines.is_empty(),
        "it makes no ioctl of KVM by the C library: it is static, or does not use KVM"
    );
    let found = counts.processes > 0;
    ensure!(
        found == way.has_library(),
        "the library has {}found the calls",
        if found { "" } else { "not " }
    );
    let mut requests: Vec<_> = counts
        .lines
        .into_iter()
        .map(|line| Request {
            ioctl: line.request.into(),
            call: line.call.filter(|_| line.outcome.is_call()).map(Into::into),
            count: line.count,
        })
        .collect();
    requests.sort_by_key(|request| std::cmp::Reverse(request.count));
    Ok(requests)
}

impl Job {
    /// The command, in a way.
    fn command(&self, way: Way) -> Result<Command> {
        let (program, args) = self.command.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(args);
        if let Some(libraries) = &self.libraries {
            command.env_clear().env("LD_LIBRARY_PATH", libraries);
            command.env("HOME", "/tmp");
        }
        // The caller may have these of a trial of the library.
        for variable in [BIND_VARIABLE, COUNTS_VARIABLE, REPORT_VARIABLE] {
            command.env_remove(variable.to_str()?);
        }
        command.env_remove("LD_PRELOAD");
        if way.has_library() {
            command.env("LD_PRELOAD", &self.library);
        }
        if let Some(bind) = way.bind() {
            command.env(BIND_VARIABLE.to_str()?, bind.to_str()?);
        }
        Ok(command)
    }

    /// Checks that a run has done the work.
    fn check(&self, outcome: &Outcome, expected: ExitStatus) -> Result<()> {
        let status = outcome.status;
        let last = outcome.last();
        match &self.shows {
            Some(text) => ensure!(
                status.success() && outcome.output.contains(text),
                "{status}, without {text:?}:\n{last}"
            ),
            None => ensure!(
                status == expected && status.code().is_some(),
                "{status}, and {expected} of the first run:\n{last}"
            ),
        }
        Ok(())
    }
}

/// Makes the library of a command believe that the kernel lacks the calls: then it makes and
/// counts ioctls only.
fn hide_calls(command: &mut Command) -> Result<()> {
    let hidden = [(__NR_kvm_check_extension, vec![])].into();
    let filter = SeccompFilter::new(
        hidden,
        SeccompAction::Allow,
        SeccompAction::Errno(ENOSYS as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program = BpfProgram::try_from(filter)?;
    let apply = move || seccompiler::apply_filter(&program).map_err(io::Error::other);
    // SAFETY: between fork and exec the closure makes two system calls.
    unsafe { command.pre_exec(apply) };
    Ok(())
}

/// The cost of an ioctl whose number KVM does not know.
fn interface() -> Result<Interface> {
    let kvm = Kvm::new().context("/dev/kvm")?;
    let vm = kvm.create_vm().context("cannot make a VM")?;
    let vcpu = vm.create_vcpu(0).context("cannot make a vCPU")?;
    Ok(Interface {
        vm: unknown_request(&vm)?,
        vcpu: unknown_request(&vcpu)?,
    })
}

/// The least ticks of many tries.
fn unknown_request(file: &impl AsRawFd) -> Result<u64> {
    /// Of KVM's type, with the last number.
    const UNKNOWN: u64 = 0xaeff;
    let mut least = u64::MAX;
    for _ in 0..1000 {
        let start = now();
        // SAFETY: the ioctl takes a number.
        let answer = unsafe { ioctl(file.as_raw_fd(), UNKNOWN, 0) };
        least = least.min(now() - start);
        ensure!(answer == -1, "KVM knows the ioctl {UNKNOWN:#x}");
    }
    Ok(least)
}

/// The ticks of the unit in a nanosecond of processor time.
struct Clock(f64);

impl Clock {
    /// Compares the processor time with the time stamp counter, if that counts instructions.
    /// The kernel knows its frequency only from a calibration.
    fn calibrate(unit: Unit) -> Result<Self> {
        const LONG: u64 = 50_000_000;
        if unit == Unit::Nanoseconds {
            return Ok(Self(1.0));
        }
        let time = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
        let (start, begin) = (now(), time()?);
        while now() - start < LONG {}
        let (time, ticks) = (time()? - begin, now() - start);
        Ok(Self(ticks as f64 / time.as_nanos() as f64))
    }

    fn ticks(&self, time: Duration) -> u64 {
        (time.as_nanos() as f64 * self.0).round() as u64
    }
}
