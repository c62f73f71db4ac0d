//! The interfaces that are compared.

use std::arch::asm;
use std::fmt;

use anyhow::{Context, Result};
use kvm_api::bound::Bound;
use kvm_api::files::Files;
use kvm_api::ioctl::Ioctl;
use kvm_api::merged::Merged;
use kvm_api::ranges::Ranges;
use kvm_api::syscall::Syscall;

use crate::backend::{self, Form, Kick};
use crate::cases::Case;
use crate::guest::Mode;
use crate::peer::KvmIoctls;
use crate::subject::{Call, Subject};

/// The interfaces, in the order in which they are measured and shown. The first
/// is what the others are compared with.
pub const INTERFACES: [&str; 8] = [
    "ioctl",
    "syscall",
    "merged",
    "ranges",
    "files",
    "bound",
    "sync-regs",
    "kvm-ioctls",
];

/// One interface, open and ready.
pub enum Interface {
    /// The ioctls, by this project's backend: what the others are held against.
    Ioctl(Ioctl),
    /// The system calls of the patched kernel.
    Syscall(Syscall),
    /// Those of them that move any parts of a vcpu's state at once.
    Merged(Merged),
    /// Those that name guest memory by ranges of addresses.
    Ranges(Ranges),
    /// The files that the patched kernel makes of a vcpu's state.
    Files(Files),
    /// The calls on the vcpu that is bound to the task.
    Bound(Bound),
    /// The registers that pass with `KVM_RUN`, by `KVM_CAP_SYNC_REGS`.
    SyncRegs(Ioctl),
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
            Self::Merged(_) => "merged",
            Self::Ranges(_) => "ranges",
            Self::Files(_) => "files",
            Self::Bound(_) => "bound",
            Self::SyncRegs(_) => "sync-regs",
            Self::KvmIoctls(_) => "kvm-ioctls",
        }
    }

    /// The same once more, with descriptors of its own.
    ///
    /// # Errors
    ///
    /// When it cannot be opened any more.
    pub fn again(&self) -> Result<Self> {
        Ok(match self {
            Self::Ioctl(_) => Self::Ioctl(Ioctl::open()?),
            Self::Syscall(_) => Self::Syscall(Syscall::open()?),
            Self::Merged(_) => Self::Merged(Merged::open()?),
            Self::Ranges(_) => Self::Ranges(Ranges::open()?),
            Self::Files(_) => Self::Files(Files::open()?),
            Self::Bound(_) => Self::Bound(Bound::open()?),
            Self::SyncRegs(_) => Self::SyncRegs(Ioctl::open()?),
            Self::KvmIoctls(_) => Self::KvmIoctls(KvmIoctls::open()?),
        })
    }

    /// Whether it does any of `case` in its own way.
    fn takes_part(&self, case: Case) -> bool {
        match (self, case) {
            (Self::Merged(_), Case::Call(call)) => call.merged.is_some(),
            (Self::Files(_), Case::Call(call)) => call.file.is_some(),
            (Self::Bound(_), Case::Call(call)) => call.bound.is_some(),
            (Self::Ranges(_), case) => matches!(case, Case::Memory(_)),
            (Self::Bound(_), case) => !matches!(case, Case::Memory(_)),
            (Self::Files(_), Case::Run(..)) => true,
            (Self::Merged(_) | Self::Files(_), case) => matches!(
                case,
                Case::EmulationLoop(..) | Case::Registers | Case::Snapshot | Case::Step
            ),
            _ => true,
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
            _ if !self.takes_part(case) => Ok(None),
            Self::Ioctl(kvm) => backend::subject(kvm, one_by_one(|| Ok(Ioctl::open()?)), case),
            Self::Syscall(kvm) => backend::subject(kvm, one_by_one(|| Ok(Syscall::open()?)), case),
            Self::Merged(kvm) => {
                let form = Form {
                    merged: true,
                    ..one_by_one(|| Ok(Merged::open()?))
                };
                backend::subject(kvm, form, case)
            }
            Self::Ranges(kvm) => {
                let form = Form {
                    ranges: true,
                    ..one_by_one(|| Ok(Ranges::open()?))
                };
                backend::subject(kvm, form, case)
            }
            Self::Files(kvm) => backend::subject(kvm, one_by_one(|| Ok(Files::open()?)), case),
            Self::Bound(kvm) => {
                let form = Form {
                    open: || Ok(Bound::open()?),
                    merged: true,
                    ranges: false,
                    kick: Kick::Pidfd(Bound::kick),
                };
                backend::subject(kvm, form, case)
            }
            Self::SyncRegs(kvm) => backend::synced(kvm, case),
            Self::KvmIoctls(peer) => peer.subject(case),
        }
        .with_context(|| format!("{}/{}", case.name(), self.name()))
    }
}

/// A backend that moves one part at a time, names memory by slots, and whose threads
/// are kicked by signals.
fn one_by_one<B>(open: fn() -> Result<B>) -> Form<B> {
    Form {
        open,
        merged: false,
        ranges: false,
        kick: Kick::Signal,
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
            Ok(syscall) => {
                open.push(Interface::Syscall(syscall));
                open.push(Interface::Merged(Merged::open()?));
                open.push(Interface::Ranges(Ranges::open()?));
                open.push(Interface::Files(Files::open()?));
                open.push(Interface::Bound(Bound::open()?));
            }
            Err(error) => no_syscalls = Some(error.to_string()),
        }
        open.push(Interface::SyncRegs(Ioctl::open()?));
        open.push(Interface::KvmIoctls(KvmIoctls::open()?));
        Ok(Self {
            open,
            no_syscalls,
            long_mode,
        })
    }

    /// A vcpu that a case has left bound would be in the way of what comes next:
    /// it stays loaded, and keeps its VM.
    fn unbind(&self) {
        for interface in &self.open {
            if let Interface::Bound(kvm) = interface {
                kvm.unbind();
            }
        }
    }

    /// Prepares `case` on each interface that has a part in it, one after the
    /// other as they are asked for. Each may fail: when the kernel refuses
    /// something that the case begins with.
    pub fn subjects(&self, case: Case) -> impl Iterator<Item = Result<Named<'_>>> {
        self.open.iter().filter_map(move |interface| {
            self.unbind();
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
