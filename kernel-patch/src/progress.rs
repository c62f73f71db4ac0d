//! What is going on, for a person who waits.

use std::borrow::Cow;
use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const SELDOM: Duration = Duration::from_secs(30);

/// One thing that takes its time: a spinner on a terminal, else a few lines.
pub(crate) struct Progress {
    what: Cow<'static, str>,
    bar: Option<ProgressBar>,
    started: Instant,
    spoke: Cell<Instant>,
}

impl Progress {
    pub(crate) fn start(what: impl Into<Cow<'static, str>>) -> Self {
        let what = what.into();
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}")
                .expect("the template is well-formed");
            ProgressBar::new_spinner()
                .with_style(style)
                .with_message(what.clone())
        });
        if bar.is_none() {
            eprintln!("kernel-patch: {what}");
        }
        let now = Instant::now();
        Self {
            what,
            bar,
            started: now,
            spoke: Cell::new(now),
        }
    }

    /// Shows that it goes on.
    pub(crate) fn tick(&self) {
        if let Some(bar) = &self.bar {
            bar.tick();
        }
    }

    /// Shows how far it has come.
    pub(crate) fn at(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {detail}", self.what));
        } else if self.spoke.get().elapsed() >= SELDOM {
            self.spoke.set(Instant::now());
            let seconds = self.started.elapsed().as_secs();
            eprintln!("kernel-patch: {}: {detail}, {seconds} s", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
