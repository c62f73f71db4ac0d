//! The cases: each call of the proposal in its order, `kvm_run` by kind of
//! exit, and the work that a user of them does.

use kvm_api::kvm_sys::{Fd, FlatCall};

use crate::guest::{Exit, Mode};

/// What a row of the comparison is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// A system call that does nothing: the floor under all others.
    NullSyscall,
    /// One call of the proposal.
    Call(FlatCall),
    /// `kvm_run` up to the next exit.
    Run(Exit, Mode),
    /// `kvm_run` that returns before it enters the guest.
    ImmediateExit,
    /// An exit, the registers read, changed and written back.
    EmulationLoop(Exit, Mode),
    /// General, special and floating point registers read and written back.
    Registers,
    /// All of a vcpu saved and restored.
    Snapshot,
    /// A debugger's step: single-stepping asked for, a run, the registers read.
    Step,
    /// Work on the guest's memory.
    Memory(Memory),
    /// Another thread has a vcpu that runs return to user space.
    Kick,
    /// Another thread has a vcpu that runs take an interrupt.
    Interrupt,
}

/// Work on a guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Memory of the host's is shown to the guest and taken away again.
    Mapped,
    /// A page in the middle of it is replaced by another one, and put back.
    PageReplaced,
    /// Of which pages were written the log is fetched, after one was.
    DirtyFetched,
}

impl Case {
    /// Its name, the first part of a bench's id.
    #[must_use]
    pub fn name(self) -> String {
        let mode = |mode| match mode {
            Mode::Long => "",
            Mode::Real => "_real_mode",
        };
        let exit = |exit| match exit {
            Exit::PioOut => "pio_out",
            Exit::PioIn => "pio_in",
            Exit::MmioWrite => "mmio_write",
            Exit::MmioRead => "mmio_read",
            Exit::Hlt => "hlt",
        };
        match self {
            Self::NullSyscall => "null_syscall".into(),
            Self::Call(call) => call.name.into(),
            Self::Run(e, m) => format!("kvm_run_{}{}", exit(e), mode(m)),
            Self::ImmediateExit => "kvm_run_immediate_exit".into(),
            Self::EmulationLoop(Exit::MmioRead | Exit::MmioWrite, m) => {
                format!("mmio_emulation_loop{}", mode(m))
            }
            Self::EmulationLoop(_, m) => format!("emulation_loop{}", mode(m)),
            Self::Registers => "registers_read_written".into(),
            Self::Snapshot => "vcpu_saved_restored".into(),
            Self::Step => "debugger_step".into(),
            Self::Memory(Memory::Mapped) => "memory_mapped".into(),
            Self::Memory(Memory::PageReplaced) => "page_replaced".into(),
            Self::Memory(Memory::DirtyFetched) => "dirty_pages_fetched".into(),
            Self::Kick => "kick".into(),
            Self::Interrupt => "interrupt_by_another_thread".into(),
        }
    }

    /// The mode of its guest, if it runs one.
    #[must_use]
    pub fn mode(self) -> Option<Mode> {
        match self {
            Self::Run(_, mode) | Self::EmulationLoop(_, mode) => Some(mode),
            Self::Registers => Some(Mode::Long),
            Self::Snapshot | Self::Step | Self::Memory(_) | Self::Kick | Self::Interrupt => {
                Some(Mode::Real)
            }
            Self::NullSyscall | Self::Call(_) | Self::ImmediateExit => None,
        }
    }

    /// Whether the thread of a vcpu makes it while its guest runs, and not the
    /// one that sets up and looks after the VM.
    #[must_use]
    pub fn is_of_vcpu(self) -> bool {
        match self {
            Self::Call(call) => call.fd == Fd::Vcpu,
            Self::Snapshot | Self::Step | Self::Memory(_) | Self::Kick | Self::Interrupt => false,
            Self::NullSyscall
            | Self::Run(..)
            | Self::ImmediateExit
            | Self::EmulationLoop(..)
            | Self::Registers => true,
        }
    }

    /// Why the call's own work hides how it was called, where it does: the
    /// ratio of such a row says little about the interface.
    #[must_use]
    pub fn own_work(self) -> Option<&'static str> {
        match self {
            Self::Call(call) => match call {
                FlatCall::kvm_create_vm => Some("allocates and sets up a VM"),
                FlatCall::kvm_create_vcpu => Some("allocates and sets up a vcpu"),
                FlatCall::kvm_get_msr_index_list => Some("copies the whole list"),
                FlatCall::kvm_set_memory_region => {
                    Some("allocates and maps memory, waits for readers")
                }
                FlatCall::kvm_set_user_memory_region => Some("waits for readers of the slots"),
                FlatCall::kvm_set_memory_alias => Some("waits for readers of the slots"),
                FlatCall::kvm_get_memory_alias => Some("over ioctl answered without a call"),
                FlatCall::kvm_get_dirty_log => Some("clears and copies the bitmap"),
                FlatCall::kvm_set_cpuid => Some("copies, checks and applies all of CPUID"),
                _ => None,
            },
            Self::Memory(Memory::Mapped) => Some("waits for readers of the slots"),
            Self::Memory(Memory::DirtyFetched) => {
                Some("copies the bitmap, protects what was written")
            }
            // How often this waits for readers is the interface's doing.
            Self::Memory(Memory::PageReplaced) => None,
            _ => None,
        }
    }

    /// All of them, in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let exits = [
            Exit::PioOut,
            Exit::PioIn,
            Exit::MmioWrite,
            Exit::MmioRead,
            Exit::Hlt,
        ];
        let runs = |mode| exits.map(|exit| Self::Run(exit, mode));

        let mut all = vec![Self::NullSyscall];
        for call in FlatCall::ALL {
            if call == FlatCall::kvm_run {
                all.extend(runs(Mode::Long));
                all.extend(runs(Mode::Real));
                all.push(Self::ImmediateExit);
            } else {
                all.push(Self::Call(call));
            }
        }
        for exit in [Exit::PioIn, Exit::MmioRead] {
            all.extend([Mode::Long, Mode::Real].map(|mode| Self::EmulationLoop(exit, mode)));
        }
        all.extend([Self::Registers, Self::Snapshot, Self::Step]);
        let work = [Memory::Mapped, Memory::PageReplaced, Memory::DirtyFetched];
        all.extend(work.map(Self::Memory));
        all.extend([Self::Kick, Self::Interrupt]);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_case_in_the_order_of_the_table() {
        let mut names: Vec<_> = Case::all()
            .into_iter()
            .map(|case| match case {
                Case::Run(..) | Case::ImmediateExit => "kvm_run".to_owned(),
                case => case.name(),
            })
            .filter(|name| name.starts_with("kvm_"))
            .collect();
        names.dedup();
        let calls = FlatCall::ALL.map(|call| call.name);
        assert_eq!(names, calls);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Case::all().into_iter().map(Case::name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
