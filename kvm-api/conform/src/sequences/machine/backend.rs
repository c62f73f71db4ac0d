//! The backend by which a machine takes its steps, and its documented
//! differences.

use kvm_api::bound::Bound;
use kvm_api::files::Files;
use kvm_api::ioctl::Ioctl;
use kvm_api::merged::Merged;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Kvm};

use super::traits::OF_TRAIT;
use crate::sequences::model::{StepResult, Value};
use crate::sequences::steps::Step;

/// The backend by which a machine takes its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackendKind {
    Ioctl,
    Syscall,
    Merged,
    Files,
    Bound,
    /// Ioctl or system call, as each step says.
    Mixed,
}

/// The number of kinds.
pub const BACKENDS: usize = 6;

impl BackendKind {
    pub const ALL: [Self; BACKENDS] = [
        Self::Ioctl,
        Self::Syscall,
        Self::Merged,
        Self::Files,
        Self::Bound,
        Self::Mixed,
    ];

    /// The result of a step, if this backend documents another one than the
    /// `answer` of the others.
    pub fn own(self, step: &Step, answer: &StepResult) -> Option<StepResult> {
        match (self, step, answer) {
            // A descriptor other than a vCPU's is not a directory.
            (Self::Files, Step::WrongFd { call, .. }, Err(Errno::ENOTTY)) => {
                let call = &OF_TRAIT[call % OF_TRAIT.len()];
                call.call.file.map(|_| Err(Errno::ENOTDIR))
            }
            // A read gets all MSRs, and the backend selects any number of them.
            (Self::Files, Step::ManyMsrs { count, .. }, Err(Errno::E2BIG)) => {
                Some(Ok(Value::Number(*count as u64)))
            }
            _ => None,
        }
    }
}

/// The backends. A machine uses one or two of them.
pub struct Backends {
    pub backend: BackendKind,
    ioctl: Ioctl,
    syscall: Syscall,
    merged: Merged,
    files: Files,
    bound: Bound,
}

impl Backends {
    pub fn open(backend: BackendKind) -> Self {
        Self {
            backend,
            ioctl: Ioctl::open().expect("KVM is available"),
            syscall: Syscall::open().expect("the kernel has the calls"),
            merged: Merged::open().expect("the kernel has the calls"),
            files: Files::open().expect("the kernel has the calls"),
            bound: Bound::open().expect("the kernel has the calls"),
        }
    }

    /// The backend for a step that asks for the system call, or for the ioctl.
    pub fn pick(&self, flat: bool) -> &dyn Kvm {
        match self.backend {
            BackendKind::Mixed if !flat => &self.ioctl,
            BackendKind::Ioctl => &self.ioctl,
            BackendKind::Syscall | BackendKind::Mixed => &self.syscall,
            BackendKind::Merged => &self.merged,
            BackendKind::Files => &self.files,
            BackendKind::Bound => &self.bound,
        }
    }
}

impl Drop for Backends {
    /// Unbinds: a binding would keep its vCPU after the descriptor's number
    /// belongs to another one.
    fn drop(&mut self) {
        if self.backend == BackendKind::Bound {
            self.bound.unbind();
        }
    }
}
