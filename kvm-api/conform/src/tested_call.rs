//! The calls that properties test one by one: all of them.

use std::ops::Deref;

use kvm_sys::{AnyCall, BindingCall, Call, FlatCall, MergedCall, ProcessCall, RangeCall};

/// A call that a property tests in each way that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestedCall {
    Flat(FlatCall),
    Merged(MergedCall),
    Range(RangeCall),
    Binding(BindingCall),
    Process(ProcessCall),
}

impl TestedCall {
    /// Each call of the tables of kvm-sys. The calls on a bound vCPU have no rows, because
    /// they are the calls on a descriptor without the descriptor.
    pub fn all() -> impl Iterator<Item = Self> {
        AnyCall::all().map(Self::from)
    }

    /// Whether an ioctl, or several, do the same, or mmap() does.
    pub fn has_ioctl(self) -> bool {
        let mapping = Self::Process(ProcessCall::kvm_map_memory);
        matches!(self, Self::Flat(_)) || self == mapping
    }

    /// Whether the library replaces an ioctl that Linux does not have.
    pub fn by_library(self) -> bool {
        self.request.is_none()
    }
}

impl From<AnyCall> for TestedCall {
    fn from(call: AnyCall) -> Self {
        match call {
            AnyCall::Flat(call) => Self::Flat(call),
            AnyCall::Merged(call) => Self::Merged(call),
            AnyCall::Range(call) => Self::Range(call),
            AnyCall::Binding(call) => Self::Binding(call),
            AnyCall::Process(call) => Self::Process(call),
        }
    }
}

impl Deref for TestedCall {
    type Target = Call;

    fn deref(&self) -> &Call {
        match self {
            Self::Flat(call) => call.row(),
            Self::Merged(call) => call.row(),
            Self::Range(call) => call.row(),
            Self::Binding(call) => call.row(),
            Self::Process(call) => call.row(),
        }
    }
}
