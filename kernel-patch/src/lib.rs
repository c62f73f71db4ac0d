//! Builds a kernel from a source and the patch series that gives KVM system calls,
//! boots it in a machine, and runs executables inside.
//!
//! ```no_run
//! use std::io;
//! use std::path::Path;
//!
//! use kernel_patch::{Kernel, Machine};
//!
//! // The program is also the machine's first process.
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
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The modules form wings. A wing uses those below it, never one above:
//!
//! | wing | purpose |
//! | --- | --- |
//! | [`check`], [`port`], [`fresh`] | review the series; move it to another source; try the project on a bare Debian |
//! | `boot` | boot a kernel, run an executable in it, return its exit status and files |
//! | `kbuild` | build a kernel from the source and the series |
//! | `inside` | run as the first process of the machine |
//! | `wire` | define the protocol between the host and the machine |
//! | `host` | run processes, write files, take locks, install packages |

/// Defines a method for each setting of a type, with its arguments and its effect.
macro_rules! setters {
    ($type:ty: $(
        $(#[$doc:meta])*
        $name:ident($this:ident, $($arg:ident: $of:ty),+) => $set:expr;
    )*) => {
        impl $type {$(
            $(#[$doc])*
            #[must_use]
            pub fn $name(self, $($arg: $of),+) -> Self {
                let mut $this = self;
                $set;
                $this
            }
        )*}
    };
}

mod boot;
pub mod check;
pub mod fresh;
mod host;
mod inside;
mod kbuild;
pub mod port;
mod wire;

pub use boot::accel::Accel;
pub use boot::call::{Captured, call_here};
pub use boot::error::{BootError, Console, LastLines};
pub use boot::executable::find as find_program;
pub use boot::initramfs::Initramfs;
pub use boot::libraries::libraries;
pub use boot::machine::Machine;
pub use boot::qemu::program as qemu;
pub use host::HostError;
pub use host::Progress;
pub use host::cargo::{
    TARGET, beside, built_executable, cargo, cdylib, dynamic_programs, this_program,
};
pub use host::interrupt;
pub use host::kvm_ioctls::kvm_ioctls_tests;
pub use host::lanes::lanes;
pub use host::llvm_mca::llvm_mca;
pub use host::packages::browser;
pub use host::paths::{target_dir, workspace_dir};
pub use inside::call::answer_if_called;
pub use inside::init::init_if_first;
pub use kbuild::selftests::{Selftest, selftests};
pub use kbuild::{Base, BuildError, Kernel, KernelBuilder, Mutation, Variant, build_dir};
pub use wire::job::{COUNTS, Exit, OUT, OUT_VARIABLE};
