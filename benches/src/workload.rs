//! What is measured: a call, repeated.

use anyhow::Result;

/// One call of one interface, ready to be made again and again.
///
/// Only [`call`](Workload::call) is measured. It panics when the kernel does not
/// answer as it should, so that a call that failed cannot count.
pub trait Workload {
    /// Whether [`before`](Workload::before) or [`after`](Workload::after) do
    /// anything, so that calls cannot follow one another.
    fn apart(&self) -> bool {
        false
    }

    /// Makes ready for the next call.
    fn before(&mut self) {}

    /// The call.
    fn call(&mut self);

    /// Undoes what the call did.
    fn after(&mut self) {}

    /// Whether `calls` of them have had the effect that they should have had.
    ///
    /// # Errors
    ///
    /// When they have not: says what was found.
    fn check(&mut self, calls: u64) -> Result<()> {
        let _ = calls;
        Ok(())
    }
}

/// A workload that is only its call.
pub struct Plain<F>(pub F);

impl<F: FnMut()> Workload for Plain<F> {
    fn call(&mut self) {
        (self.0)();
    }
}

/// A workload whose call sets something of that size, which setting it to none
/// takes back.
pub struct Set<F> {
    /// Sets it to a size in bytes.
    pub set: F,
    /// The size.
    pub size: u64,
}

impl<F: FnMut(u64)> Workload for Set<F> {
    fn apart(&self) -> bool {
        true
    }

    fn call(&mut self) {
        (self.set)(self.size);
    }

    fn after(&mut self) {
        (self.set)(0);
    }
}
