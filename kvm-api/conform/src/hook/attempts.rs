//! Every call and every ioctl, on each file that it can be made on, with what a
//! security module is asked about it.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::Result;
use guests::TestVm;
use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::*;
use libc::c_ulong;

use crate::arguments::{Arguments, CallResult};

// The kernel's names for the files.
pub const DEVICE: &str = "/dev/kvm";
const VM: &str = "anon_inode:kvm-vm";
const VCPU: &str = "anon_inode:kvm-vcpu:0";

/// The command that the security module is asked about, which is the ioctl's
/// that the call replaces. Those about memory that have none ask about the one
/// that took their place.
fn asked(call: &Call) -> c_ulong {
    call.request.unwrap_or(KVM_SET_USER_MEMORY_REGION)
}

/// The files that a call is tried on, by the kernel's name for each. What makes
/// a VM takes none, and opens the device by itself.
fn paths(call: &Call) -> &'static [&'static str] {
    match call.fd {
        Fd::None => &[DEVICE],
        Fd::Vm => &[VM],
        Fd::System => &[VM, DEVICE],
        Fd::Vcpu => &[VCPU],
    }
}

/// The files on which the ioctl is tried: those that answer it.
fn ioctl_paths(call: &Call) -> &'static [&'static str] {
    match call.fd {
        Fd::None | Fd::System => &[DEVICE],
        Fd::Vm => &[VM],
        Fd::Vcpu => &[VCPU],
    }
}

/// What is asked of a security module: a command, on a file.
pub type Question = (&'static str, c_ulong);

/// One call, in one of the interfaces, on one file.
pub struct Attempt {
    pub call: &'static Call,
    flat: bool,
    path: &'static str,
}

impl Attempt {
    pub fn all() -> Vec<Self> {
        let of = |call: &'static Call| {
            let flat = paths(call).iter().map(|path| (true, path));
            let removed = call.request.is_none();
            let ioctl = ioctl_paths(call).iter().map(|path| (false, path));
            flat.chain(ioctl.filter(move |_| !removed))
                .map(move |(flat, path)| Self { call, flat, path })
        };
        CALLS.iter().flat_map(of).collect()
    }

    /// What the security module is asked.
    pub fn question(&self) -> Question {
        (self.path, asked(self.call))
    }

    fn make(&self, arguments: &mut Arguments, fd: RawFd) -> CallResult {
        if self.flat {
            arguments.flat(self.call, fd)
        } else {
            let answer = arguments.ioctl(self.call, fd, 9);
            answer.expect("it is tried where there is an ioctl")
        }
    }

    /// Which it is, in words.
    pub fn told(&self) -> String {
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
