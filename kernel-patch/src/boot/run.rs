//! One run of a [`Machine`], from its initramfs to its result.

use std::arch::x86_64::_rdtsc;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
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
use crate::boot::{bochs, emulator, executable, input, modules};
use crate::host::cargo::this_program;
use crate::host::{IoContext, needs, packages, paths, process};
use crate::kbuild::Kernel;
use crate::wire::job::{Exit, HOST_OUT, HostPlace, JOB, Job, OUT, OUT_VARIABLE, WORK};
use crate::wire::line;

/// The prefixes of the host's variables that an executable inside receives. The others stay
/// outside, so that runs do not depend on the environment.
const PASSED: [&str; 5] = [
    "RUST_BACKTRACE",
    "RUST_TEST_",
    "KVM_API_",
    "CRITERION_",
    "PROPTEST_",
];

impl Machine {
    /// Boots `kernel`, runs a static executable inside (or with
    /// [`host_root`](Self::host_root) any program), and forwards its output to `stdout` and
    /// `stderr`. Arguments and variables are text.
    ///
    /// # Errors
    ///
    /// There is no exit status: see [`BootError`].
    pub fn run(
        &self,
        kernel: &Kernel,
        program: &Path,
        args: &[String],
        stdout: &mut (dyn Write + Send),
        stderr: &mut (dyn Write + Send),
    ) -> Result<Exit> {
        self.check_executable(program)?;
        match self.accel {
            Accel::Bochs => packages::ensure(needs::BOCHS)?,
            _ => packages::ensure(needs::RUN)?,
        }
        let dir = RunDir::make()?;
        pack(self, kernel, program, args, &dir)?;

        let mut files = tempfile::tempfile_in(dir.path()).cannot("write in", dir.path())?;
        let mut result = Vec::new();
        let sinks: emulator::Sinks<'_> = [stdout, stderr, &mut files, &mut result];
        let cmdline = kernel_cmdline(self);
        let status = match self.accel {
            Accel::Bochs => emulator::bochs(self, kernel, &cmdline, &dir, sinks)?,
            _ => emulator::qemu(self, kernel, &cmdline, &dir, sinks)?,
        };
        let exit = judge(self, status, &result, &dir)?;
        if let Some(out) = &self.out {
            files.rewind().cannot("read in", dir.path())?;
            unpack(files, out)?;
        }
        Ok(exit)
    }
}

impl Machine {
    /// Checks that the machine can run an executable.
    ///
    /// # Errors
    ///
    /// [`BootError::NotRunnable`] has the reason. [`BootError::Host`] if the file cannot be
    /// read.
    pub fn check_executable(&self, program: &Path) -> Result<()> {
        match (self.host_root, self.accel) {
            (true, Accel::Bochs) => Err(BootError::NotByBochs("the root of the host")),
            (true, _) => executable::find(program).map(drop),
            (false, _) => executable::check(program),
        }
    }
}

fn pack(
    machine: &Machine,
    kernel: &Kernel,
    program: &Path,
    args: &[String],
    dir: &RunDir,
) -> Result<()> {
    let mut initramfs = Initramfs::create(&dir.initramfs())?;
    // The first process calls init_if_first() of this library.
    let init = this_program()?;
    executable::check(&init)?;
    initramfs.copy(&strip(&init, dir)?, Path::new("/init"))?;
    let (program, host) = if machine.host_root {
        let here = env::current_dir().cannot_named("find", "the current directory")?;
        let files = machine.files.iter().map(|(_, to)| to.clone()).collect();
        let place = HostPlace {
            directory: here,
            files,
        };
        (program.into(), Some(place))
    } else {
        let inside = Path::new("/bin").join(program.file_name().unwrap_or_default());
        initramfs.copy(&strip(program, dir)?, &inside)?;
        (inside, None)
    };

    let mut modules = Vec::new();
    let mut copy = |dirs, load: bool| -> Result<()> {
        for module in modules::in_order(&kernel.build_dir, dirs)? {
            let inside = Path::new("/lib/modules").join(module.file_name().unwrap_or_default());
            initramfs.copy(&strip(&module, dir)?, &inside)?;
            modules.extend(load.then(|| inside.to_string_lossy().into_owned()));
        }
        Ok(())
    };
    copy(modules::KVM, machine.load_modules)?;
    if machine.host_root {
        copy(modules::HOST_ROOT, true)?;
    }
    for (from, to) in &machine.files {
        initramfs.copy(from, to)?;
    }
    let job = Job {
        modules,
        program: program.to_string_lossy().into_owned(),
        args: args.to_vec(),
        env: environment(machine, host_variables()),
        host,
        input: input::kind(machine),
    };
    let job = serde_json::to_vec(&job).map_err(|error| BootError::NotStarted(error.to_string()))?;
    initramfs.write(&job, Path::new(JOB))?;
    Ok(initramfs.finish()?)
}

