//! Which lines of the new kernel code the properties reach.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kernel_patch::{COUNTS, Kernel};
use serde::{Deserialize, Serialize};

use crate::outcome::{Outcome, PropertyResult};
use crate::walk;

/// The share of the lines that a whole run must reach, in per cent.
const WANTED: f64 = 95.0;

/// How often each line with code was reached, by file.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<PathBuf, BTreeMap<u32, u64>>);

/// The output of gcov for one object: the fields that are used here.
#[derive(Deserialize)]
struct GcovOutput {
    files: Vec<GcovFile>,
}

#[derive(Deserialize)]
struct GcovFile {
    file: PathBuf,
    lines: Vec<GcovLine>,
}

/// A line of a function. An inlined line is part of several functions, and is
/// listed once for each.
#[derive(Deserialize)]
struct GcovLine {
    line_number: u32,
    count: u64,
}

impl Counts {
    /// Adds the counts that a machine with `kernel` has left in `out`.
    pub fn add(&mut self, kernel: &Kernel, out: &Path) -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let brought = walk::files(&out.join(COUNTS))?;
        for object in kernel.counted() {
            let data = object.with_extension("gcda");
            let counts = brought.iter().find(|path| path.ends_with(&data));
            let counts = counts.with_context(|| format!("no counts of {}", object.display()))?;
            self.object(kernel, object, counts, scratch.path())?;
        }
        Ok(())
    }

    fn object(&mut self, kernel: &Kernel, object: &Path, counts: &Path, dir: &Path) -> Result<()> {
        // gcov expects both files in one directory.
        let stem = dir.join(object.file_stem().context("an object has a name")?);
        let notes = kernel.build_dir.join(object).with_extension("gcno");
        symlink(&notes, stem.with_extension("gcno"))?;
        symlink(counts, stem.with_extension("gcda"))?;
        let output = Command::new("gcov")
            .args(["--json-format", "--stdout"])
            .arg(stem.with_extension("gcda"))
            .current_dir(dir)
            .output()
            .context("cannot run gcov")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "gcov: {errors}");
        let output: GcovOutput = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the output of gcov for {}", object.display()))?;
        for file in output.files {
            let lines = self.0.entry(in_source(&file.file)).or_default();
            for line in file.lines {
                *lines.entry(line.line_number).or_default() += line.count;
            }
        }
        Ok(())
    }

    /// Which of the lines that the series adds were reached.
    pub fn report(&self, kernel: &Kernel) -> Result<Coverage> {
        let mut files = Vec::new();
        for (path, added) in kernel.added_lines()? {
            let Some(counts) = self.0.get(&path) else {
                continue;
            };
            let counted = added.iter().filter_map(|line| counts.get_key_value(line));
            let counted: Vec<_> = counted.collect();
            if counted.is_empty() {
                continue;
            }
            let source = kernel.source_dir.join(&path);
            let source = fs::read_to_string(&source).with_context(|| path.display().to_string())?;
            let text = |line: u32| source.lines().nth(line as usize - 1).unwrap_or_default();
            let missed = counted.iter().filter(|(_, count)| **count == 0);
            let missed = missed.map(|(line, _)| Missed {
                line: **line,
                text: text(**line).trim().to_owned(),
            });
            files.push(File {
                lines: counted.len(),
                missed: missed.collect(),
                file: path,
            });
        }
        Ok(Coverage { files })
    }
}

/// The lines with code that the series adds, by file.
#[derive(Debug, Serialize)]
pub struct Coverage {
    pub files: Vec<File>,
}

#[derive(Debug, Serialize)]
pub struct File {
    pub file: PathBuf,
    pub lines: usize,
    pub missed: Vec<Missed>,
}

/// A line that was never reached.
#[derive(Debug, Serialize)]
pub struct Missed {
    pub line: u32,
    pub text: String,
}

impl File {
    pub fn reached(&self) -> usize {
        self.lines - self.missed.len()
    }
}

impl Coverage {
    pub fn lines(&self) -> usize {
        self.files.iter().map(|file| file.lines).sum()
    }

    pub fn reached(&self) -> usize {
        self.files.iter().map(File::reached).sum()
    }

    /// The result as a row of the table of properties.
    pub fn row(&self) -> PropertyResult {
        let mut outcome = Outcome {
            cases: self.lines() as u64,
            ..Outcome::default()
        };
        let share = percent(self.reached(), self.lines());
        if share < WANTED {
            outcome.fail(format!("{share:.1} % of the lines, not {WANTED} %"));
        }
        PropertyResult {
            property: "coverage",
            about: "at least 95 % of the new code is reached",
            backends: "syscall",
            seconds: 0,
            outcome,
        }
    }
}

/// A share in per cent, 0 of nothing.
pub fn percent(part: usize, all: usize) -> f64 {
    if all == 0 {
        0.0
    } else {
        100.0 * part as f64 / all as f64
    }
}

/// The path of a file below the source, from its path as the compiler saw it in
/// the build directory, which lies in the source.
fn in_source(seen: &Path) -> PathBuf {
    let mut path = PathBuf::new();
    for component in seen.components() {
        match component {
            // At the start, this leaves the build directory.
            Component::ParentDir => drop(path.pop()),
            other => path.push(other),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_relative_to_the_source() {
        for (seen, path) in [
            ("../virt/kvm/syscalls.c", "virt/kvm/syscalls.c"),
            (
                "../arch/x86/kvm/../../../virt/kvm/kvm_main.c",
                "virt/kvm/kvm_main.c",
            ),
            ("include/generated/a.h", "include/generated/a.h"),
        ] {
            assert_eq!(in_source(Path::new(seen)), Path::new(path));
        }
    }

    #[test]
    fn enough_is_a_share() {
        let report = |lines, missed: u32| Coverage {
            files: vec![File {
                file: "a".into(),
                lines,
                missed: (0..missed)
                    .map(|line| Missed {
                        line,
                        text: String::new(),
                    })
                    .collect(),
            }],
        };
        assert!(report(20, 1).row().holds());
        assert!(!report(20, 2).row().holds());
        assert!(!report(0, 0).row().holds());
    }
}
