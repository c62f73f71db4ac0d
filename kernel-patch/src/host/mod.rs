//! The machine that this program runs on: processes, files, locks, progress and
//! Debian's packages. Nothing here knows what a kernel is.

pub(crate) mod backports;
pub(crate) mod cargo;
pub(crate) mod error;
pub(crate) mod files;
pub(crate) mod git;
pub mod interrupt;
pub(crate) mod kvm_ioctls;
pub(crate) mod lanes;
pub(crate) mod llvm_mca;
pub(crate) mod lock;
pub(crate) mod needs;
pub(crate) mod packages;
pub(crate) mod paths;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod transcript;

pub use self::error::HostError;
pub(crate) use self::error::IoContext;
pub(crate) use self::lock::Lock;
pub use self::progress::Progress;
