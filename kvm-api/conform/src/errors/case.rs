//! One cell of the matrix: a call, how it is misused, and what is expected.

use std::fmt::Write;

use anyhow::Result;
use kvm_sys::Call;
use nix::errno::Errno;

use super::expected::{Answer, Expected, Way};
use super::invocation::Invocation;
use super::signature::has_ioctl;
use super::subject::{State, Subject};
use crate::outcome::Outcome;

/// Makes the call, misused.
pub type Attempt = Box<dyn Fn(&mut Subject<'_>, Invocation) -> Result<Made>>;

pub struct Case {
    pub call: &'static Call,
    /// The misuse, as the page has it.
    pub misuse: String,
    pub expected: Expected,
    pub attempt: Attempt,
}

impl Case {
    pub fn new(
        call: &'static Call,
        misuse: impl Into<String>,
        expected: Expected,
        attempt: impl Fn(&mut Subject<'_>, Invocation) -> Result<Made> + 'static,
    ) -> Self {
        let expected = if expected.ioctl.is_some() && !has_ioctl(call) {
            expected.but_for(Way::Ioctl, "there is no such ioctl")
        } else {
            expected
        };
        Self {
            call,
            misuse: misuse.into(),
            expected,
            attempt: Box::new(attempt),
        }
    }
}

/// What came of an attempt.
pub struct Made {
    answer: Answered,
    /// A slot that the attempt named.
    slot: Option<u32>,
    /// What else was found wrong.
    wrong: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Said(Result<i64, Errno>),
    Died,
}

impl Made {
    /// The call as it is now.
    pub fn of(invocation: &Invocation, subject: &mut Subject<'_>) -> Self {
        let answer = invocation.make(subject);
        Self::said(answer).with_slot(invocation.slot(subject))
    }

    pub fn said(answer: Result<i64, Errno>) -> Self {
        Self {
            answer: Answered::Said(answer),
            slot: None,
            wrong: None,
        }
    }

    pub fn died() -> Self {
        Self {
            answer: Answered::Died,
            slot: None,
            wrong: None,
        }
    }

    /// With the slot that the call names.
    pub fn with_slot(mut self, slot: Option<u32>) -> Self {
        self.slot = slot;
        self
    }

    /// With something that is wrong beside the answer.
    pub fn but(mut self, wrong: Option<String>) -> Self {
        self.wrong = wrong;
        self
    }
}

impl Answered {
    /// Whether it is what was expected, where the call gives `good` when
    /// nothing is wrong.
    fn is(self, expected: Answer, good: Result<i64, Errno>) -> bool {
        match expected {
            Answer::Works => self == Self::Said(good),
            Answer::Gives(number) => self == Self::Said(Ok(number)),
            Answer::Fails(errno) => self == Self::Said(Err(errno)),
            Answer::Dies => self == Self::Died,
        }
    }
}

/// Tries cases on one subject, one after the other.
pub struct Trial<'s, 'k> {
    subject: &'s mut Subject<'k>,
    /// How the subject is between two cases.
    state: State,
}

impl<'s, 'k> Trial<'s, 'k> {
    pub fn new(subject: &'s mut Subject<'k>) -> Result<Self> {
        let state = subject.state()?;
        Ok(Self { subject, state })
    }

    /// Tries one, if it is one in this way.
    pub fn try_one(&mut self, case: &Case, outcome: &mut Outcome) -> Result<()> {
        let way = self.subject.way;
        let Some(expected) = case.expected.of(way) else {
            return Ok(());
        };
        outcome.cases += 1;
        let good = self.good(case)?;
        let invocation = Invocation::good(case.call, self.subject);
        let made = (case.attempt)(self.subject, invocation)?;
        let mut wrong = String::new();
        if !made.answer.is(expected, good) {
            let _ = write!(wrong, "{:?}, not {expected}; ", made.answer);
        }
        if let Some(more) = made.wrong {
            let _ = write!(wrong, "{more}; ");
        }
        if !matches!(made.answer, Answered::Said(Ok(_))) {
            if let Some(difference) = self.subject.state()?.difference(&self.state) {
                let _ = write!(wrong, "{difference}; ");
            }
            if let Err(error) = self.subject.check_slots(made.slot) {
                let _ = write!(wrong, "{error:#}; ");
            }
        } else if let Some(slot) = made.slot {
            self.subject.delete(slot);
        }
        self.subject.restore(&self.state)?;
        // What comes next is as if nothing had been.
        let next = self.good(case)?;
        if next != good {
            let _ = write!(wrong, "the next call gives {next:?}; ");
        }
        if !wrong.is_empty() {
            let (name, misuse) = (case.call.name, &case.misuse);
            outcome.fail(format!("{name}, {way:?}, {misuse}: {wrong}"));
        }
        Ok(())
    }

    /// What the call gives when nothing is wrong.
    fn good(&mut self, case: &Case) -> Result<Result<i64, Errno>> {
        let invocation = Invocation::good(case.call, self.subject);
        let good = invocation.make(self.subject);
        if let Some(slot) = invocation.slot(self.subject) {
            self.subject.delete(slot);
        }
        self.subject.restore(&self.state)?;
        Ok(good)
    }
}
