//! Makes a machine of a kernel source and the patch series that gives KVM
//! system calls, and runs executables inside.
//!
//! ```no_run
//! use std::io;
//! use std::path::Path;
//!
//! use kernel_patch::{Kernel, Machine};
//!
//! // The program is the machine's first process too.
//! kernel_patch::init_if_first();
//! let kernel = Kernel::builder().build()?;
//! let exit = Machine::new().out("results").run(
//!     &kernel,
//!     Path::new("a-static-executable"),
//!     &["an argument".into()],
//!     &mut io::stdout(),
//!     &mut io::stderr(),
//! )?;
//! assert!(exit.success());
//! # Ok::<(), kernel_patch::Error>(())
//! ```

mod accel;
mod bochs;
mod boot;
mod cdylib;
pub mod check;
mod checkout;
mod config;
mod counts;
mod disk;
mod error;
mod executable;
mod files;
pub mod fresh;
mod guest;
mod host;
mod initramfs;
pub mod interrupt;
mod job;
mod judge;
mod kernel;
mod lanes;
mod libraries;
mod line;
mod lock;
mod machine;
mod make;
mod modules;
mod mutation;
mod paths;
mod ports;
mod process;
mod progress;
mod qemu;
mod run;
mod selftests;
mod series;
mod source;
mod transcript;
mod tree;
mod variant;

pub use accel::Accel;
pub use cdylib::cdylib;
pub use counts::COUNTS;
pub use error::{Error, Result};
pub use executable::{beside, check as check_executable};
pub use guest::init_if_first;
pub use host::browser;
pub use job::{Exit, OUT, OUT_VARIABLE};
pub use kernel::{Builder, Kernel, build_dir};
pub use lanes::lanes;
pub use libraries::libraries;
pub use machine::Machine;
pub use mutation::Mutation;
pub use paths::{target_dir, workspace_dir};
pub use process::run_here;
pub use progress::Progress;
pub use selftests::{Selftest, selftests};
pub use transcript::{Said, Transcript};
pub use variant::Variant;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
