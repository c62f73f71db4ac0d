//! One cell of the matrix: a call, its misuse, and the expected result.

use std::fmt::Write;

use anyhow::Result;
use nix::errno::Errno;

use super::expected::{Expectation, Expected, Route, nothing};
use super::invocation::Invocation;
use super::testbed::{State, Testbed};
use crate::outcome::Outcome;
use crate::tested_call::TestedCall;

/// Makes the misused call.
pub type Attempt = Box<dyn Fn(&mut Testbed<'_>, Invocation) -> Result<Made>>;

pub struct Misuse {
    pub call: TestedCall,
    /// The misuse, as docs/errors.md describes it.
    pub misuse: String,
    pub expected: Expected,
    pub attempt: Attempt,
}

impl Misuse {
    pub fn new(
        call: TestedCall,
        misuse: impl Into<String>,
        expected: Expected,
        attempt: impl Fn(&mut Testbed<'_>, Invocation) -> Result<Made> + 'static,
    ) -> Self {
        let expected = if expected.ioctl.is_some() && !call.has_ioctl() {
            expected.but_for(Route::Ioctl, "there is no such ioctl")
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

    /// No misuse: the call does not have the argument.
    pub fn none(call: TestedCall, misuse: &str, why: &'static str) -> Self {
        Self::new(call, misuse, nothing(why), |_, _| {
            unreachable!("nothing is expected")
        })
    }
}

pub struct Made {
    answer: Observed,
    /// The slot that the attempt named.
    slot: Option<u32>,
    /// Another error that the attempt has found.
    wrong: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    Returned(Result<i64, Errno>),
    Died,
}

impl Made {
    /// Makes the call.
    pub fn of(invocation: &Invocation, testbed: &mut Testbed<'_>) -> Self {
        let answer = invocation.make(testbed);
        Self::returned(answer).with_slot(invocation.slot(testbed))
    }

    /// The call has returned.
    pub fn returned(answer: Result<i64, Errno>) -> Self {
        Self::observed(Observed::Returned(answer))
    }

    pub fn observed(answer: Observed) -> Self {
        Self {
            answer,
            slot: None,
            wrong: None,
        }
    }

    /// Adds the slot that the call names.
    pub fn with_slot(mut self, slot: Option<u32>) -> Self {
        self.slot = slot;
        self
    }

    /// Adds an error besides the result.
    pub fn but(mut self, wrong: Option<String>) -> Self {
        self.wrong = wrong;
        self
    }
}

impl Observed {
    /// Whether the result is the expected one. `good` is the result of the call
    /// without misuse.
    fn is(self, expected: Expectation, good: Result<i64, Errno>) -> bool {
        match expected {
            Expectation::Works => self == Self::Returned(good),
            Expectation::Gives(number) => self == Self::Returned(Ok(number)),
            Expectation::Fails(errno) => self == Self::Returned(Err(errno)),
            Expectation::Dies => self == Self::Died,
        }
    }
}

/// Tests misuses on one testbed, one after the other.
pub struct Trial<'s, 'k> {
    testbed: &'s mut Testbed<'k>,
    /// The state of the testbed between two misuses.
    state: State,
}

impl<'s, 'k> Trial<'s, 'k> {
    pub fn new(testbed: &'s mut Testbed<'k>) -> Result<Self> {
        let state = testbed.state()?;
        Ok(Self { testbed, state })
    }

    /// Tests a misuse, unless this route does not have it.
    pub fn try_one(&mut self, case: &Misuse, outcome: &mut Outcome) -> Result<()> {
        let route = self.testbed.route;
        let Some(expected) = case.expected.of(route) else {
            return Ok(());
        };
        outcome.cases += 1;
        let good = self.good(case)?;
        let invocation = Invocation::good(case.call, self.testbed);
        let made = (case.attempt)(self.testbed, invocation)?;
        let mut wrong = String::new();
        if !made.answer.is(expected, good) {
            let _ = write!(wrong, "{:?}, not {expected}; ", made.answer);
        }
        if let Some(more) = made.wrong {
            let _ = write!(wrong, "{more}; ");
        }
        if !matches!(made.answer, Observed::Returned(Ok(_))) {
            if let Some(difference) = self.testbed.state()?.difference(&self.state) {
                let _ = write!(wrong, "{difference}; ");
            }
            if let Err(error) = self.testbed.check_slots(made.slot) {
                let _ = write!(wrong, "{error:#}; ");
            }
        } else if let Some(slot) = made.slot {
            self.testbed.delete(slot);
        }
        self.testbed.restore(&self.state)?;
        // The next misuse starts from the same state.
        let next = self.good(case)?;
        if next != good {
            let _ = write!(wrong, "the next call gives {next:?}; ");
        }
        if !wrong.is_empty() {
            let (name, misuse) = (case.call.name, &case.misuse);
            outcome.fail(format!("{name}, {route:?}, {misuse}: {wrong}"));
        }
        Ok(())
    }

    /// The result of the call without misuse.
    fn good(&mut self, case: &Misuse) -> Result<Result<i64, Errno>> {
        let invocation = Invocation::good(case.call, self.testbed);
        let good = invocation.make(self.testbed);
        if let Some(slot) = invocation.slot(self.testbed) {
            self.testbed.delete(slot);
        }
        self.testbed.restore(&self.state)?;
        Ok(good)
    }
}
