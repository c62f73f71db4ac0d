//! A call of any form.

use std::ops::Deref;

use crate::{BindingCall, Call, FlatCall, MergedCall, ProcessCall, RangeCall};

/// A call of any form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyCall {
    /// A flat call.
    Flat(FlatCall),
    /// A call of the merged form.
    Merged(MergedCall),
    /// A call of the form of ranges.
    Range(RangeCall),
    /// A call that binds a vCPU to a task, or concerns a binding.
    Binding(BindingCall),
    /// A call of the form without descriptors.
    Process(ProcessCall),
}

impl AnyCall {
    /// Each of them, table by table.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        let flat = FlatCall::ALL.into_iter().map(Self::Flat);
        flat.chain(MergedCall::ALL.map(Self::Merged))
            .chain(RangeCall::ALL.map(Self::Range))
            .chain(BindingCall::ALL.map(Self::Binding))
            .chain(ProcessCall::ALL.map(Self::Process))
    }

    /// Its row in its table.
    #[must_use]
    pub fn row(self) -> &'static Call {
        match self {
            Self::Flat(call) => call.row(),
            Self::Merged(call) => call.row(),
            Self::Range(call) => call.row(),
            Self::Binding(call) => call.row(),
            Self::Process(call) => call.row(),
        }
    }
}

impl Deref for AnyCall {
    type Target = Call;

    /// Its row in its table.
    fn deref(&self) -> &Call {
        self.row()
    }
}
