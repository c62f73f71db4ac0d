//! The interfaces of the running kernel.

use anyhow::{Context, Result, ensure};
use kvm_api::Vcpu;
use kvm_api::ioctl::Ioctl;
use kvm_api::syscall::Syscall;
use kvm_bindings::KVM_EXIT_HLT;

use crate::case::Case;
use crate::fixture::{Fixture, Guest};
use crate::guest::{Exit, Mode};
use crate::interface::{Column, Interface};
use crate::workload::Workload;

/// The name of an interface, and a case on it.
pub type Named<'a> = (&'static str, Box<dyn Workload + 'a>);
/// The name of an interface, and a case on it, or why the case cannot be prepared.
pub type Prepared<'a> = (&'static str, Result<Box<dyn Workload + 'a>>);

/// The interfaces that this kernel has.
pub struct Interfaces {
    /// Each interface.
    pub open: Vec<Interface>,
    /// Why the system calls are missing, if they are.
    pub no_syscalls: Option<String>,
    /// Whether guests in 64-bit mode run.
    pub long_mode: bool,
}

impl Interfaces {
    /// Opens each interface that the kernel has.
    ///
    /// # Errors
    ///
    /// If this machine's KVM cannot run a VM.
    pub fn open() -> Result<Self> {
        let ioctl = Ioctl::open().context("/dev/kvm")?;
        try_run(&ioctl, Mode::Real).context("this KVM runs no guest, not even in real mode")?;
        let long_mode = try_run(&ioctl, Mode::Long).is_ok();

        let no_syscalls = Syscall::open().err().map(|error| error.to_string());
        let is_there = |column: &Column| column.is_stock() || no_syscalls.is_none();
        let columns = Column::ALL.into_iter().filter(is_there);
        Ok(Self {
            open: columns.map(Column::open).collect::<Result<_>>()?,
            no_syscalls,
            long_mode,
        })
    }

    /// Prepares `case` on each interface that has a part in it, when the iterator reaches
    /// it.
    pub fn workloads(&self, case: &Case) -> impl Iterator<Item = Prepared<'_>> {
        self.open.iter().filter_map(|interface| {
            let workload = case.prepare(interface).transpose()?;
            Some((interface.column().name(), workload))
        })
    }

    /// Whether this KVM can run the guest of `case`.
    #[must_use]
    pub fn can(&self, case: &Case) -> bool {
        self.long_mode || case.guest.mode != Mode::Long
    }
}

/// Tries to run a guest in a mode.
fn try_run(kvm: &Ioctl, mode: Mode) -> Result<()> {
    let exit = Exit::Hlt;
    let mut f = Fixture::with_guest(kvm, Guest { exit, mode })?;
    let exit = f.vcpu.kvm_run(&mut f.run).context("kvm_run")?;
    ensure!(exit.exit_reason() == KVM_EXIT_HLT, "{:?}", exit.reason());
    Ok(())
}
