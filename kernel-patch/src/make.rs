//! The kernel's own build.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;

use crate::process::{self, run_with};
use crate::progress::Progress;
use crate::{Error, Result};

/// What a build is said to be, so that it is the same bytes everywhere.
const STAMPS: [&str; 5] = [
    "KBUILD_BUILD_TIMESTAMP=2007-07-17 00:00:00 UTC",
    "KBUILD_BUILD_USER=kernel-patch",
    "KBUILD_BUILD_HOST=kernel-patch",
    "KBUILD_BUILD_VERSION=1",
    // A tree inside of somebody's git repository is not of that repository.
    "LOCALVERSION=",
];

/// `make` in one build directory.
pub(crate) struct Make<'a> {
    /// The source.
    pub(crate) tree: &'a Path,
    /// The directory that is built in.
    pub(crate) build: &'a Path,
    /// The architecture, as the kernel's make calls it.
    pub(crate) arch: &'a str,
    /// More options and variables of `make`.
    pub(crate) args: &'a [String],
    /// Where all output goes.
    pub(crate) log: PathBuf,
    /// Where it is told how far it has come.
    pub(crate) progress: Progress,
}

impl Make<'_> {
    /// Makes `targets`, separated by blanks.
    pub(crate) fn run(&self, targets: &str) -> Result<()> {
        let mut command = Command::new("make");
        // One's own CFLAGS, CROSS_COMPILE or MAKEFLAGS would make another
        // kernel, or none.
        process::clean(&mut command)
            .arg(format!(
                "-j{}",
                available_parallelism().map_or(1, usize::from)
            ))
            .arg("-C")
            .arg(self.tree)
            .arg(output(self.build))
            .arg(format!("ARCH={}", self.arch))
            .args(STAMPS)
            .args(self.args)
            .args(targets.split(' '));
        let mut objects = Objects::new(&self.log)?;
        run_with(command, &format!("make {targets}"), &self.log, || {
            if let Some(count) = objects.count() {
                self.progress.at(&format!("{count} objects"));
            }
        })
    }
}

fn output(build: &Path) -> std::ffi::OsString {
    let mut arg = std::ffi::OsString::from("O=");
    arg.push(build);
    arg
}

/// Counts what is compiled by what the log says.
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
            .map_err(Error::io("write", log))?;
        Ok(Self {
            log: BufReader::new(file),
            line: Vec::new(),
            count: 0,
        })
    }

    /// How many there are, if there are more than the last time.
    fn count(&mut self) -> Option<usize> {
        let before = self.count;
        // A line whose end is not written yet stays for the next time.
        while let Ok(1..) = self.log.read_until(b'\n', &mut self.line) {
            if !self.line.ends_with(b"\n") {
                break;
            }
            let line = self.line.trim_ascii_start();
            self.count += usize::from(line.starts_with(b"CC ") || line.starts_with(b"AS "));
            self.line.clear();
        }
        (self.count > before).then_some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn objects_are_counted_as_they_come() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        let mut objects = Objects::new(log.path()).unwrap();
        assert_eq!(objects.count(), None);
        write!(log, "  CC      a.o\n  LD      b.o\n  AS [M]  c.o\n  C").unwrap();
        assert_eq!(objects.count(), Some(2));
        writeln!(log, "C      d.o").unwrap();
        assert_eq!(objects.count(), Some(3));
        assert_eq!(objects.count(), None);
    }
}
