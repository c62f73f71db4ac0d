//! Hands the ioctls of a program to KVM's system calls.
//!
//! Preloaded, this library takes the place of `ioctl` of the C library. It makes the
//! system call that replaces a request if both have the same effect: see [`plan`]. All
//! other requests go to the kernel as ioctls. The program sees no difference. The library
//! counts the requests: see [`Counts`].
//!
//! The library allocates no memory, takes no lock of the C library, and has no record of
//! file descriptors. It asks the kernel for the kind of a descriptor each time, so no
//! `close`, `dup2` or `fork` can make its knowledge stale.

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
