//! What a program writes while it works, and what is told of it when it fails.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::host::error::{Error, Result};
use crate::host::paths;

/// The most lines that are told.
const LINES: usize = 12;

/// How many of the last lines are told when none of them says that it is an error.
const LAST: usize = 3;

/// Everything that a program has written. Its last line is handed on as it comes.
pub struct Transcript<F> {
    bytes: Vec<u8>,
    line: F,
}

impl<F: FnMut(&str)> Transcript<F> {
    /// An empty one, which calls `line` with the last line of what is written.
    pub fn new(line: F) -> Self {
        let bytes = Vec::new();
        Self { bytes, line }
    }

    /// The whole of it, when the program has ended.
    #[must_use]
    pub fn finish(self) -> Said {
        Said(String::from_utf8_lossy(&self.bytes).into_owned())
    }
}

/// Everything that a program has written.
pub struct Said(String);

impl Said {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// What a person needs to know of a failure: its last lines from the last one
    /// that says that it is an error, and the path of a file with the whole text.
    /// The file is named after `what`, the work that failed.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn failure(&self, what: &str) -> Result<String> {
        let path = self.keep(what)?;
        Ok(match important(&self.0) {
            lines if lines.is_empty() => "it said nothing".into(),
            lines => format!(
                "{lines}\n(everything that it said is in {})",
                path.display()
            ),
        })
    }

    fn keep(&self, what: &str) -> Result<PathBuf> {
        let name = what.replace([' ', '/'], "-");
        let path = paths::logs()?.join(format!("{name}.log"));
        fs::write(&path, &self.0).map_err(Error::io("write", &path))?;
        Ok(path)
    }
}

impl<F: FnMut(&str)> Write for Transcript<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if let Some(line) = String::from_utf8_lossy(bytes).lines().last() {
            (self.line)(line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines from the last error on.
fn important(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|it| !it.trim().is_empty()).collect();
    let is_error = |line: &&str| {
        let line = line.to_ascii_lowercase();
        line.contains(" panicked at ") || line.contains("error") || line.contains("failed")
    };
    let first = match lines.iter().rposition(is_error) {
        Some(first) => first,
        None => lines.len().saturating_sub(LAST),
    };
    let lines = lines[first..].iter().take(LINES);
    lines.copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_text_the_error_is_told() {
        let noise = "Benchmarking null_syscall/ioctl: Warming up\n".repeat(300);
        let panic = "thread 'main' (7) panicked at src/a.rs:1:2:\nno such thing\nnote: more\n";
        for (text, expected) in [
            (
                format!("{noise}compare: error: no KVM\n"),
                "compare: error: no KVM",
            ),
            (format!("{noise}{panic}\n"), panic.trim_end()),
            (format!("{noise}one\n\ntwo\nthree\n"), "one\ntwo\nthree"),
            (format!("{panic}{noise}error\n"), "error"),
            (String::new(), ""),
        ] {
            assert_eq!(important(&text), expected);
        }
    }

    #[test]
    fn the_last_line_is_handed_on_as_it_comes() {
        let mut lines = Vec::new();
        let mut transcript = Transcript::new(|line: &str| lines.push(line.to_owned()));
        transcript.write_all(b"one\ntwo\n").unwrap();
        transcript.write_all(b"three\n").unwrap();
        assert_eq!(transcript.finish().text(), "one\ntwo\nthree\n");
        assert_eq!(lines, ["two", "three"]);
    }
}
