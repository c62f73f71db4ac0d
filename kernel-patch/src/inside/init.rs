//! The first process of the machine, which runs one [`Job`] and shuts the machine down.
//!
//! A program that boots machines is static, so its own executable serves as the machine's
//! /init. No second executable has to be built, found or kept up to date.

use std::convert::Infallible;
use std::env;
use std::fs::{self, File};
use std::io;
use std::process::{self, Command, Stdio};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use crate::inside::counts;
use crate::inside::ports::OutputPorts;
use crate::wire::job::{Exit, JOB, Job, JobResult, OUT, WORK, port};

/// Becomes the machine's init if this process is the first of a machine, and returns
/// otherwise. A program that boots machines calls this before anything else.
pub fn init_if_first() {
    if process::id() == 1 && env::args().next().as_deref() == Some("/init") {
        // If the first process ends, the kernel panics, and the host shows the console with
        // this message.
        let Err(error) = init();
        panic!("init: {error}");
    }
}

fn init() -> Result<Infallible, String> {
    mount_all()?;
    let ports = OutputPorts::open()?;
    let report = run(&ports);
    counts::leave().map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    ports
        .send_files()
        .and_then(|()| ports.send(&report))
        .and_then(|()| ports.close())
        .map_err(|error| format!("cannot send the results: {error}"))?;
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

fn run(ports: &OutputPorts) -> JobResult {
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
        // The processor is of the other vendor than KVM's module.
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(format!("{module} does not load: {errno}")),
    }
}

fn start(job: &Job, ports: &OutputPorts) -> io::Result<Pid> {
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

/// Waits for the job, and for orphans that end before it.
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
