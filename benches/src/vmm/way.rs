//! The ways in which the requests of an unmodified VMM reach KVM.

use std::ffi::CStr;

use serde::{Deserialize, Serialize};

/// A way. The VMM is the same in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The VMM alone makes ioctls.
    Ioctl,
    /// A preloaded library makes the calls that replace the ioctls.
    Calls,
    /// The library also binds each vCPU to the thread that runs it.
    Bound,
}

impl Way {
    /// Each way, the one to compare with first.
    pub const ALL: [Self; 3] = [Self::Ioctl, Self::Calls, Self::Bound];

    /// The name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ioctl => "ioctl",
            Self::Calls => "calls",
            Self::Bound => "bound",
        }
    }

    /// Whether the library is preloaded.
    #[must_use]
    pub fn has_library(self) -> bool {
        self != Self::Ioctl
    }

    /// The library's mode of binding.
    #[must_use]
    pub fn bind(self) -> Option<&'static CStr> {
        (self == Self::Bound).then_some(kvm_preload::WITHOUT_FD)
    }
}
