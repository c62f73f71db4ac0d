//! A virtual machine and guest programs, for tests, properties and benches.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod assemble;
pub mod counting;
mod device;
mod long_mode;
pub mod msr;
pub mod programs;
mod vm;

pub use device::{DeviceNode, NODE};
pub use vm::{ELSEWHERE, ELSEWHERE_PHYS, ENTRY, MEMORY, SLOT, TestVm};
