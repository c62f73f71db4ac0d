//! The interfaces that are compared.

use std::arch::asm;
use std::fmt;

use anyhow::{Context, Result};
use kvm_api::ioctl::Ioctl;
use kvm_api::syscall::Syscall;

use crate::backend;
use crate::cases::Case;
use crate::guest::Mode;
use crate::peer::KvmIoctls;
use crate::subject::{Call, Subject};

/// The interfaces, in the order in which they are measured and shown. The first
/// is what the others are compared with.
pub const INTERFACES: [&str; 3] = ["ioctl", "syscall", "kvm-ioctls"];

/// One interface, open and ready.
pub enum Interface {
    /// The ioctls, by this project's backend: what the others are held against.
    Ioctl(Ioctl),
    /// The system calls of the patched kernel.
    Syscall(Syscall),
    /// The ioctls, by the crate that VMMs use.
    KvmIoctls(KvmIoctls),
}

impl Interface {
    /// Its name, the last part of a bench's id.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ioctl(_) => "ioctl",
            Self::Syscall(_) => "syscall",
            Self::KvmIoctls(_) => "kvm-ioctls",
        }
    }

    /// Prepares `case`; `None` where the interface has no part in it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something that the case begins with.
    pub fn subject(&self, case: Case) -> Result<Option<Box<dyn Subject + '_>>> {
        match self {
            Self::Ioctl(_) if case == Case::NullSyscall => {
                return Ok(Some(Box::new(Call(null_syscall))));
            }
            Self::Ioctl(kvm) => backend::subject(kvm, case),
            Self::Syscall(kvm) => backend::subject(kvm, case),
            Self::KvmIoctls(peer) => peer.subject(case),
        }
        .with_context(|| format!("{}/{}", case.name(), self.name()))
    }
}

/// getppid(), which lmbench takes for a system call that does nothing.
fn null_syscall() {
    // SAFETY: the call has no arguments and no effect.
    unsafe {
        asm!(
            "syscall",
            inlateout("eax") nix::libc::SYS_getppid as i32 => _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
}

/// A case on one interface, whose name it bears.
pub type Named<'a> = (&'static str, Box<dyn Subject + 'a>);

/// The interfaces that this kernel has, and why it lacks the others.
pub struct Interfaces {
    /// Those to measure.
    pub open: Vec<Interface>,
    /// Why the system calls are not among them, if so.
    pub no_syscalls: Option<String>,
    /// Whether guests in 64-bit mode run.
    pub long_mode: bool,
}

impl Interfaces {
    /// Opens all that there are.
    ///
    /// # Errors
    ///
    /// When this machine's KVM cannot run a VM.
    pub fn open() -> Result<Self> {
        let ioctl = Ioctl::open().context("/dev/kvm")?;
        backend::runs(&ioctl, Mode::Real)
            .context("this KVM runs no guest, not even in real mode")?;
        let long_mode = backend::runs(&ioctl, Mode::Long).is_ok();

        let mut open = vec![Interface::Ioctl(ioctl)];
        let mut no_syscalls = None;
        match Syscall::open() {
            Ok(syscall) => open.push(Interface::Syscall(syscall)),
            Err(error) => no_syscalls = Some(error.to_string()),
        }
        open.push(Interface::KvmIoctls(KvmIoctls::open()?));
        Ok(Self {
            open,
            no_syscalls,
            long_mode,
        })
    }

    /// Prepares `case` on each interface that has a part in it, one after the
    /// other as they are asked for. Each may fail: when the kernel refuses
    /// something that the case begins with.
    pub fn subjects(&self, case: Case) -> impl Iterator<Item = Result<Named<'_>>> {
        self.open.iter().filter_map(move |interface| {
            let subject = interface.subject(case).transpose()?;
            Some(subject.map(|subject| (interface.name(), subject)))
        })
    }

    /// Whether this KVM can do what `case` is about.
    #[must_use]
    pub fn can(&self, case: Case) -> bool {
        self.long_mode || case.mode() != Some(Mode::Long)
    }
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
