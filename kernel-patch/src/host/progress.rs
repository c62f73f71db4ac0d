//! Progress on standard error.

use std::borrow::Cow;
use std::io::{IsTerminal, stderr};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The interval between lines without a terminal.
const SELDOM: Duration = Duration::from_secs(30);
/// The interval between the steps of a spinner.
const TURN: Duration = Duration::from_millis(100);

/// The lines of all work in progress.
static SCREEN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A piece of work: a spinner on a terminal, otherwise some lines. There can be several at
/// a time.
pub struct Progress {
    program: &'static str,
    what: Cow<'static, str>,
    bar: Option<ProgressBar>,
    started: Instant,
    spoke: Mutex<Instant>,
}

impl Progress {
    /// Shows that `program` starts the work `what`.
    pub fn start(program: &'static str, what: impl Into<Cow<'static, str>>) -> Self {
        let what = what.into();
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}")
                .expect("the template is well-formed");
            let bar = SCREEN.add(ProgressBar::new_spinner().with_style(style));
            bar.set_message(what.clone());
            bar.enable_steady_tick(TURN);
            bar
        });
        if bar.is_none() {
            eprintln!("{program}: {what}");
        }
        let now = Instant::now();
        Self {
            program,
            what,
            bar,
            started: now,
            spoke: Mutex::new(now),
        }
    }

    /// Shows that this crate starts the work `what`.
    pub(crate) fn ours(what: impl Into<Cow<'static, str>>) -> Self {
        Self::start("kernel-patch", what)
    }

    /// Shows a detail of the work in progress.
    pub fn at(&self, detail: &str) {
        let (program, what) = (self.program, &self.what);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{what}: {detail}"));
            return;
        }
        let mut spoke = self.spoke.lock().expect("no holder panics");
        if spoke.elapsed() >= SELDOM {
            *spoke = Instant::now();
            let seconds = self.started.elapsed().as_secs();
            eprintln!("{program}: {what}: {detail}, after {seconds} s");
        }
    }

    /// Shows the result without a terminal, where the end is not visible.
    pub fn end(self, verdict: &str) {
        if self.bar.is_none() {
            let seconds = self.started.elapsed().as_secs();
            eprintln!("{}: {} {verdict}, {seconds} s", self.program, self.what);
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
