//! One run of a [`Machine`], from its initramfs to its verdict.

use std::arch::x86_64::_rdtsc;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio, id};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use crate::initramfs::Initramfs;
use crate::job::{Exit, JOB, Job, OUT, OUT_VARIABLE, WORK, port};
use crate::judge::judge;
use crate::process::{self, Process};
use crate::qemu::{self, Accel, Boot};
use crate::{Error, Kernel, Machine, Result, executable, host, modules, paths};

/// The host's variables that an executable inside sees too, by their beginning.
/// The rest stays outside, so that runs repeat wherever they are started.
const PASSED: [&str; 5] = [
    "RUST_BACKTRACE",
    "RUST_TEST_",
    "KVM_API_",
    "CRITERION_",
    "PROPTEST_",
];

/// What an output port may hold before the machine has to wait for us.
const PIPE: i32 = 1 << 20;

pub(crate) fn run(
    machine: &Machine,
    kernel: &Kernel,
    program: &Path,
    args: &[String],
    stdout: &mut (dyn Write + Send),
    stderr: &mut (dyn Write + Send),
) -> Result<Exit> {
    executable::check(program)?;
    host::ensure(host::RUN)?;
    if machine.plugin.is_some() {
        qemu::check_plugins()?;
    }
    let scratch = paths::scratch()?;
    let dir = Dir(scratch.path());
    pack(machine, kernel, program, args, &dir)?;

    let (status, files, report) = boot(machine, kernel, &dir, stdout, stderr)?;
    let exit = judge(machine, status, &report, &dir)?;
    if let Some(out) = &machine.out {
        unpack(files, out)?;
    }
    Ok(exit)
}

/// The files of one run.
pub(crate) struct Dir<'a>(&'a Path);

impl Dir<'_> {
    fn initramfs(&self) -> PathBuf {
        self.0.join("initramfs")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    pub(crate) fn qemu_log(&self) -> PathBuf {
        self.0.join("qemu.log")
    }

    /// Saves the console's log from the end of the run.
    pub(crate) fn keep_console(&self) -> Result<PathBuf> {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        let kept = paths::logs()?.join(format!("{name}-console.log"));
        fs::copy(self.console(), &kept).map_err(Error::io("write", &kept))?;
        Ok(kept)
    }
}

fn pack(
    machine: &Machine,
    kernel: &Kernel,
    program: &Path,
    args: &[String],
    dir: &Dir<'_>,
) -> Result<()> {
    let mut initramfs = Initramfs::create(&dir.initramfs())?;
    let init = match &machine.init {
        Some(init) => init.clone(),
        None => env::current_exe().map_err(Error::io("find", Path::new("this program")))?,
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
    let job = serde_json::to_vec(&job).map_err(|error| Error::Guest(error.to_string()))?;
    initramfs.write(&job, Path::new(JOB))?;
    initramfs.finish()
}

/// A copy without debugging data: it is most of an executable, and the machine
/// counts the instructions of unpacking it.
fn strip(file: &Path, dir: &Dir<'_>) -> Result<PathBuf> {
    let stripped = dir.0.join("stripped");
    let mut command = Command::new("objcopy");
    command.arg("--strip-debug").arg(file).arg(&stripped);
    process::run(command, "objcopy", &dir.0.join("objcopy.log"))?;
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
    let mut line = vec!["console=ttyS0", "quiet", "nokaslr", &mitigations];
    // Any oops ends the machine at once, by a triple fault, which QEMU ends at.
    line.extend(["oops=panic", "panic=-1", "reboot=t"]);
    if machine.accel == Accel::Tcg {
        // Calibrating this timer takes 0.2 s of the machine's time in a loop
        // of RDTSC and PAUSE, for which emulation needs 5 to 10 s of ours. The
        // PIT ticks instead.
        line.push("nolapic_timer");
    }
    if machine.strict {
        // Warnings and worse go to the console.
        line.extend(["panic_on_warn=1", "loglevel=5"]);
    }
    // The machine has no clock by which to find how fast its TSC is. It is as
    // fast as ours; and KVM, inside, runs no vcpu by a TSC of no frequency.
    let tsc;
    if machine.accel == Accel::Mttcg {
        tsc = format!("tsc_early_khz={}", tsc_khz());
        line.extend(["tsc=reliable", &tsc]);
    }
    line.extend(machine.cmdline.iter().map(String::as_str));
    line.join(" ")
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

/// A pipe that QEMU opens by the name that /proc gives it. Nothing need be
/// inherited, so no other child can hold it open.
struct Port {
    name: &'static str,
    reader: PipeReader,
    writer: PipeWriter,
}

impl Port {
    fn new(name: &'static str, dir: &Dir<'_>) -> Result<Self> {
        let (reader, writer) = io::pipe().map_err(Error::io("make a pipe for", dir.0))?;
        // A small pipe works too, only slower.
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE));
        Ok(Self {
            name,
            reader,
            writer,
        })
    }

    fn path(&self) -> OsString {
        format!("/proc/{}/fd/{}", id(), self.writer.as_raw_fd()).into()
    }
}

