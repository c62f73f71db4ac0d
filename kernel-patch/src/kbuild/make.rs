//! The kernel's own build.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::error::Result;
use crate::host::process::{self, run, run_with};
use crate::host::{HostError, IoContext, Progress, files};

/// The variables that make a build reproducible.
const STAMPS: [&str; 5] = [
    "KBUILD_BUILD_TIMESTAMP=2007-07-17 00:00:00 UTC",
    "KBUILD_BUILD_USER=kernel-patch",
    "KBUILD_BUILD_HOST=kernel-patch",
    "KBUILD_BUILD_VERSION=1",
    // Ignore a git repository around the tree.
    "LOCALVERSION=",
];

/// The time after which the pace of a build is meaningful.
const EARLY: Duration = Duration::from_secs(10);

/// The kernel's make in one build directory.
pub(crate) struct Make<'a> {
    /// The source.
    pub(crate) tree: &'a Path,
    /// The build directory.
    pub(crate) build: &'a Path,
    /// The architecture, as the kernel's make calls it.
    pub(crate) arch: &'a str,
    /// More options and variables of `make`.
    pub(crate) args: &'a [String],
    /// The file for all output.
    pub(crate) log: PathBuf,
    /// Where the progress is shown.
    pub(crate) progress: Progress,
}

impl Make<'_> {
    /// Makes `targets`, separated by blanks.
    pub(crate) fn run(&self, targets: &str) -> Result<()> {
        self.run_of(targets, 0)
    }

    /// Makes `targets` of a kernel, and shows the share that is done. Makes what all targets
    /// need first, because only then a dry run lists their objects.
    pub(crate) fn build(&self, targets: &str) -> Result<()> {
        self.run("prepare")?;
        self.run_of(targets, self.objects_to_make(targets)?)
    }

    fn run_of(&self, targets: &str, all: usize) -> Result<()> {
        let mut objects = Objects::new(&self.log)?;
        let started = Instant::now();
        let what = format!("make {targets}");
        Ok(run_with(
            &mut self.command(targets),
            &what,
            &self.log,
            || {
                let done = objects.count();
                if done > 0 {
                    self.progress.at(&share(done, all, started.elapsed()));
                }
            },
        )?)
    }

    /// The number of objects to compile, from a dry run of make.
    fn objects_to_make(&self, targets: &str) -> Result<usize> {
        let log = self.log.with_extension("dry-run.log");
        let _ = fs::remove_file(&log);
        let mut command = self.command(targets);
        command.args(["--dry-run", "--keep-going"]);
        match run(&mut command, "make --dry-run", &log) {
            // A dry run fails at the end, because the objects to link do not exist.
            Ok(()) | Err(HostError::ToolFailed { .. }) => {}
            Err(other) => return Err(other.into()),
        }
        let output = files::text_or_empty(&log)?;
        // The recipe of an object begins with a message.
        Ok(output.matches("echo '  CC ").count() + output.matches("echo '  AS ").count())
    }

    fn command(&self, targets: &str) -> Command {
        // The user's CFLAGS, CROSS_COMPILE or MAKEFLAGS would change or break the build.
        let mut command = process::tool("make");
        let jobs = available_parallelism().map_or(1, usize::from);
        command
            .arg(format!("-j{jobs}"))
            .arg("-C")
            .arg(self.tree)
            .arg(format!("O={}", self.build.display()))
            .arg(format!("ARCH={}", self.arch))
            .args(STAMPS)
            .args(self.args)
            .args(targets.split(' '));
        command
    }
}

/// The share of a build that is done, and the time that the rest takes at the same pace.
fn share(done: usize, all: usize, took: Duration) -> String {
    if done > all {
        // The total is unknown, or make does more than the dry run.
        return format!("{done} objects");
    }
    let percent = done * 100 / all;
    let of = format!("{done} of {all} objects");
    if took < EARLY {
        return format!("{percent} % ({of})");
    }
    let left = took.as_secs_f64() / done as f64 * (all - done) as f64;
    let left = match left {
        ..=90.0 => format!("{:.0} s", left.ceil()),
        _ => format!("{:.0} min", (left / 60.0).ceil()),
    };
    // A narrow terminal shows only the first two.
    format!("{percent} %, about {left} left ({of})")
}

/// Counts the compiled objects in the log of make.
struct Objects {
    log: BufReader<File>,
    line: Vec<u8>,
    count: usize,
}

impl Objects {
    fn new(log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(log)
            .cannot("write", log)?;
        Ok(Self {
            log: BufReader::new(file),
            line: Vec::new(),
            count: 0,
        })
    }

    /// The number so far.
    fn count(&mut self) -> usize {
        // Keep an incomplete line for the next call.
        while let Ok(1..) = self.log.read_until(b'\n', &mut self.line) {
            if !self.line.ends_with(b"\n") {
                break;
            }
            let line = self.line.trim_ascii_start();
            self.count += usize::from(line.starts_with(b"CC ") || line.starts_with(b"AS "));
            self.line.clear();
        }
        self.count
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::host::{needs, packages};

    #[test]
    fn objects_are_counted_as_they_come() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        let mut objects = Objects::new(log.path()).unwrap();
        assert_eq!(objects.count(), 0);
        write!(log, "  CC      a.o\n  LD      b.o\n  AS [M]  c.o\n  C").unwrap();
        assert_eq!(objects.count(), 2);
        writeln!(log, "C      d.o").unwrap();
        assert_eq!(objects.count(), 3);
    }

    #[test]
    fn progress_has_the_share_and_the_time_left() {
        let took = |seconds| Duration::from_secs(seconds);
        for (done, all, seconds, expected) in [
            (7, 0, 60, "7 objects"),
            (7, 6, 60, "7 objects"),
            (1, 300, 2, "0 % (1 of 300 objects)"),
            (100, 300, 60, "33 %, about 2 min left (100 of 300 objects)"),
            (200, 300, 60, "66 %, about 30 s left (200 of 300 objects)"),
            (300, 300, 60, "100 %, about 0 s left (300 of 300 objects)"),
        ] {
            assert_eq!(share(done, all, took(seconds)), expected);
        }
    }

    /// The dry run announces as many objects as make then compiles.
    #[test]
    fn a_dry_run_counts_the_objects() {
        packages::ensure(needs::BUILD).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let makefile =
            "prepare:\nall: a.o b.o\na.o b.o:\n\t@set -e; echo '  CC      $@'; touch $@\n";
        fs::write(dir.path().join("Makefile"), makefile).unwrap();
        let log = dir.path().join("log");
        let make = Make {
            tree: dir.path(),
            build: dir.path(),
            arch: "x86_64",
            args: &[],
            log: log.clone(),
            progress: Progress::ours("making two objects"),
        };
        assert_eq!(make.objects_to_make("all").unwrap(), 2);
        let mut objects = Objects::new(&log).unwrap();
        make.build("all").unwrap();
        assert_eq!(objects.count(), 2);
        assert_eq!(make.objects_to_make("all").unwrap(), 0);
    }
}
