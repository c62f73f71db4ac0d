//! The calls of the fuzzer: all calls, and the calls on a bound vCPU, which do
//! not take a file descriptor.

use std::sync::LazyLock;

use kvm_sys::{AnyCall, CALL_COUNT, ProcessCall, RangeCall};
use libc::{c_long, c_ulong};

use crate::arguments::makes_file;
use crate::parameters::Parameter;

#[derive(Debug)]
pub struct CallRow {
    pub call: AnyCall,
    /// Whether it is made on the bound vCPU, without a descriptor.
    pub bound: bool,
    /// The call's name. One on a bound vCPU begins with `bound:`.
    pub name: String,
    pub number: c_long,
    pub parameters: Vec<Parameter>,
}

/// The maximum number of rows.
pub const MOST: usize = 2 * CALL_COUNT;

pub static ROWS: LazyLock<Vec<CallRow>> = LazyLock::new(|| {
    let bound = AnyCall::all().filter_map(CallRow::bound);
    AnyCall::all().map(CallRow::flat).chain(bound).collect()
});

impl CallRow {
    fn flat(call: AnyCall) -> Self {
        Self {
            call,
            bound: false,
            name: call.name.into(),
            number: call.number,
            parameters: Parameter::of(&call).collect(),
        }
    }

    /// The call on a bound vCPU, if there is one.
    fn bound(call: AnyCall) -> Option<Self> {
        Some(Self {
            call,
            bound: true,
            name: format!("bound:{}", call.name),
            number: call.bound?,
            parameters: Parameter::of(&call).skip(1).collect(),
        })
    }

    pub fn named(name: &str) -> Option<usize> {
        ROWS.iter().position(|row| row.name == name)
    }

    /// The ioctl that the call replaces, unless it creates a descriptor.
    pub fn request(&self) -> Option<c_ulong> {
        let creates = matches!(self.call, AnyCall::Flat(call) if makes_file(call));
        self.call.request.filter(|_| !self.bound && !creates)
    }

    /// Whether the call takes a hundred times as long as the others, because it creates
    /// an object or waits for a grace period.
    pub fn is_slow(&self) -> bool {
        use kvm_sys::FlatCall::*;

        matches!(
            self.call,
            AnyCall::Flat(
                kvm_create_vm
                    | kvm_create_vcpu
                    | kvm_set_memory_region
                    | kvm_set_user_memory_region
                    | kvm_set_memory_alias
            ) | AnyCall::Range(
                RangeCall::kvm_map_range
                    | RangeCall::kvm_unmap_range
                    | RangeCall::kvm_protect_range
            ) | AnyCall::Process(
                ProcessCall::kvm_create_bound_vm | ProcessCall::kvm_create_bound_vcpu
            )
        )
    }
}
