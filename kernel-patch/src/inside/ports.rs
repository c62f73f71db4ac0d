//! The machine's ends of the ports to the host.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, BufWriter, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc::B115200;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{ControlFlags, SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use nix::unistd::Pid;

use crate::wire::job::{JobResult, OUT, port};
use crate::wire::line;

/// The ports, by name.
pub(crate) struct OutputPorts {
    files: BTreeMap<&'static str, File>,
    /// The line that carries them, unless each is a device.
    line: Option<Line>,
}

impl OutputPorts {
    /// Opens the ports: over the line that the kernel's command line names, or as devices.
    pub(crate) fn open() -> Result<Self> {
        match env::var_os(line::VARIABLE) {
            Some(device) => {
                let opened = Line::open(&Path::new("/dev").join(&device));
                let (line, files) =
                    opened.with_context(|| format!("cannot open the line {}", device.display()))?;
                let line = Some(line);
                Ok(Self { files, line })
            }
            None => Self::devices(),
        }
    }

    /// Waits for the devices, which the kernel sets up in the background.
    fn devices() -> Result<Self> {
        const LONG: Duration = Duration::from_secs(10);
        const STEP: Duration = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        let mut files = BTreeMap::new();
        while files.len() < port::ALL.len() {
            let found = files.keys();
            ensure!(waited <= LONG, "only these serial ports came up: {found:?}");
            Self::open_new(&mut files).context("cannot open a serial port")?;
            thread::sleep(STEP);
            waited += STEP;
        }
        Ok(Self { files, line: None })
    }

    fn open_new(open: &mut BTreeMap<&'static str, File>) -> io::Result<()> {
        for name in port::ALL {
            if !open.contains_key(name)
                && let Some(device) = device(name)?
            {
                open.insert(name, File::options().write(true).open(device)?);
            }
        }
        Ok(())
    }

    /// Returns a port.
    pub(crate) fn file(&self, name: &str) -> io::Result<File> {
        self.files[name].try_clone()
    }

    /// Sends the files in [`OUT`].
    pub(crate) fn send_files(&self) -> io::Result<()> {
        let files = BufWriter::with_capacity(32 << 10, &self.files[port::FILES]);
        let mut tar = tar::Builder::new(files);
        tar.mode(tar::HeaderMode::Deterministic);
        tar.append_dir_all(".", OUT)?;
        tar.into_inner()?.flush()
    }

    /// Sends the result of the job.
    pub(crate) fn send(&self, report: &JobResult) -> io::Result<()> {
        let text = serde_json::to_vec(report)?;
        (&self.files[port::EXIT]).write_all(&text)
    }

    /// Waits until the host has received everything. A write to a device does so itself,
    /// but a line has to be drained.
    pub(crate) fn close(self) -> io::Result<()> {
        drop(self.files);
        self.line.map_or(Ok(()), Line::close)
    }
}

/// Opens a port from the host.
pub(crate) fn input_port(name: &str) -> Result<File> {
    let device = device(name)?.with_context(|| format!("there is no port {name}"))?;
    File::open(&device).with_context(|| device.display().to_string())
}

/// The device of the port `name`, if it has come up.
fn device(name: &str) -> io::Result<Option<PathBuf>> {
    let Ok(dir) = fs::read_dir("/sys/class/virtio-ports") else {
        return Ok(None);
    };
    for entry in dir {
        let entry = entry?;
        let found = fs::read_to_string(entry.path().join("name"));
        if found.is_ok_and(|it| it.trim() == name) {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

/// A serial line, and the threads that forward the ports to it.
struct Line {
    device: Arc<Mutex<File>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Line {
    fn open(device: &Path) -> io::Result<(Self, BTreeMap<&'static str, File>)> {
        let device = File::options().write(true).read(true).open(device)?;
        let mut mode = tcgetattr(&device)?;
        cfmakeraw(&mut mode);
        // nix's function for this does not exist with static linking.
        mode.control_flags.remove(ControlFlags::CBAUD);
        mode.control_flags |= ControlFlags::from_bits_retain(B115200);
        tcsetattr(&device, SetArg::TCSANOW, &mode)?;

        let device = Arc::new(Mutex::new(device));
        let mut files = BTreeMap::new();
        let mut threads = Vec::new();
        for name in port::ALL {
            let (reader, writer) = io::pipe()?;
            files.insert(name, File::from(OwnedFd::from(writer)));
            let device = Arc::clone(&device);
            threads.push(thread::spawn(move || carry(reader, name, &device)));
        }
        Ok((Self { device, threads }, files))
    }

    /// Kills the processes that the job has left, because they hold ports open, and drains
    /// the line.
    fn close(self) -> io::Result<()> {
        // This fails if there is no process to kill.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        for thread in self.threads {
            thread.join().expect("carrying bytes does not panic")?;
        }
        let device = self.device.lock().expect("carrying bytes does not panic");
        Ok(tcdrain(&*device)?)
    }
}

/// Forwards a port to the line.
fn carry(mut from: PipeReader, name: &'static str, device: &Mutex<File>) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes)? {
            0 => return Ok(()),
            n => {
                let mut device = device.lock().expect("carrying bytes does not panic");
                line::send(&mut *device, name, &bytes[..n])?;
            }
        }
    }
}
