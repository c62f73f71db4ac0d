//! The standard error of a program: shown as progress while it runs, quoted in a
//! message if it fails.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::thread;

use super::error::{IoContext, Result};
use super::paths;

/// The most lines that a message quotes.
const LINES: usize = 12;

/// How many of the last lines a message quotes if none of them mentions an error.
const LAST: usize = 3;

/// Everything that a program has written.
pub(crate) struct Transcript(Vec<u8>);

/// Calls `work` on another thread with a writer, and `on_line` on this thread with the
/// last line of each write. Returns the result of `work` and everything it wrote.
pub(crate) fn transcribe<T: Send>(
    on_line: &mut dyn FnMut(&str),
    work: impl FnOnce(&mut (dyn Write + Send)) -> T + Send,
) -> (T, Transcript) {
    let (lines, received) = mpsc::channel();
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let mut writer = Writer {
                bytes: Vec::new(),
                lines,
            };
            let result = work(&mut writer);
            (result, Transcript(writer.bytes))
        });
        received.iter().for_each(|line: String| on_line(&line));
        worker.join().expect("running a program does not panic")
    })
}

struct Writer {
    bytes: Vec<u8>,
    lines: Sender<String>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if let Some(line) = String::from_utf8_lossy(bytes).lines().last() {
            // The receiver is gone only if its thread has panicked.
            let _ = self.lines.send(line.to_owned());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transcript {
    /// The text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// Returns what a user needs to know of a failure: the lines from the last error on,
    /// and the path of a file with the whole text. The file is named after `what`, the
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
        fs::write(&path, &self.0).cannot("write", &path)?;
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
    fn the_last_line_of_each_write_is_handed_on() {
        let mut lines = Vec::new();
        let ((), transcript) = transcribe(&mut |line| lines.push(line.to_owned()), |writer| {
            writer.write_all(b"one\ntwo\n").unwrap();
            writer.write_all(b"three\n").unwrap();
        });
        assert_eq!(transcript.text(), "one\ntwo\nthree\n");
        assert_eq!(lines, ["two", "three"]);
    }
}