/// Copies a file without its debugging data, which is most of an executable, because the
/// machine counts the instructions of unpacking it.
fn strip(file: &Path, dir: &RunDir) -> Result<PathBuf> {
    let stripped = dir.path().join("stripped");
    let mut command = Command::new("objcopy");
    command.arg("--strip-debug").arg(file).arg(&stripped);
    process::run(&mut command, "objcopy", &dir.path().join("objcopy.log"))?;
    Ok(stripped)
}

/// The variables of this process that are text.
fn host_variables() -> impl Iterator<Item = (String, String)> {
    let text = |(name, value): (OsString, OsString)| {
        let (name, value) = (name.into_string(), value.into_string());
        name.ok().zip(value.ok())
    };
    env::vars_os().filter_map(text)
}

/// The environment inside: variables of the host, those of the machine, and those that the
/// caller sets. Later ones replace earlier ones. A program in the root of the host has all
/// variables of the host.
fn environment(
    machine: &Machine,
    host: impl Iterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    if machine.host_root {
        let out = (OUT_VARIABLE.into(), HOST_OUT.into());
        return host.chain([out]).chain(machine.env.clone()).collect();
    }
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
    env.extend(machine.env.iter().cloned());
    env
}

fn kernel_cmdline(machine: &Machine) -> String {
    let mitigations = format!(
        "mitigations={}",
        if machine.mitigations { "auto" } else { "off" }
    );
    let mut words = vec!["console=ttyS0", "quiet", "nokaslr", &mitigations];
    // An oops ends the machine at once, by a triple fault, at which QEMU exits.
    words.extend(["oops=panic", "panic=-1", "reboot=t"]);
    if machine.accel == Accel::Tcg {
        // Calibrating this timer takes 0.2 s of the machine's time in a loop of RDTSC and
        // PAUSE, which takes emulation 5 to 10 s of real time. The PIT ticks instead.
        words.push("nolapic_timer");
    }
    if machine.strict {
        // Show warnings and worse on the console.
        words.extend(["panic_on_warn=1", "loglevel=5"]);
    }
    // The machine has no clock to calibrate its TSC with. The TSC is as fast as the host's,
    // and KVM inside runs no vCPU if the frequency is unknown.
    let tsc;
    if machine.accel == Accel::Mttcg {
        tsc = format!("tsc_early_khz={}", tsc_khz());
        words.extend(["tsc=reliable", &tsc]);
    }
    let carrier;
    if machine.accel == Accel::Bochs {
        // An unstable TSC would make each load of a vCPU expensive. The kernel warns because
        // the processor's numbers of hyperthreads and of cores do not match.
        carrier = format!("{}={}", line::VARIABLE, bochs::LINE);
        words.extend(["tsc=reliable", "clearcpuid=ht", &carrier]);
    }
    words.extend(machine.cmdline.iter().map(String::as_str));
    words.join(" ")
}

/// The frequency of the TSC in kHz, approximately.
fn tsc_khz() -> u64 {
    const WHILE: Duration = Duration::from_millis(20);
    // SAFETY: all x86-64 processors have the instruction.
    let now = || unsafe { _rdtsc() };
    let (began, first) = (Instant::now(), now());
    thread::sleep(WHILE);
    (now() - first) * 1000 / began.elapsed().as_micros() as u64
}

fn unpack(files: File, out: &Path) -> Result<()> {
    paths::create(out.into())?;
    let mut archive = tar::Archive::new(files);
    archive.set_preserve_mtime(false);
    Ok(archive.unpack(out).cannot("write below", out)?)
}
