//! What is going on, and what was said meanwhile.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

/// What is being measured, on a terminal.
pub struct Spinner(ProgressBar);

impl Spinner {
    pub fn start() -> Self {
        let style = ProgressStyle::with_template("{spinner} measuring: {wide_msg} {elapsed}")
            .expect("the template is well-formed");
        let bar = ProgressBar::new_spinner().with_style(style);
        if io::stderr().is_terminal() {
            bar.enable_steady_tick(Duration::from_millis(100));
        } else {
            eprintln!("compare: measuring");
        }
        Self(bar)
    }

    pub fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What the machine says on stderr: its last line is what it measures.
pub struct Log<'a> {
    bytes: Vec<u8>,
    progress: &'a Spinner,
}

impl<'a> Log<'a> {
    pub fn new(progress: &'a Spinner) -> Self {
        Self {
            bytes: Vec::new(),
            progress,
        }
    }

    pub fn judge(&self, failure: &str, success: bool) -> Result<()> {
        let said = String::from_utf8_lossy(&self.bytes);
        ensure!(success, "{failure}; it said:\n{said}");
        Ok(())
    }
}

impl Write for Log<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if let Some(line) = String::from_utf8_lossy(bytes).lines().last() {
            self.progress.say(line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
