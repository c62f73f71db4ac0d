//! From a built kernel and an executable to a machine that ran it.

pub(crate) mod accel;
pub(crate) mod bochs;
pub(crate) mod call;
pub(crate) mod emulator;
pub(crate) mod error;
pub(crate) mod executable;
pub(crate) mod initramfs;
pub(crate) mod input;
pub(crate) mod libraries;
pub(crate) mod machine;
pub(crate) mod modules;
pub(crate) mod qemu;
pub(crate) mod run;
pub(crate) mod run_dir;
pub(crate) mod verdict;
