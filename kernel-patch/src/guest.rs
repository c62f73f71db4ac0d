//! The first process of the machine: runs one [`Job`] and turns the lights off.
//!
//! A program that boots machines is linked statically, so its own image serves
//! as the machine's /init: there is no second executable to build, to find or
//! to hold in step. [`init_if_first`] tells the two lives apart.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use crate::counts;
use crate::job::{Exit, JOB, Job, OUT, Report, WORK, port};

/// Becomes the machine's init when this process is the machine's first, and
/// returns otherwise. The first thing that a booting program calls.
pub fn init_if_first() {
    if process::id() == 1 && env::args().next().as_deref() == Some("/init") {
        // An error here, and a panic, ends the first process: the kernel
        // panics, and the host shows the console, where the reason stands.
        let Err(error) = init();
        panic!("init: {error}");
    }
}

fn init() -> Result<Infallible, String> {
    mount_all()?;
    let mut ports = Ports::open()?;
    let report = run(&ports);
    counts::leave().map_err(|error| error.to_string())?;
    // Each write returns once the host has the bytes.
    ports
        .send_files()
        .and_then(|()| ports.send(&report))
        .map_err(|error| format!("the host is gone: {error}"))?;
    reboot(RebootMode::RB_AUTOBOOT).map_err(|errno| format!("reboot: {errno}"))
}

fn mount_all() -> Result<(), String> {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("debugfs", "/sys/kernel/debug"),
        ("tmpfs", "/tmp"),
        ("tmpfs", WORK),
    ] {
        fs::create_dir_all(at)
            .and_then(|()| {
                Ok(mount(
                    Some(kind),
                    at,
                    Some(kind),
                    MsFlags::empty(),
                    None::<&str>,
                )?)
            })
            .map_err(|error| format!("mount {kind}: {error}"))?;
    }
    fs::create_dir(OUT).map_err(|error| format!("{OUT}: {error}"))
}

/// The serial ports, by name.
struct Ports(BTreeMap<&'static str, File>);

impl Ports {
    /// Opens the ports; the kernel brings them up behind the boot's back.
    fn open() -> Result<Self, String> {
        const LONG: Duration = Duration::from_secs(10);
        const STEP: Duration = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        let mut open = BTreeMap::new();
        while open.len() < port::ALL.len() {
            if waited > LONG {
                return Err(format!(
                    "of the serial ports only {:?} came up",
                    open.keys()
                ));
            }
            Self::open_new(&mut open)
                .map_err(|error| format!("cannot open a serial port: {error}"))?;
            thread::sleep(STEP);
            waited += STEP;
        }
        Ok(Self(open))
    }

    fn open_new(open: &mut BTreeMap<&'static str, File>) -> io::Result<()> {
        let Ok(dir) = fs::read_dir("/sys/class/virtio-ports") else {
            return Ok(());
        };
        for entry in dir {
            let entry = entry?;
            let Ok(name) = fs::read_to_string(entry.path().join("name")) else {
                continue;
            };
            let Some(name) = port::ALL.into_iter().find(|it| *it == name.trim()) else {
                continue;
            };
            if !open.contains_key(name) {
                let device = Path::new("/dev").join(entry.file_name());
                open.insert(name, File::options().write(true).open(device)?);
            }
        }
        Ok(())
    }

    fn stdio(&self, name: &str) -> io::Result<Stdio> {
        Ok(self.0[name].try_clone()?.into())
    }

    fn send_files(&self) -> io::Result<()> {
        let mut tar = tar::Builder::new(BufWriter::with_capacity(32 << 10, &self.0[port::FILES]));
        tar.mode(tar::HeaderMode::Deterministic);
        tar.append_dir_all(".", OUT)?;
        tar.into_inner()?.flush()
    }

    fn send(&mut self, report: &Report) -> io::Result<()> {
        let text = serde_json::to_vec(report)?;
        (&self.0[port::EXIT]).write_all(&text)
    }
}

fn run(ports: &Ports) -> Report {
    let job = fs::read(JOB).map_err(|error| format!("{JOB}: {error}"))?;
    let job: Job = serde_json::from_slice(&job).map_err(|error| format!("{JOB}: {error}"))?;
    for module in &job.modules {
        load(module)?;
    }
    start(&job, ports)
        .and_then(reap)
        .map_err(|error| format!("{}: {error}", job.program))
}

fn load(module: &str) -> Result<(), String> {
    let file = File::open(module).map_err(|error| format!("{module}: {error}"))?;
    match finit_module(file, c"", ModuleInitFlags::empty()) {
        // KVM's module for the other vendor's processors.
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(format!("{module} does not load: {errno}")),
    }
}

fn start(job: &Job, ports: &Ports) -> io::Result<Pid> {
    let child = Command::new(&job.program)
        .args(&job.args)
        .env_clear()
        .envs(&job.env)
        .current_dir(WORK)
        .stdin(Stdio::null())
        .stdout(ports.stdio(port::STDOUT)?)
        .stderr(ports.stdio(port::STDERR)?)
        .spawn()?;
    Ok(Pid::from_raw(child.id() as i32))
}

/// Waits for the job, and for every orphan that ends before it.
fn reap(job: Pid) -> io::Result<Exit> {
    loop {
        match wait()? {
            WaitStatus::Exited(pid, code) if pid == job => return Ok(Exit::Code(code as u8)),
            WaitStatus::Signaled(pid, signal, _) if pid == job => {
                return Ok(Exit::Signal(signal as u8));
            }
            _ => {}
        }
    }
}
