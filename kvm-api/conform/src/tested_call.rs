//! The calls that properties test one by one: all of them.

use std::ops::Deref;

use kvm_sys::{AnyCall, BindingCall, Call, Fd, FlatCall, MergedCall, RangeCall};

/// A call that a property tests in each way that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestedCall {
    Flat(FlatCall),
    Merged(MergedCall),
    Range(RangeCall),
    Binding(BindingCall),
    /// Maps memory that the kernel has allocated: by mmap() of the virtual machine's
    /// descriptor, not by a call of its own.
    MapMemory,
}

/// The row of [`TestedCall::MapMemory`].
static MAP: Call = Call {
    name: "kvm_map_memory",
    number: libc::SYS_mmap,
    parameters: "int fd, __u64 guest_phys_addr, __u64 size",
    bound: None,
    merged: None,
    file: None,
    range: None,
    fd: Fd::Vm,
    ioctl: "",
    request: None,
    structure: None,
    errors: &[],
    note: "",
};

impl TestedCall {
    /// Each call of the tables of kvm-sys, and the one for mmap(). The calls on a bound
    /// vCPU have no rows, because they are the calls on a descriptor without the
    /// descriptor.
    pub fn all() -> impl Iterator<Item = Self> {
        AnyCall::all().map(Self::from).chain([Self::MapMemory])
    }

    /// Whether an ioctl, or several, do the same.
    pub fn has_ioctl(self) -> bool {
        matches!(self, Self::Flat(_) | Self::MapMemory)
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
            Self::MapMemory => &MAP,
        }
    }
}
