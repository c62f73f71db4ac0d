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
use crate::processors;
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
    /// The number of processors on which this process may run.
    pub processors: usize,
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
            processors: processors::allowed()?.len(),
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

    /// Whether this KVM can run the guest of `case`, and the machine has the processors.
    #[must_use]
    pub fn can(&self, case: &Case) -> bool {
        let runs = self.long_mode || case.guest.mode != Mode::Long;
        runs && case.processors as usize <= self.processors
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    #[test]
    fn a_case_needs_its_processors_and_the_mode_of_its_guest() {
        let machine = |long_mode, processors| Interfaces {
            open: Vec::new(),
            no_syscalls: None,
            long_mode,
            processors,
        };
        let can = |machine: &Interfaces, name| machine.can(cases::named(name).unwrap());
        for (name, anywhere, only_long_mode, only_processors) in [
            ("kvm_get_regs", true, true, true),
            ("kvm_run_pio_out", false, true, false),
            ("vcpu_changes_threads", false, false, false),
        ] {
            assert_eq!(can(&machine(false, 1), name), anywhere, "{name}");
            assert_eq!(can(&machine(true, 1), name), only_long_mode, "{name}");
            assert_eq!(can(&machine(false, 2), name), only_processors, "{name}");
            assert!(can(&machine(true, 2), name), "{name}");
        }
    }
}
