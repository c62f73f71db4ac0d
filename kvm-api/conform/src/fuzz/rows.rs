//! The calls of the fuzzer: all calls, and the calls on a bound vCPU, which do
//! not take a file descriptor.

use std::sync::LazyLock;

use kvm_sys::{CALL_COUNT, Call, Fd, calls};
use libc::{c_long, c_ulong};

/// A call.
#[derive(Debug)]
pub struct CallRow {
    /// The call's name. One on a bound vcpu begins with `bound:`.
    pub name: String,
    pub number: c_long,
    pub fd: Fd,
    /// The parameters, as C has them.
    pub parameters: Vec<&'static str>,
    /// The ioctl that it replaces.
    pub request: Option<c_ulong>,
}

/// The maximum number of rows.
pub const MOST: usize = 2 * CALL_COUNT;

/// All of them.
pub static ROWS: LazyLock<Vec<CallRow>> =
    LazyLock::new(|| calls().map(row).chain(calls().filter_map(bound)).collect());

fn parameters(call: &Call) -> impl Iterator<Item = &'static str> {
    call.parameters.split(", ").filter(|it| *it != "void")
}

fn row(call: &Call) -> CallRow {
    CallRow {
        name: call.name.into(),
        number: call.number,
        fd: call.fd,
        parameters: parameters(call).collect(),
        request: call.request,
    }
}

/// The call on a bound vcpu, if there is one.
fn bound(call: &Call) -> Option<CallRow> {
    Some(CallRow {
        name: format!("bound:{}", call.name),
        number: call.bound?,
        fd: Fd::None,
        parameters: parameters(call).skip(1).collect(),
        request: None,
    })
}

impl CallRow {
    /// The index of the row of that name.
    pub fn named(name: &str) -> Option<usize> {
        ROWS.iter().position(|row| row.name == name)
    }

    /// Whether it is that call, on a descriptor or on a bound vCPU.
    pub fn is(&self, name: &str) -> bool {
        self.name == name || self.name.strip_prefix("bound:") == Some(name)
    }
}
