//! Small guests to try KVM with.
//!
//! What fails here panics: this is for tests.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod machine;
pub mod programs;

pub use machine::{ELSEWHERE, ELSEWHERE_PHYS, ENTRY, MEMORY, Machine, SLOT};
