//! The input of a machine: the standard input of this process, and the size of its terminal.

use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, PipeWriter, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::thread::{self, JoinHandle};

use nix::libc::{TIOCGWINSZ, winsize};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{mkfifo, read};

use super::error::Result;
use crate::boot::machine::Machine;
use crate::boot::qemu::escaped;
use crate::boot::run_dir::RunDir;
use crate::host::IoContext;
use crate::wire::job::{Input, port};

/// The interval in milliseconds at which the size of the terminal is compared.
const LOOK: u8 = 250;

/// The character that ends the machine if it comes three times in a row: Ctrl-].
const ESCAPE: u8 = 0x1d;

/// Where the executable of `machine` has its input from.
pub(crate) fn kind(machine: &Machine) -> Input {
    if !(machine.input && machine.host_root) {
        return Input::None;
    }
    if stdin().is_terminal() && stdout().is_terminal() {
        let has_stderr = stderr().is_terminal();
        return Input::Terminal { has_stderr };
    }
    Input::Port
}

/// The ports that bring the input, each with QEMU's description of its other end.
pub(crate) fn ports(machine: &Machine, dir: &RunDir) -> Vec<(&'static str, String)> {
    let stdin = format!("stdio,id={},signal=off", port::STDIN);
    let size = format!("pipe,id={},path={}", port::SIZE, escaped(&dir.size()));
    match kind(machine) {
        Input::None => Vec::new(),
        Input::Port => vec![(port::STDIN, stdin)],
        Input::Terminal { .. } => vec![(port::STDIN, stdin), (port::SIZE, size)],
    }
}

/// Starts to forward the input. Returns the standard input for QEMU, and a value that
/// stops the work when it is dropped.
pub(crate) fn start(machine: &Machine, dir: &RunDir) -> Result<(Stdio, Option<Forwarder>)> {
    let terminal = match kind(machine) {
        Input::None => return Ok((Stdio::null(), None)),
        Input::Port => None,
        Input::Terminal { .. } => {
            let path = dir.size();
            let made = mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR);
            made.map_err(io::Error::from).cannot("make", &path)?;
            // Open for reading, too, so that this does not wait for QEMU.
            let sizes = File::options().read(true).write(true).open(&path);
            Some((sizes.cannot("open", &path)?, Raw::enter()?))
        }
    };
    let pipe = || io::pipe().cannot_named("make a pipe for", "the input");
    let (reader, writer) = pipe()?;
    let (stopped, stop) = pipe()?;
    let (sizes, raw) = terminal.unzip();
    let thread = thread::spawn(move || forward(&stopped, writer, sizes));
    let forwarder = Forwarder {
        stop: Some(stop),
        thread: Some(thread),
        _raw: raw,
    };
    Ok((reader.into(), Some(forwarder)))
}

/// A thread that forwards the input.
pub(crate) struct Forwarder {
    /// The end of a pipe that the thread waits for.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    _raw: Option<Raw>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It can only have panicked.
            let _ = thread.join();
        }
    }
}

/// Forwards bytes until the input ends or the machine is gone, and sizes until `stopped`.
fn forward(stopped: &PipeReader, to: PipeWriter, mut sizes: Option<File>) {
    let stdin = stdin();
    let mut to = Some(to);
    let mut last = None;
    let mut escapes = Escapes::default();
    loop {
        if let Some(pipe) = &mut sizes
            && let size @ Some((rows, columns)) = terminal_size()
            && size != last
        {
            // The machine can be gone.
            let _ = writeln!(pipe, "{rows} {columns}");
            last = size;
        }
        let mut ends = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        if to.is_some() {
            ends.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        if poll(&mut ends, PollTimeout::from(LOOK)).is_err() {
            // A signal: the wait for the emulator handles it.
            continue;
        }
        if ends[0].any() == Some(true) {
            return;
        }
        if ends.get(1).and_then(PollFd::any) == Some(true) {
            let mut bytes = [0; 4096];
            // An input that cannot be read is one without bytes.
            let count = read(&stdin, &mut bytes).unwrap_or(0);
            let bytes = &bytes[..count];
            if sizes.is_some() && escapes.end(bytes) {
                // As Ctrl-C does without a terminal.
                let _ = raise(Signal::SIGINT);
            }
            // Without its writer, the pipe ends.
            to = to.filter(|mut pipe| count > 0 && pipe.write_all(bytes).is_ok());
        }
    }
}

/// The rows and columns of the terminal.
fn terminal_size() -> Option<(u16, u16)> {
    nix::ioctl_read_bad!(size_of_window, TIOCGWINSZ, winsize);
    // SAFETY: all bytes may be zero.
    let mut size: winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the ioctl writes the structure, which lives long enough.
    unsafe { size_of_window(0, &mut size) }.ok()?;
    Some((size.ws_row, size.ws_col))
}

/// Counts the bytes that end the machine.
#[derive(Default)]
struct Escapes(u8);

impl Escapes {
    /// Whether `bytes`, after those before, end the machine.
    fn end(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            self.0 = if *byte == ESCAPE { self.0 + 1 } else { 0 };
            if self.0 == 3 {
                return true;
            }
        }
        false
    }
}

/// The terminal in a mode in which it passes each byte on, until this is dropped. The
/// terminal inside then does the rest: it echoes, and sends signals.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let stdin = stdin();
        let mode = tcgetattr(&stdin).map_err(io::Error::from);
        let mode = mode.cannot_named("read", "the mode of the terminal")?;
        let mut raw = mode.clone();
        cfmakeraw(&mut raw);
        let set = tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).map_err(io::Error::from);
        set.cannot_named("set", "the mode of the terminal")?;
        Ok(Self(mode))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal can be gone.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_row_end_the_machine() {
        let mut escapes = Escapes::default();
        for (bytes, ends) in [
            (&b"\x1d\x1d"[..], false),
            (b"a\x1d", false),
            (b"\x1d", false),
            (b"\x1d", true),
        ] {
            assert_eq!(escapes.end(bytes), ends, "{bytes:?}");
        }
    }
}
