//! The machines in which the VMMs run, one for each work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, iter};

use anyhow::{Context, Result, ensure};
use benches::place::Build;
use benches::vmm::record::WorkRecord;
use benches::vmm::work::{INITRD, INSIDE, KERNEL, Program, Work};
use kernel_patch::{
    Kernel, Machine, Progress, cdylib, dynamic_programs, find_program, lanes, libraries,
    workspace_dir,
};

use crate::cli::Options;
use crate::guest;
use crate::inside::{self, Job};

/// The directory of the libraries inside.
const LIBRARIES: &str = "/lib";

/// The files with firmware that QEMU opens.
const FIRMWARE: [&str; 3] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin"];

/// The time limit of a run of known work, on the machine's clock. The longest takes about a
/// second there. A guest that hangs and spins takes some minutes of real time to reach it.
const LIMIT: Duration = Duration::from_secs(20);

/// The time limit of a run of another VMM. Waiting for a file of the host takes long on the
/// machine's clock.
const LIMIT_OF_OTHERS: Duration = Duration::from_secs(3600);

/// About how many seconds a run of another VMM takes.
const SECONDS_OF_OTHERS: u32 = 10;

/// A work, in the machine in which it runs.
struct Task {
    machine: Machine,
    job: Job,
    /// About how many seconds a run takes under emulation.
    seconds: u32,
}

/// Measures each work in a machine of its own, two at a time. If a machine fails, the others
/// go on. Also returns the number of those that failed.
pub fn measure(options: &Options) -> Result<(Vec<WorkRecord>, usize)> {
    let mut builder = Kernel::builder().base(options.base);
    if let Some(source) = &options.source {
        builder = builder.source(source);
    }
    let kernel = builder.build()?;
    let scratch = tempfile::tempdir().context("a temporary directory")?;
    let preload = workspace_dir()?.join("kvm-api/preload");
    let library = cdylib(&preload, &["interpose"])?.join("libkvm_preload.so");
    let tasks = match &options.command[..] {
        [] => known(options, &kernel, &library, scratch.path())?,
        command => vec![other(options, command, library)?],
    };
    let left = TimeLeft::new(&tasks);
    let done = lanes(2, &tasks, |_, task| {
        let run = task.run(&kernel, &left);
        run.inspect_err(|error| eprintln!("vmm: {}: {error:#}", task.job.name))
    })?;
    let all = done.len();
    let done: Vec<_> = done.into_iter().flatten().collect();
    ensure!(!done.is_empty(), "nothing was measured");
    let missing = all - done.len();
    Ok((done, missing))
}

/// The known work, in machines with all files that it needs.
fn known(options: &Options, kernel: &Kernel, library: &Path, scratch: &Path) -> Result<Vec<Task>> {
    let initrd = scratch.join("initrd");
    guest::make_initrd(&initrd)?;
    let mut vmms = Vec::new();
    for program in [Program::Qemu, Program::SmallVmm] {
        if options.work().any(|it| it.program == program) {
            let vmm = Vmm::find(program, library)?;
            vmms.push((
                program,
                vmm.with(KERNEL, kernel.image())
                    .with(INITRD, initrd.clone()),
            ));
        }
    }
    let tasks = options.work().filter_map(|work| {
        let (_, vmm) = vmms.iter().find(|it| it.0 == work.program)?;
        Some(vmm.task(options, work, library))
    });
    Ok(tasks.collect())
}

/// The work of a command, in a machine with the root of the host.
fn other(options: &Options, command: &[String], library: PathBuf) -> Result<Task> {
    let program = Path::new(&command[0]);
    find_program(program)?;
    let name = program.file_name().unwrap_or_default();
    let machine = options.machine().host_root(true);
    Ok(Task {
        machine: machine.memory(&options.memory),
        job: Job {
            name: name.to_string_lossy().into_owned(),
            vmm: command.join(" "),
            runs: options.runs,
            command: command.to_vec(),
            shows: None,
            limit: LIMIT_OF_OTHERS,
            library,
            libraries: None,
        },
        seconds: SECONDS_OF_OTHERS,
    })
}

impl Task {
    fn run(&self, kernel: &Kernel, left: &TimeLeft) -> Result<WorkRecord> {
        let Self { machine, job, .. } = self;
        let title = format!("measuring {}", job.name);
        let progress = Progress::start("vmm", title.clone());
        let mut show = |run: &str| progress.at(&format!("{run}{}", left.after(self)));
        let mut record: WorkRecord = machine.call(kernel, &title, job, &mut show)?;
        record.measured_on.build = Some(Build {
            series: kernel.series_id.clone(),
            config: kernel.config_id.clone(),
            accelerator: machine.describe()?,
            mitigations: "on".into(),
            host: None,
        });
        Ok(record)
    }

