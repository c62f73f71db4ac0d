//! Runs an emulator, and forwards the machine's ports until it shuts down.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio, id};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use super::error::{BootError, Result};
use crate::boot::machine::Machine;
use crate::boot::run_dir::RunDir;
use crate::boot::verdict::has_complaint;
use crate::boot::{bochs, qemu};
use crate::host::error::{HostError, IoContext};
use crate::host::process::{Process, drain};
use crate::kbuild::kernel::Kernel;
use crate::wire::job::port;
use crate::wire::line;

/// The size of a port's pipe. The machine waits when it is full.
const PIPE: i32 = 1 << 20;

/// The receivers of the ports' bytes.
pub(crate) type Sinks<'a> = [&'a mut (dyn Write + Send); port::ALL.len()];

/// A pipe that an emulator opens by its path in /proc. It is not inherited, so no other
/// child can hold it open.
struct PortPipe {
    name: &'static str,
    reader: PipeReader,
    writer: PipeWriter,
}

impl PortPipe {
    fn new(name: &'static str) -> Result<Self> {
        let pipe = io::pipe().cannot_named("make a pipe for port", name);
        let (reader, writer) = pipe?;
        // A smaller pipe works too, but more slowly.
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
    let mut ports = Vec::new();
    for name in port::ALL {
        ports.push(PortPipe::new(name)?);
    }
    let log = dir.log();
    let output = File::create(&log).cannot("write", &log)?;
    let paths: Vec<_> = ports.iter().map(|port| (port.name, port.path())).collect();
    let mut command = qemu::command(machine, &kernel.image(), cmdline, dir, &paths);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output);

    thread::scope(|scope| {
        let mut writers = Vec::new();
        let mut readers = Vec::new();
        for (port, sink) in ports.into_iter().zip(sinks) {
            writers.push(port.writer);
            readers.push(scope.spawn(move || {
                let drained = drain(port.reader, sink);
                drained.cannot_named("forward the port", port.name)
            }));
        }
        let status = run(machine, command, qemu::PROGRAM, dir);
        // The readers end when no process has the pipes open for writing.
        drop(writers);
        let drained = readers
            .into_iter()
            .map(|reader| reader.join().expect("draining a pipe does not panic"))
            .fold(Ok(()), Result::and);
        let status = status?;
        drained?;
        Ok(status)
    })
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
    let port = PortPipe::new("line")?;
    let path = port.path();
    let mut command = bochs::command(machine, &kernel.image(), cmdline, dir, Path::new(&path))?;
    let terminal = bochs::terminal()?;
    let end = || {
        let copy = terminal.try_clone();
        copy.cannot_named("open", "a terminal for Bochs")
    };
    command.stdin(end()?).stdout(end()?).stderr(end()?);
    drop(terminal);

    thread::scope(|scope| {
        let PortPipe { reader, writer, .. } = port;
        let reader = scope.spawn(|| line::receive(reader, &mut sinks));
        let status = run(machine, command, bochs::PROGRAM, dir);
        drop(writer);
        let received = reader.join().expect("receiving frames does not panic");
        let status = status?;
        received.cannot_named("forward", "the ports")?;
        Ok(status)
    })
}

/// The interval at which the console of a strict machine is searched for reports.
const LOOK: Duration = Duration::from_secs(2);

/// Runs an emulator to its end, or until the time limit, or until the kernel of a strict
/// machine has reported a problem: the rest of the run is not worth the time.
fn run(
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
