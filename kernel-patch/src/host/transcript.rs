//! The standard error of a program: shown as progress while it runs, quoted in a
//! message if it fails.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use super::error::{IoContext, Result};
use super::paths;

/// The most lines that a message quotes.
const LINES: usize = 12;

/// How many of the last lines a message quotes if none of them mentions an error.
const LAST: usize = 3;

/// Keeps everything that a program writes, and passes it on.
pub(crate) struct Transcript<F> {
    bytes: Vec<u8>,
    on_write: F,
}

/// Returns a transcript that calls `on_line` with the last line that each write completes.
pub(crate) fn of_lines(
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Transcript<impl FnMut(&[u8]) + Send> {
    // A line can arrive in pieces.
    let mut rest = Vec::new();
    Transcript::new(move |bytes: &[u8]| {
        rest.extend_from_slice(bytes);
        if let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') {
            let lines = String::from_utf8_lossy(&rest[..end]);
            on_line(lines.lines().last().unwrap_or_default());
            rest.drain(..=end);
        }
    })
}

impl<F: FnMut(&[u8])> Write for Transcript<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.on_write)(bytes);
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<F> Transcript<F> {
    /// Returns an empty transcript, which passes on to `on_write`.
    pub(crate) fn new(on_write: F) -> Self {
        let bytes = Vec::new();
        Self { bytes, on_write }
    }

    /// The text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Describes a failure for a message: the lines from the last error on, and the path
    /// of a file with the whole text. The file is named after `what`, the
    /// work that failed.
    pub(crate) fn failure(&self, what: &str) -> Result<String> {
        let path = self.keep(what)?;
        Ok(match important(&self.text()) {
            lines if lines.is_empty() => "it printed nothing".into(),
            lines => format!("{lines}\n(the whole output is in {})", path.display()),
        })
    }

    fn keep(&self, what: &str) -> Result<PathBuf> {
        let name = what.replace([' ', '/'], "-");
        let path = paths::logs()?.join(format!("{name}.log"));
        fs::write(&path, &self.bytes).cannot("write", &path)?;
        Ok(path)
    }
}

/// The lines from the last error on.
fn important(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|it| !it.trim().is_empty()).collect();
    let is_error = |line: &&str| {
        let line = line.to_ascii_lowercase();
        line.contains(" panicked at ") || line.contains("error") || line.contains("failed")
    };
    let first = lines.iter().rposition(is_error);
    let first = first.unwrap_or(lines.len().saturating_sub(LAST));
    let lines = lines[first..].iter().take(LINES);
    lines.copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_quotes_the_error_of_a_long_text() {
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
    fn the_last_complete_line_is_passed_on() {
        let mut lines = Vec::new();
        let mut on_line = |line: &str| lines.push(line.to_owned());
        let mut transcript = of_lines(&mut on_line);
        transcript.write_all(b"one\ntwo\n").unwrap();
        for piece in ["th", "ree", "\n", "fo"] {
            transcript.write_all(piece.as_bytes()).unwrap();
        }
        let text = transcript.text();
        drop(transcript);
        assert_eq!(text, "one\ntwo\nthree\nfo");
        assert_eq!(lines, ["two", "three"]);
    }
}