    /// About how many seconds all runs take.
    fn all_seconds(&self) -> u32 {
        self.seconds * inside::lines(self.job.runs)
    }
}

/// A VMM, and the files that it needs inside.
struct Vmm {
    /// The first line that it prints with `--version`.
    version: String,
    /// The path inside and the path here of each file.
    files: BTreeMap<PathBuf, PathBuf>,
}

impl Vmm {
    fn find(program: Program, library: &Path) -> Result<Self> {
        let name = Path::new(program.name());
        let path = match program {
            Program::Qemu => kernel_patch::qemu()?,
            Program::SmallVmm => {
                dynamic_programs(&workspace_dir()?.join("benches/small-vmm"))?.join(name)
            }
        };
        let inside = |name: &Path| Path::new(INSIDE).join(name);
        let mut files = libraries(&path, library)?;
        files.insert(inside(name), path.clone());
        if program == Program::Qemu {
            for name in FIRMWARE {
                files.insert(inside(Path::new(name)), firmware(&path, name)?);
            }
        }
        let version = output(&path, &["--version"])?;
        let version = version.lines().next().unwrap_or_default().to_owned();
        Ok(Self { version, files })
    }

    /// Adds a file, by its path inside and its path here.
    fn with(mut self, inside: &str, here: PathBuf) -> Self {
        self.files.insert(inside.into(), here);
        self
    }

    fn task(&self, options: &Options, work: &Work, library: &Path) -> Task {
        let files = self.files.iter();
        let machine = files.fold(options.machine(), |machine, (inside, here)| {
            machine.file(here, inside)
        });
        let program = Path::new(INSIDE).join(work.program.name());
        let args = work.args.iter().map(|arg| (*arg).to_owned());
        let libraries = Path::new(LIBRARIES);
        Task {
            machine,
            job: Job {
                name: work.name.into(),
                vmm: self.version.clone(),
                runs: options.runs,
                command: iter::once(program.to_string_lossy().into_owned())
                    .chain(args)
                    .collect(),
                shows: Some(work.shows.into()),
                limit: LIMIT,
                library: libraries.join(library.file_name().unwrap_or_default()),
                libraries: Some(libraries.into()),
            },
            seconds: work.seconds,
        }
    }
}

/// Finds a file with firmware where QEMU does.
fn firmware(qemu: &Path, name: &str) -> Result<PathBuf> {
    let dirs = output(qemu, &["-L", "help"])?;
    let mut paths = dirs.lines().map(|dir| Path::new(dir).join(name));
    let path = paths.find(|path| path.is_file());
    let path = path.with_context(|| format!("QEMU has no {name}"))?;
    fs::canonicalize(&path).with_context(|| path.display().to_string())
}

fn output(program: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| program.display().to_string())?;
    let failed = || io::Error::other(output.status.to_string());
    let text = output.status.success().then_some(output.stdout);
    let text = text.ok_or_else(failed);
    let text = text.with_context(|| program.display().to_string())?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The time that is left, by what the runs take relative to each other.
struct TimeLeft {
    begun: Instant,
    all: u32,
    done: AtomicU32,
}

impl TimeLeft {
    fn new(tasks: &[Task]) -> Self {
        Self {
            begun: Instant::now(),
            all: tasks.iter().map(Task::all_seconds).sum(),
            done: AtomicU32::new(0),
        }
    }

    /// Says how much is left when a run of a task begins.
    fn after(&self, task: &Task) -> String {
        let done = self.done.fetch_add(task.seconds, Ordering::Relaxed);
        match self.estimate(done, self.begun.elapsed()) {
            Some(left) => format!(", about {} s left", left.as_secs()),
            None => String::new(),
        }
    }

    /// Nothing at the beginning, which says little.
    fn estimate(&self, done: u32, elapsed: Duration) -> Option<Duration> {
        let share = f64::from(done) / f64::from(self.all);
        (share > 0.1).then(|| elapsed.mul_f64((1.0 - share).max(0.0) / share))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_time_left_follows_the_runs() {
        let options = Options::parse_from(["vmm", "--runs", "3", "--", "true"]);
        let task = other(&options, &options.command, "library".into()).unwrap();
        assert_eq!(task.all_seconds(), task.seconds * 13);
        let left = TimeLeft::new(&[task]);
        let half = left.estimate(left.all / 2, Duration::from_secs(20));
        assert_eq!(half, Some(Duration::from_secs(20)));
        assert_eq!(left.estimate(0, Duration::from_secs(20)), None);
    }
}
