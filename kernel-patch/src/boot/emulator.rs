//! Runs an emulator, and forwards the machine's ports until it shuts down.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio, id};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use super::error::{BootError, Result};
use crate::boot::machine::Machine;
use crate::boot::run_dir::RunDir;
use crate::boot::verdict::has_complaint;
use crate::boot::{bochs, input, qemu};
use crate::host::process::{Process, drain};
use crate::host::{HostError, IoContext};
use crate::kbuild::Kernel;
use crate::wire::job::port;
use crate::wire::line;

/// The size of a port's pipe. The machine waits when it is full.
const PIPE: i32 = 1 << 20;

/// The receivers of the ports' bytes.
pub(crate) type Sinks<'a> = [&'a mut (dyn Write + Send); port::ALL.len()];

/// Makes a pipe that an emulator opens by its path in /proc. It is not inherited, so no
/// other child can hold it open.
fn port_pipe(name: &str) -> Result<(PipeReader, PipeWriter), HostError> {
    let (reader, writer) = io::pipe().cannot_named("make a pipe for port", name)?;
    // A smaller pipe works too, but more slowly.
    let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE));
    Ok((reader, writer))
}

fn path(writer: &PipeWriter) -> PathBuf {
    format!("/proc/{}/fd/{}", id(), writer.as_raw_fd()).into()
}

/// Boots QEMU, with a device for each port. Returns its status, `None` after a timeout.
pub(crate) fn qemu(
    machine: &Machine,
    kernel: &Kernel,
    cmdline: &str,
    dir: &RunDir,
    sinks: Sinks<'_>,
) -> Result<Option<ExitStatus>> {
    if machine.plugin.is_some() {
        qemu::check_plugins()?;
    }
    let (mut paths, mut ports) = (Vec::new(), Vec::new());
    for (name, sink) in port::ALL.into_iter().zip(sinks) {
        let (reader, writer) = port_pipe(name)?;
        paths.push((name, path(&writer)));
        let forward = move || drain(reader, sink).cannot_named("forward the port", name);
        ports.push((writer, forward));
    }
    let log = dir.log();
    let output = File::create(&log).cannot("write", &log)?;
    let inputs = input::ports(machine, dir);
    let mut command = qemu::command(machine, &kernel.image(), cmdline, dir, &paths, &inputs);
    let (stdin, _forwarder) = input::start(machine, dir)?;
    command.stdin(stdin).stdout(Stdio::null()).stderr(output);
    run(machine, command, qemu::PROGRAM, dir, ports)
}

/// Boots Bochs, with all ports on one serial line. Returns its status, `None` after a
/// timeout. The status is a failure even if the machine shut down as it should.
pub(crate) fn bochs(
    machine: &Machine,
    kernel: &Kernel,
    cmdline: &str,
    dir: &RunDir,
    mut sinks: Sinks<'_>,
) -> Result<Option<ExitStatus>> {
    if machine.plugin.is_some() {
        return Err(BootError::NotByBochs("plugins"));
    }
    if !machine.qemu_args.is_empty() {
        return Err(BootError::NotByBochs("QEMU's arguments"));
    }
    let (reader, writer) = port_pipe("line")?;
    let mut command = bochs::command(machine, &kernel.image(), cmdline, dir, &path(&writer))?;
    let terminal = bochs::terminal()?;
    let end = || {
        let copy = terminal.try_clone();
        copy.cannot_named("open", "a terminal for Bochs")
    };
    command.stdin(end()?).stdout(end()?).stderr(end()?);
    drop(terminal);
    let forward = || line::receive(reader, &mut sinks).cannot_named("forward", "the ports");
    run(
        machine,
        command,
        bochs::PROGRAM,
        dir,
        vec![(writer, forward)],
    )
}

/// The interval at which the console of a strict machine is searched for reports.
const LOOK: Duration = Duration::from_secs(2);

/// Runs an emulator, and forwards the bytes of its pipes until it ends. Each of `ports` is
/// the end for the emulator, and the work of forwarding.
fn run(
    machine: &Machine,
    command: Command,
    program: &str,
    dir: &RunDir,
    ports: Vec<(PipeWriter, impl FnOnce() -> Result<(), HostError> + Send)>,
) -> Result<Option<ExitStatus>> {
    thread::scope(|scope| {
        let (writers, readers): (Vec<_>, Vec<_>) = ports
            .into_iter()
            .map(|(writer, forward)| (writer, scope.spawn(forward)))
            .unzip();
        let status = supervise(machine, command, program, dir);
        // The readers end when no process has the pipes open for writing.
        drop(writers);
        let forwarded = readers
            .into_iter()
            .map(|reader| reader.join().expect("forwarding does not panic"))
            .fold(Ok(()), Result::and);
        let status = status?;
        forwarded?;
        Ok(status)
    })
}

/// Runs an emulator to its end, or until the time limit, or until the kernel of a strict
/// machine has reported a problem: the rest of the run is not worth the time.
fn supervise(
    machine: &Machine,
    mut command: Command,
    program: &str,
    dir: &RunDir,
) -> Result<Option<ExitStatus>, HostError> {
    let deadline = Instant::now() + machine.timeout;
    let mut process = Process::spawn(&mut command, program, Signal::SIGKILL)?;
    loop {
        let reported = has_complaint(machine, dir)?;
        // Once more after a report, which takes some time to print.
        let until = deadline.min(Instant::now() + LOOK);
        let status = process.wait(Some(until), || ())?;
        if status.is_some() || reported || until == deadline {
            return Ok(status);
        }
    }
}
