//! The standard streams of the job: ports, or pipes and a terminal that the ports lead to.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::libc::{
    EIO, O_NOCTTY, O_RDWR, TIOCGPTPEER, TIOCSCTTY, TIOCSPTLCK, TIOCSWINSZ, c_int, winsize,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};

use crate::inside::host_root::ROOT;
use crate::inside::ports::{OutputPorts, input_port};
use crate::wire::job::{Input, port};

nix::ioctl_write_ptr_bad!(unlock, TIOCSPTLCK, c_int);
nix::ioctl_write_int_bad!(peer, TIOCGPTPEER);
nix::ioctl_write_int_bad!(set_controlling, TIOCSCTTY);
nix::ioctl_write_ptr_bad!(set_size, TIOCSWINSZ, winsize);

/// A thread that forwards to a port until no process has the stream open.
type Forwarder = JoinHandle<io::Result<()>>;

/// The streams of a job.
pub(crate) struct Streams {
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    is_terminal: bool,
    forwarders: Vec<Forwarder>,
}

impl Streams {
    /// Opens the streams of a job that is alone in the machine: the ports, and no input.
    pub(crate) fn of_ports(ports: &OutputPorts) -> Result<Self> {
        Ok(Self {
            stdin: Stdio::null(),
            stdout: ports.file(port::STDOUT)?.into(),
            stderr: ports.file(port::STDERR)?.into(),
            is_terminal: false,
            forwarders: Vec::new(),
        })
    }

    /// Opens the streams of a program of the host. It may open them again, by /dev/stderr for
    /// example, which a port does not allow: so each is a pipe, or the terminal.
    pub(crate) fn open(input: Input, ports: &OutputPorts) -> Result<Self> {
        let mut forwarders = Vec::new();
        let mut pipe = |name| -> Result<Stdio> {
            let (reader, writer) = io::pipe()?;
            forwarders.push(forward(reader, ports.file(name)?));
            Ok(writer.into())
        };
        let Input::Terminal { has_stderr } = input else {
            return Ok(Self {
                stdin: match input {
                    Input::Port => stdin_pipe()?,
                    _ => Stdio::null(),
                },
                stdout: pipe(port::STDOUT)?,
                stderr: pipe(port::STDERR)?,
                is_terminal: false,
                forwarders,
            });
        };
        let (ours, theirs) = open_terminal().context("cannot make a terminal")?;
        let copy = || theirs.try_clone().context("the terminal");
        let stderr = match has_stderr {
            true => copy()?.into(),
            false => pipe(port::STDERR)?,
        };
        connect_input(&ours)?;
        forwarders.push(forward(ours, ports.file(port::STDOUT)?));
        Ok(Self {
            stdin: copy()?.into(),
            stdout: copy()?.into(),
            stderr,
            is_terminal: true,
            forwarders,
        })
    }

    /// Gives the streams to a command, as its controlling terminal if they are one. Returns
    /// what is to be done at its end.
    pub(crate) fn give(self, command: &mut Command) -> Ending {
        command.stdin(self.stdin).stdout(self.stdout);
        command.stderr(self.stderr);
        if self.is_terminal {
            let lead = || {
                setsid()?;
                // SAFETY: the ioctl takes a number.
                unsafe { set_controlling(0, 0) }?;
                Ok(())
            };
            // SAFETY: between fork and exec the closure makes two system calls.
            unsafe { command.pre_exec(lead) };
        }
        Ending(self.forwarders)
    }
}

/// What is left to do when a job has ended.
pub(crate) struct Ending(Vec<Forwarder>);

impl Ending {
    /// Waits until everything has been forwarded. Ends the processes that the job has left,
    /// because they have the streams open.
    pub(crate) fn finish(self) -> Result<()> {
        if !self.0.is_empty() {
            // This fails if there is no process to kill.
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        }
        for forwarder in self.0 {
            let forwarded = forwarder.join().expect("forwarding does not panic");
            forwarded.context("cannot forward the output")?;
        }
        Ok(())
    }
}

/// Forwards the bytes of a pipe or a terminal.
fn forward(mut from: impl Read + Send + 'static, mut to: File) -> Forwarder {
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        loop {
            match from.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => to.write_all(&bytes[..count])?,
                // No process has the other end of a terminal open.
                Err(error) if error.raw_os_error() == Some(EIO) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    })
}

/// A pipe that brings the input, until it ends or nobody reads it.
fn stdin_pipe() -> Result<Stdio> {
    let (reader, writer) = io::pipe()?;
    forward(input_port(port::STDIN)?, File::from(OwnedFd::from(writer)));
    Ok(reader.into())
}

/// Connects our end of a terminal with the ports from the host, which never end.
fn connect_input(ours: &File) -> Result<()> {
    let copy = || ours.try_clone().context("the terminal");
    forward(input_port(port::STDIN)?, copy()?);
    let (sized, sizes) = (copy()?, BufReader::new(input_port(port::SIZE)?));
    thread::spawn(move || {
        for line in sizes.lines().map_while(Result::ok) {
            resize(&sized, &line);
        }
    });
    Ok(())
}

/// Opens both ends of a new terminal, ours first.
fn open_terminal() -> io::Result<(File, File)> {
    let path = Path::new(ROOT).join("dev/ptmx");
    let ours = File::options().read(true).write(true).open(path)?;
    // SAFETY: the ioctl reads the number.
    unsafe { unlock(ours.as_raw_fd(), &0) }?;
    // SAFETY: the ioctl takes flags.
    let theirs = unsafe { peer(ours.as_raw_fd(), O_RDWR | O_NOCTTY) }?;
    // SAFETY: the descriptor is new.
    Ok((ours, unsafe { File::from_raw_fd(theirs) }))
}

/// Gives the terminal the rows and columns in `line`.
fn resize(terminal: &File, line: &str) {
    let numbers = line.split_once(' ');
    let numbers = numbers.and_then(|it| Some((it.0.parse().ok()?, it.1.parse().ok()?)));
    if let Some((ws_row, ws_col)) = numbers {
        let size = winsize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the ioctl reads the structure. It fails if the terminal is gone.
        let _ = unsafe { set_size(terminal.as_raw_fd(), &size) };
    }
}
