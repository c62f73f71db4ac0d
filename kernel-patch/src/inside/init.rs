//! The first process of the machine, which runs one [`Job`] and shuts the machine down.
//!
//! A program that boots machines is static, so its own executable serves as the machine's
//! /init. No second executable has to be built, found or kept up to date.

use std::convert::Infallible;
use std::env;
use std::fs::{self, File};
use std::io;
use std::process::{self, Command};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use crate::inside::ports::OutputPorts;
use crate::inside::streams::Streams;
use crate::inside::{counts, host_root};
use crate::wire::job::{Exit, JOB, Job, OUT, WORK};

/// Becomes the machine's init if this process is the first of a machine, and returns
/// otherwise. A program that boots machines calls this before anything else.
pub fn init_if_first() {
    if process::id() == 1 && env::args().next().as_deref() == Some("/init") {
        // If the first process ends, the kernel panics, and the host shows the console with
        // this message.
        let Err(error) = init();
        panic!("init: {error:#}");
    }
}

fn init() -> Result<Infallible> {
    mount_all()?;
    let ports = OutputPorts::open()?;
    let report = run(&ports).map_err(|error| format!("{error:#}"));
    counts::leave()?;
    ports
        .send_files()
        .and_then(|()| ports.send(&report))
        .and_then(|()| ports.close())
        .context("cannot send the results")?;
    reboot(RebootMode::RB_AUTOBOOT).context("reboot")
}

fn mount_all() -> Result<()> {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("debugfs", "/sys/kernel/debug"),
        ("tmpfs", "/tmp"),
        ("tmpfs", WORK),
    ] {
        let context = || format!("mount {kind}");
        fs::create_dir_all(at).with_context(context)?;
        let none = None::<&str>;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), none).with_context(context)?;
    }
    fs::create_dir(OUT).context(OUT)
}

fn run(ports: &OutputPorts) -> Result<Exit> {
    let job = fs::read(JOB).context(JOB)?;
    let job: Job = serde_json::from_slice(&job).context(JOB)?;
    for module in &job.modules {
        load(module)?;
    }
    let mut command = Command::new(&job.program);
    command.args(&job.args).env_clear().envs(&job.env);
    let streams = match job.host {
        None => {
            command.current_dir(WORK);
            Streams::of_ports(ports)?
        }
        Some(place) => {
            host_root::prepare(&place.files)?;
            let streams = Streams::open(job.input, ports)?;
            host_root::enter(&mut command, host_root::put()?, place.directory);
            streams
        }
    };
    let ending = streams.give(&mut command);
    let exit = start(command).and_then(reap).with_context(|| job.program);
    ending.finish()?;
    exit
}

fn load(module: &str) -> Result<()> {
    let file = File::open(module).with_context(|| module.to_owned())?;
    match finit_module(file, c"", ModuleInitFlags::empty()) {
        // The processor is of the other vendor than KVM's module.
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
        error => error.with_context(|| format!("{module} does not load")),
    }
}

/// Starts the job. Its streams are closed here when this returns.
fn start(mut command: Command) -> io::Result<Pid> {
    let child = command.spawn()?;
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
