//! The registry of the forms of the interface.

use kvm_sys::Call;

use crate::Kvm;
use crate::bound::Bound;
use crate::files::Files;
use crate::ioctl::{self, Ioctl};
use crate::merged::Merged;
use crate::ranges::Ranges;
use crate::syscall::{self, Syscall};

/// A form of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The ioctls of `/dev/kvm`.
    Ioctl,
    /// The flat system calls.
    Syscall,
    /// The system calls that move any parts of the state of a vcpu.
    Merged,
    /// The system calls that name guest memory by addresses.
    Ranges,
    /// The files of a vcpu.
    Files,
    /// The system calls on the vcpu that is bound to the calling task.
    Bound,
}

/// The reason why a form cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `/dev/kvm` cannot be used.
    #[error(transparent)]
    Ioctl(#[from] ioctl::OpenError),
    /// The kernel does not have the system calls.
    #[error(transparent)]
    Syscall(#[from] syscall::OpenError),
}

impl Form {
    /// Each form, in the order in which results are shown.
    pub const ALL: [Self; 6] = [
        Self::Ioctl,
        Self::Syscall,
        Self::Merged,
        Self::Ranges,
        Self::Files,
        Self::Bound,
    ];

    /// The name of the form.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ioctl => "ioctl",
            Self::Syscall => "syscall",
            Self::Merged => "merged",
            Self::Ranges => "ranges",
            Self::Files => "files",
            Self::Bound => "bound",
        }
    }

    /// Opens the backend of the form.
    ///
    /// # Errors
    ///
    /// If the kernel lacks the form.
    pub fn open(self) -> Result<Box<dyn Kvm>, OpenError> {
        Ok(match self {
            Self::Ioctl => Box::new(Ioctl::open()?),
            Self::Syscall => Box::new(Syscall::open()?),
            Self::Merged => Box::new(Merged::open()?),
            Self::Ranges => Box::new(Ranges::open()?),
            Self::Files => Box::new(Files::open()?),
            Self::Bound => Box::new(Bound::open()?),
        })
    }

    /// Whether the form does the work of `call` in its own way.
    #[must_use]
    pub fn has_own(self, call: &Call) -> bool {
        match self {
            Self::Ioctl | Self::Syscall => true,
            Self::Merged => call.merged.is_some(),
            Self::Ranges => call.range.is_some(),
            Self::Files => call.file.is_some(),
            Self::Bound => call.bound.is_some(),
        }
    }

    /// Whether the form lacks `call`, because another call takes its place.
    #[must_use]
    pub fn lacks(self, call: &Call) -> bool {
        self == Self::Ranges && call.range.is_some()
    }
}
