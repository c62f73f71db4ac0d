//! KVM as the flat set of system calls that was proposed in July 2007.
//!
//! The trait [`Kvm`] has the functions of the proposal, under their own names. Two
//! interfaces implement it:
//!
//! * [`ioctl::Ioctl`] makes the ioctl that Linux has for each call, wherever there is a
//!   `/dev/kvm`;
//! * [`syscall::Syscall`] makes the system calls of a kernel with the patch series of
//!   this project.
//!
//! The other forms of that kernel have types of their own:
//!
//! * [`merged::MergedVcpu`] moves registers by the calls that move any parts of the state
//!   of a vCPU;
//! * [`ranges::RangeMemory`] names guest memory by ranges of addresses, without slots;
//! * [`files::FileVcpu`] reads and writes the files that are the state of a vCPU;
//! * [`bound::BoundVcpu`] is bound to the calling thread, so that its calls take no file
//!   descriptor;
//! * [`process::BoundVm`] is bound to the address space of the process, so that no call
//!   takes a file descriptor.
//!
//! [`kick()`] makes a vCPU return to user space, whatever form runs it.
//!
//! The traits [`Vcpu`] and [`VmMemory`] are for programs that use a vCPU, or memory, in
//! the way of any form. [`Form`] lists the forms, and opens the [`Backend`] of each.
//!
//! All forms use the same objects of the kernel, so a program can pass a file descriptor
//! from one to another.
//!
//! # Example
//!
//! A guest that writes a byte to a port, and halts:
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! use kvm_api::{Kvm, Reason, RunMapping, ioctl::Ioctl, kvm_sys};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let kvm = Ioctl::open()?;
//!     let vm = kvm.kvm_create_vm()?;
//!
//!     // mov $0x2a,%al; out %al,$0x10; hlt
//!     kvm.kvm_set_memory_region(vm.as_fd(), 0, 0, 0x1000, 0x1000)?;
//!     let mut memory = kvm.kvm_map_memory(vm.as_fd(), 0x1000, 0x1000)?;
//!     memory.write(0, &[0xb0, 0x2a, 0xe6, 0x10, 0xf4])?;
//!
//!     let vcpu = kvm.kvm_create_vcpu(vm.as_fd())?;
//!     let size = kvm.kvm_get_vcpu_mmap_size(vm.as_fd())?;
//!     let mut run = RunMapping::new(vcpu.as_fd(), size)?;
//!
//!     let mut sregs = kvm_sys::kvm_sregs::default();
//!     kvm.kvm_get_sregs(vcpu.as_fd(), &mut sregs)?;
//!     sregs.cs.base = 0;
//!     sregs.cs.selector = 0;
//!     kvm.kvm_set_sregs(vcpu.as_fd(), &sregs)?;
//!     kvm.kvm_set_regs(vcpu.as_fd(), &kvm_sys::kvm_regs {
//!         rip: 0x1000,
//!         rflags: 2,
//!         ..Default::default()
//!     })?;
//!
//!     loop {
//!         let exit = kvm.kvm_run(vcpu.as_fd(), &mut run)?;
//!         match exit.reason() {
//!             Reason::Io { port, .. } => {
//!                 let mut data = [0];
//!                 exit.read_data(&mut data);
//!                 println!("port {port:#x}: {data:?}");
//!             }
//!             Reason::Hlt => return Ok(()),
//!             other => return Err(format!("{other:?}").into()),
//!         }
//!     }
//! }
//! ```

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod api;
pub mod bound;
pub mod files;
mod form;
pub mod ioctl;
mod kick;
mod memory;
pub mod merged;
mod msr_list;
mod named;
pub mod process;
pub mod ranges;
mod run;
mod signal;
mod state;
pub mod syscall;
mod vcpu;
mod vm_memory;

pub use api::Kvm;
pub use form::{Backend, Form, OpenError, Vm};
pub use kick::kick;
pub use kvm_sys;
pub use memory::GuestMemory;
pub use nix::errno::Errno;
pub use nix::sys::signal::SigSet;
pub use run::{Direction, Exit, Reason, RunMapping};
pub use state::{GetState, SetState, XsaveArea};
pub use vcpu::{ByFd, State, Vcpu};
pub use vm_memory::{SlotMemory, VmMemory};

/// The result of a call: its value, or the errno of the kernel.
pub type Result<T> = std::result::Result<T, Errno>;
