//! Makes a program that knows KVM's ioctls use the system calls.
//!
//! Preloaded, this library takes the place of the C library's `ioctl`. A request
//! that has a system call for its counterpart, on a file descriptor of the kind
//! that the call is for, is handed to the call wherever that comes to the same:
//! see [`plan`]. Everything else goes to the kernel as the ioctl that it is. A
//! program sees no difference; its calls are counted, see [`Counts`].
//!
//! Nothing here allocates, takes a lock of the C library's, or keeps a record of
//! file descriptors: what a descriptor stands for is asked of the kernel each
//! time, so that no `close`, `dup2` or `fork` can make an answer stale.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod arguments;
mod counts;
mod file;
#[cfg(feature = "interpose")]
mod interpose;
mod plan;
mod request;
mod vcpus;

pub use counts::{COUNTS_VARIABLE, Counts, Row};
pub use file::Kind;
pub use plan::{Plan, plan};
pub use request::{hand_over, start};
