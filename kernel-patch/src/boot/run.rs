//! One run of a [`Machine`], from its initramfs to its verdict.

use std::arch::x86_64::_rdtsc;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, thread};

use super::error::{BootError, Result};
use crate::boot::accel::Accel;
use crate::boot::initramfs::Initramfs;
use crate::boot::machine::Machine;
use crate::boot::run_dir::RunDir;
use crate::boot::verdict::judge;
use crate::boot::{bochs, emulator, executable, modules};
use crate::host::cargo::this_program;
use crate::host::{needs, packages, paths, process};
use crate::kbuild::kernel::Kernel;
use crate::wire::job::{Exit, JOB, Job, OUT, OUT_VARIABLE, WORK};
use crate::wire::line;

/// The host's variables that an executable inside sees too, by their beginning.
/// The rest stays outside, so that runs repeat wherever they are started.
const PASSED: [&str; 5] = [
    "RUST_BACKTRACE",
    "RUST_TEST_",
    "KVM_API_",
    "CRITERION_",
    "PROPTEST_",
];

impl Machine {
    /// Boots `kernel` and runs a static executable inside, whose output is
    /// written to `stdout` and `stderr` as it comes. Arguments and variables
    /// are text.
    ///
    /// # Errors
    ///
    /// When there is no exit status to tell: see [`Error`].
    pub fn run(
        &self,
        kernel: &Kernel,
        program: &Path,
        args: &[String],
        stdout: &mut (dyn Write + Send),
        stderr: &mut (dyn Write + Send),
    ) -> Result<Exit> {
        let machine = self;
        executable::check(program)?;
        match machine.accel {
            Accel::Bochs => packages::ensure(needs::BOCHS)?,
            _ => packages::ensure(needs::RUN)?,
        }
        let scratch = paths::scratch()?;
        let dir = RunDir::new(scratch.path());
        pack(machine, kernel, program, args, &dir)?;

        let mut files =
            tempfile::tempfile_in(dir.path()).map_err(BootError::io("write in", dir.path()))?;
        let mut report = Vec::new();
        let sinks: emulator::Sinks<'_> = [stdout, stderr, &mut files, &mut report];
        let cmdline = kernel_cmdline(machine);
        let status = match machine.accel {
            Accel::Bochs => emulator::bochs(machine, kernel, &cmdline, &dir, sinks)?,
            _ => emulator::qemu(machine, kernel, &cmdline, &dir, sinks)?,
        };
        let exit = judge(machine, status, &report, &dir)?;
        if let Some(out) = &machine.out {
            files
                .rewind()
                .map_err(BootError::io("read in", dir.path()))?;
            unpack(files, out)?;
        }
        Ok(exit)
    }
}

fn pack(
    machine: &Machine,
    kernel: &Kernel,
    program: &Path,
    args: &[String],
    dir: &RunDir<'_>,
) -> Result<()> {
    let mut initramfs = Initramfs::create(&dir.initramfs())?;
    let init = match &machine.init {
        Some(init) => init.clone(),
        None => this_program()?,
    };
    executable::check(&init)?;
    initramfs.copy(&strip(&init, dir)?, Path::new("/init"))?;
    let inside = Path::new("/bin").join(program.file_name().unwrap_or_default());
    initramfs.copy(&strip(program, dir)?, &inside)?;

    let mut modules = Vec::new();
    for module in modules::in_order(kernel.build_dir())? {
        let inside = Path::new("/lib/modules").join(module.file_name().unwrap_or_default());
        initramfs.copy(&strip(&module, dir)?, &inside)?;
        modules.push(inside.to_string_lossy().into_owned());
    }
    if !machine.load_modules {
        modules.clear();
    }
    for (from, to) in &machine.files {
        initramfs.copy(from, to)?;
    }
    let job = Job {
        modules,
        program: inside.to_string_lossy().into_owned(),
        args: args.to_vec(),
        env: environment(machine, env::vars()),
    };
    let job = serde_json::to_vec(&job).map_err(|error| BootError::NotStarted(error.to_string()))?;
    initramfs.write(&job, Path::new(JOB))?;
    initramfs.finish()
}

/// A copy without debugging data: it is most of an executable, and the machine
/// counts the instructions of unpacking it.
fn strip(file: &Path, dir: &RunDir<'_>) -> Result<PathBuf> {
    let stripped = dir.path().join("stripped");
    let mut command = Command::new("objcopy");
    command.arg("--strip-debug").arg(file).arg(&stripped);
    process::run(command, "objcopy", &dir.path().join("objcopy.log"))?;
    Ok(stripped)
}

/// The environment inside: what is passed on, what the place makes, what was
/// asked for; the later ones win.
fn environment(
    machine: &Machine,
    host: impl Iterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    let mut env: BTreeMap<_, _> = host
        .filter(|(name, _)| PASSED.iter().any(|it| name.starts_with(it)))
        .collect();
    let criterion = format!("{OUT}/criterion");
    for (name, value) in [
        ("PATH", "/bin"),
        ("HOME", WORK),
        ("TMPDIR", "/tmp"),
        (OUT_VARIABLE, OUT),
        ("CRITERION_HOME", &criterion),
    ] {
        env.insert(name.into(), value.into());
    }
    env.extend(machine.env.clone());
    env
}

fn kernel_cmdline(machine: &Machine) -> String {
    let mitigations = format!(
        "mitigations={}",
        if machine.mitigations { "auto" } else { "off" }
    );
    let mut words = vec!["console=ttyS0", "quiet", "nokaslr", &mitigations];
    // Any oops ends the machine at once, by a triple fault, which QEMU ends at.
    words.extend(["oops=panic", "panic=-1", "reboot=t"]);
    if machine.accel == Accel::Tcg {
        // Calibrating this timer takes 0.2 s of the machine's time in a loop
        // of RDTSC and PAUSE, for which emulation needs 5 to 10 s of ours. The
        // PIT ticks instead.
        words.push("nolapic_timer");
    }
    if machine.strict {
        // Warnings and worse go to the console.
        words.extend(["panic_on_warn=1", "loglevel=5"]);
    }
    // The machine has no clock by which to find how fast its TSC is. It is as
    // fast as ours; and KVM, inside, runs no vcpu by a TSC of no frequency.
    let tsc;
    if machine.accel == Accel::Mttcg {
        tsc = format!("tsc_early_khz={}", tsc_khz());
        words.extend(["tsc=reliable", &tsc]);
    }
    let carrier;
    if machine.accel == Accel::Bochs {
        // Finding its TSC unstable would make each load of a vcpu dear. What its
        // processor says of hyperthreads does not fit what it says of cores, of
        // which the kernel warns.
        carrier = format!("{}={}", line::VARIABLE, bochs::LINE);
        words.extend(["tsc=reliable", "clearcpuid=ht", &carrier]);
    }
    words.extend(machine.cmdline.iter().map(String::as_str));
    words.join(" ")
}

/// How many times in a millisecond the TSC counts, as near as it matters.
fn tsc_khz() -> u64 {
    const WHILE: Duration = Duration::from_millis(20);
    // SAFETY: all processors of this architecture have the instruction.
    let now = || unsafe { _rdtsc() };
    let (began, first) = (Instant::now(), now());
    thread::sleep(WHILE);
    (now() - first) * 1000 / began.elapsed().as_micros() as u64
}

fn unpack(files: File, out: &Path) -> Result<()> {
    fs::create_dir_all(out).map_err(BootError::io("make", out))?;
    let mut archive = tar::Archive::new(files);
    archive.set_preserve_mtime(false);
    archive
        .unpack(out)
        .map_err(BootError::io("write below", out))
}
