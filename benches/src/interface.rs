//! The interfaces that are compared.

use std::arch::asm;
use std::fmt;

use anyhow::{Context, Result};
use kvm_api::Form;
use kvm_api::ioctl::Ioctl;
use kvm_api::syscall::Syscall;

use crate::backend::{self, Bound, Files, Kick, Merged, StaticForm};
use crate::cases::Case;
use crate::guest::Mode;
use crate::peer::KvmIoctls;
use crate::workload::{Plain, Workload};

/// A column of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// A form of the interface. All columns are compared with `ioctl`.
    Form(Form),
    /// The registers that pass with `KVM_RUN`, by `KVM_CAP_SYNC_REGS`.
    SyncRegs,
    /// The ioctls, by the crate that VMMs use.
    KvmIoctls,
}

impl Column {
    /// Each column, in the order in which they are measured and shown.
    pub const ALL: [Self; Form::ALL.len() + 2] = {
        let mut all = [Self::KvmIoctls; Form::ALL.len() + 2];
        let mut n = 0;
        while n < Form::ALL.len() {
            all[n] = Self::Form(Form::ALL[n]);
            n += 1;
        }
        all[n] = Self::SyncRegs;
        all
    };

    /// The name, which is the last part of the id of a bench.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Form(form) => form.name(),
            Self::SyncRegs => "sync-regs",
            Self::KvmIoctls => "kvm-ioctls",
        }
    }

    /// Opens the interface, with its own file descriptors.
    ///
    /// # Errors
    ///
    /// If the kernel lacks it.
    pub fn open(self) -> Result<Interface> {
        Ok(Interface {
            column: self,
            cases: match self {
                Self::Form(Form::Ioctl) => Box::new(Ioctl::open()?),
                Self::Form(Form::Syscall) => Box::new(Syscall::open()?),
                Self::Form(Form::Merged) => Box::new(Merged::open()?),
                Self::Form(Form::Ranges) => Box::new(Ranges(Syscall::open()?)),
                Self::Form(Form::Files) => Box::new(Files::open()?),
                Self::Form(Form::Bound) => Box::new(Bound::open()?),
                Self::SyncRegs => Box::new(SyncRegs(Ioctl::open()?)),
                Self::KvmIoctls => Box::new(KvmIoctls::open()?),
            },
        })
    }

    /// Whether the interface does any of `case` in its own way.
    fn takes_part(self, case: Case) -> bool {
        match (self, case) {
            (Self::Form(form), Case::Call(call)) => match form {
                Form::Ranges => false,
                form => form.has_own(&call),
            },
            (Self::Form(Form::Ranges), case) => matches!(case, Case::Memory(_)),
            (Self::Form(Form::Bound), case) => !matches!(case, Case::Memory(_)),
            (Self::Form(Form::Files), Case::Run(..)) => true,
            (Self::Form(Form::Merged | Form::Files), case) => matches!(
                case,
                Case::EmulationLoop(..) | Case::Registers | Case::Snapshot | Case::Step
            ),
            _ => true,
        }
    }
}

/// The names of the columns.
pub const INTERFACES: [&str; Column::ALL.len()] = {
    let mut names = [""; Column::ALL.len()];
    let mut n = 0;
    while n < names.len() {
        names[n] = Column::ALL[n].name();
        n += 1;
    }
    names
};

/// A case on one interface; `None` where the interface has no such case.
type Prepared<'a> = Result<Option<Box<dyn Workload + 'a>>>;

/// How an interface prepares the cases.
trait Cases {
    fn prepare(&self, case: Case) -> Prepared<'_>;
}

impl Cases for Ioctl {
    fn prepare(&self, case: Case) -> Prepared<'_> {
        if case == Case::NullSyscall {
            return Ok(Some(Box::new(Plain(null_syscall))));
        }
        backend::prepare(self, Kick::Signal, case)
    }
}

impl Cases for Syscall {
    fn prepare(&self, case: Case) -> Prepared<'_> {
        backend::prepare(self, Kick::Signal, case)
    }
}

impl Cases for Merged {
    fn prepare(&self, case: Case) -> Prepared<'_> {
        backend::prepare_merged(self, Kick::Signal, case)
    }
}

struct Ranges(Syscall);

impl Cases for Ranges {
    fn prepare(&self, case: Case) -> Prepared<'_> {
        backend::prepare_ranges(&self.0, case)
    }
}

impl Cases for Files {
    fn prepare(&self, case: Case) -> Prepared<'_> {
        backend::prepare(self, Kick::Signal, case)
    }
}

impl Cases for Bound {
    fn prepare(&self, case: Case) -> Prepared<'_> {
        backend::prepare_merged(self, Kick::Pidfd(self.0), case)
    }
}

struct SyncRegs(Ioctl);

impl Cases for SyncRegs {
    fn prepare(&self, case: Case) -> Prepared<'_> {
        backend::prepare_synced(&self.0, case)
    }
}

impl Cases for KvmIoctls {
    fn prepare(&self, case: Case) -> Prepared<'_> {
        KvmIoctls::prepare(self, case)
    }
}

/// One interface, open and ready.
pub struct Interface {
    column: Column,
    cases: Box<dyn Cases>,
}

impl Interface {
    /// Its column.
    #[must_use]
    pub fn column(&self) -> Column {
        self.column
    }

    /// Its name, the last part of a bench's id.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.column.name()
    }

    /// Prepares `case`; `None` where the interface has no part in it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something that the case begins with.
    pub fn prepare(&self, case: Case) -> Result<Option<Box<dyn Workload + '_>>> {
        if !self.column.takes_part(case) {
            return Ok(None);
        }
        self.cases
            .prepare(case)
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
pub type Named<'a> = (&'static str, Box<dyn Workload + 'a>);

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

        let no_syscalls = Syscall::open().err().map(|error| error.to_string());
        let is_there = |column: &Column| match column {
            Column::Form(Form::Ioctl) | Column::SyncRegs | Column::KvmIoctls => true,
            Column::Form(_) => no_syscalls.is_none(),
        };
        let columns = Column::ALL.into_iter().filter(is_there);
        Ok(Self {
            open: columns.map(Column::open).collect::<Result<_>>()?,
            no_syscalls,
            long_mode,
        })
    }

    /// Prepares `case` on each interface that has a part in it, one after the
    /// other as they are asked for. Each may fail: when the kernel refuses
    /// something that the case begins with.
    pub fn workloads(&self, case: Case) -> impl Iterator<Item = Result<Named<'_>>> {
        self.open.iter().filter_map(move |interface| {
            let workload = interface.prepare(case).transpose()?;
            Some(workload.map(|workload| (interface.name(), workload)))
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
