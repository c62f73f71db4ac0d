//! Each call and each ioctl, on each of its files, with the question to the
//! security module.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::Result;
use guests::TestVm;
use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::*;
use libc::c_ulong;

use crate::arguments::{Arguments, CallResult};

// The kernel's names for the files.
pub const DEVICE: &str = "/dev/kvm";
pub const VM: &str = "anon_inode:kvm-vm";
pub const VCPU: &str = "anon_inode:kvm-vcpu:0";

/// The command that the security module sees: the command of the ioctl that the call
/// replaces. The memory calls without an ioctl use the command of its successor.
fn command(call: &Call) -> c_ulong {
    call.request.unwrap_or(KVM_SET_USER_MEMORY_REGION)
}

/// The files on which a call (`flat`) or its ioctl is tested, by the kernel's names. The
/// call that creates a VM takes none, and opens the device itself.
fn paths(call: &Call, flat: bool) -> &'static [&'static str] {
    match call.fd {
        Fd::System if flat => &[VM, DEVICE],
        Fd::None | Fd::System => &[DEVICE],
        Fd::Vm => &[VM],
        Fd::Vcpu | Fd::VcpuOrTask => &[VCPU],
    }
}

/// A question to a security module: a command, on a file.
pub type Question = (&'static str, c_ulong);

/// One call by one interface, on one file.
pub struct Attempt {
    pub call: FlatCall,
    flat: bool,
    path: &'static str,
}

impl Attempt {
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for call in FlatCall::ALL {
            for flat in [true, false] {
                if flat || call.request.is_some() {
                    let paths = paths(&call, flat).iter();
                    all.extend(paths.map(|path| Self { call, flat, path }));
                }
            }
        }
        all
    }

    /// The question to the security module.
    pub fn question(&self) -> Question {
        (self.path, command(&self.call))
    }

    fn make(&self, arguments: &mut Arguments, fd: RawFd) -> CallResult {
        if self.flat {
            arguments.flat(self.call, fd)
        } else {
            let answer = arguments.ioctl(self.call, fd, 9);
            answer.expect("attempts by ioctl have one")
        }
    }

    pub fn describe(&self) -> String {
        let interface = if self.flat { "call" } else { "ioctl" };
        format!("{} by {interface} on {}", self.call.name, self.path)
    }
}

/// Makes all attempts on a machine.
pub fn answers(
    attempts: &[Attempt],
    machine: &TestVm<'_>,
    device: &Ioctl,
) -> Result<Vec<CallResult>> {
    let mut arguments = Arguments::new()?;
    let make = |attempt: &Attempt| {
        let file = match attempt.path {
            DEVICE => device.as_fd(),
            VM => machine.vm(),
            _ => machine.vcpu(),
        };
        attempt.make(&mut arguments, file.as_raw_fd())
    };
    Ok(attempts.iter().map(make).collect())
}
