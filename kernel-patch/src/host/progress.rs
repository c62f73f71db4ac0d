//! What is going on, for a person who waits.

use std::borrow::Cow;
use std::io::{IsTerminal, stderr};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const SELDOM: Duration = Duration::from_secs(30);
/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// The lines of all that goes on at a time.
static SCREEN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// One thing that takes its time: a spinner on a terminal, else a few lines.
/// Several may go on at a time.
pub struct Progress {
    program: &'static str,
    what: Cow<'static, str>,
    bar: Option<ProgressBar>,
    started: Instant,
    spoke: Mutex<Instant>,
}

impl Progress {
    /// Says what begins, and which program does it.
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

    /// The same in this crate's own name.
    pub(crate) fn ours(what: impl Into<Cow<'static, str>>) -> Self {
        Self::start("kernel-patch", what)
    }

    /// Shows how far it has come.
    pub fn at(&self, detail: &str) {
        let (program, what) = (self.program, &self.what);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{what}: {detail}"));
            return;
        }
        let mut spoke = self.spoke.lock().expect("nobody panics with it");
        if spoke.elapsed() >= SELDOM {
            *spoke = Instant::now();
            let seconds = self.started.elapsed().as_secs();
            eprintln!("{program}: {what}: {detail}, after {seconds} s");
        }
    }

    /// Says what came of it, where it is not seen to go away.
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
