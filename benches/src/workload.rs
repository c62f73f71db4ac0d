//! The measured calls.

use anyhow::Result;

/// A call of one interface, ready to be made again and again.
///
/// Only [`call`](Workload::call) is measured. It panics if the kernel returns anything
/// unexpected, so that a failed call does not count.
pub trait Workload {
    /// Whether [`before`](Workload::before) or [`after`](Workload::after) do anything, so
    /// that one call cannot follow another directly.
    fn needs_reset(&self) -> bool {
        false
    }

    /// Prepares the next call.
    fn before(&mut self) {}

    /// Makes the call.
    fn call(&mut self);

    /// Undoes the effect of the call.
    fn after(&mut self) {}

    /// Checks the effect of all `calls`.
    ///
    /// # Errors
    ///
    /// If the effect is not the expected one.
    fn check(&mut self, calls: u64) -> Result<()> {
        let _ = calls;
        Ok(())
    }
}

/// A workload, unless the kernel refuses a call that prepares it.
pub type Prepared<'a> = Result<Box<dyn Workload + 'a>>;

/// A workload without a check.
pub struct Plain<F>(pub F);

impl<F: FnMut()> Workload for Plain<F> {
    fn call(&mut self) {
        (self.0)();
    }
}

/// A workload with a state.
pub struct Steps<'a, S, F> {
    state: S,
    call: F,
    before: Option<Step<'a, S>>,
    after: Option<Step<'a, S>>,
    check: Option<Check<'a, S>>,
}

type Step<'a, S> = Box<dyn FnMut(&mut S) + 'a>;
type Check<'a, S> = Box<dyn FnMut(&mut S, u64) -> Result<()> + 'a>;

impl<'a, S, F: FnMut(&mut S)> Steps<'a, S, F> {
    /// Makes a workload of the call.
    pub fn new(state: S, call: F) -> Self {
        Self {
            state,
            call,
            before: None,
            after: None,
            check: None,
        }
    }

    /// Prepares each call by `before`.
    pub fn before(mut self, before: impl FnMut(&mut S) + 'a) -> Self {
        self.before = Some(Box::new(before));
        self
    }

    /// Undoes the effect of each call by `after`.
    pub fn after(mut self, after: impl FnMut(&mut S) + 'a) -> Self {
        self.after = Some(Box::new(after));
        self
    }

    /// Checks the effect of all calls by `check`, which completes the workload.
    pub fn check(mut self, check: impl FnMut(&mut S, u64) -> Result<()> + 'a) -> Prepared<'a>
    where
        S: 'a,
        F: 'a,
    {
        self.check = Some(Box::new(check));
        Ok(Box::new(self))
    }
}

impl<S, F: FnMut(&mut S)> Workload for Steps<'_, S, F> {
    fn needs_reset(&self) -> bool {
        self.before.is_some() || self.after.is_some()
    }

    fn before(&mut self) {
        if let Some(before) = &mut self.before {
            before(&mut self.state);
        }
    }

    fn call(&mut self) {
        (self.call)(&mut self.state);
    }

    fn after(&mut self) {
        if let Some(after) = &mut self.after {
            after(&mut self.state);
        }
    }

    fn check(&mut self, calls: u64) -> Result<()> {
        let check = self.check.as_mut();
        check.map_or(Ok(()), |check| check(&mut self.state, calls))
    }
}