/// Boots, and gives QEMU's status (none when time was up), the files' archive,
/// and the report.
fn boot(
    machine: &Machine,
    kernel: &Kernel,
    dir: &Dir<'_>,
    stdout: &mut (dyn Write + Send),
    stderr: &mut (dyn Write + Send),
) -> Result<(Option<ExitStatus>, File, Vec<u8>)> {
    let mut files = tempfile::tempfile_in(dir.0).map_err(Error::io("write in", dir.0))?;
    let mut report = Vec::new();
    let ports = [
        Port::new(port::STDOUT, dir)?,
        Port::new(port::STDERR, dir)?,
        Port::new(port::FILES, dir)?,
        Port::new(port::EXIT, dir)?,
    ];
    let command = Boot {
        accel: machine.accel,
        smp: machine.smp,
        memory: &machine.memory,
        image: &kernel.image(),
        initramfs: &dir.initramfs(),
        cmdline: &kernel_cmdline(machine),
        console: &dir.console(),
        plugin: machine.plugin.as_ref(),
        ports: ports.each_ref().map(|port| (port.name, port.path())),
        more: &machine.qemu_args,
    }
    .command();

    let sinks: [&mut (dyn Write + Send); 4] = [stdout, stderr, &mut files, &mut report];
    let status = thread::scope(|scope| {
        let mut writers = Vec::new();
        let mut readers = Vec::new();
        for (port, sink) in ports.into_iter().zip(sinks) {
            writers.push(port.writer);
            readers.push(scope.spawn(move || {
                let name = Path::new(port.name);
                drain(port.reader, sink).map_err(Error::io("hand on the machine's", name))
            }));
        }
        let status = run_qemu(machine, command, dir);
        // The readers come to their end once nobody can write any more.
        drop(writers);
        let drained = readers
            .into_iter()
            .map(|reader| reader.join().expect("draining a pipe does not panic"))
            .fold(Ok(()), Result::and);
        status.and_then(|status| drained.map(|()| status))
    })?;
    files.rewind().map_err(Error::io("read in", dir.0))?;
    Ok((status, files, report))
}

fn run_qemu(machine: &Machine, mut command: Command, dir: &Dir<'_>) -> Result<Option<ExitStatus>> {
    let log = dir.qemu_log();
    let file = File::create(&log).map_err(Error::io("write", &log))?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    let deadline = Instant::now() + machine.timeout;
    Process::spawn(command, qemu::PROGRAM, Signal::SIGKILL)?.wait(Some(deadline), || ())
}

/// Hands on what a port says. Goes on reading when nobody wants it any more,
/// so that the machine does not wait for ever.
fn drain(mut from: PipeReader, to: &mut (dyn Write + Send)) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut result = Ok(());
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return result,
            Ok(n) if result.is_ok() => {
                result = to.write_all(&buffer[..n]).and_then(|()| to.flush());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn unpack(files: File, out: &Path) -> Result<()> {
    fs::create_dir_all(out).map_err(Error::io("make", out))?;
    let mut archive = tar::Archive::new(files);
    archive.set_preserve_mtime(false);
    archive.unpack(out).map_err(Error::io("write below", out))
}
