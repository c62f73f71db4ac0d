//! The cases: each call of the proposal in its order, `kvm_run` by kind of
//! exit, and the work that a user of them does.

use kvm_api::kvm_sys::{CALLS, Fd};

use crate::guest::{Exit, Mode};

/// What a row of the comparison is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// A system call that does nothing: the floor under all others.
    NullSyscall,
    /// One call, by its name in the proposal.
    Call(&'static str),
    /// `kvm_run` up to the next exit.
    Run(Exit, Mode),
    /// `kvm_run` that returns before it enters the guest.
    ImmediateExit,
    /// An exit for input, the registers read, changed and written back.
    EmulationLoop(Mode),
}

impl Case {
    /// Its name, the first part of a bench's id.
    #[must_use]
    pub fn name(self) -> String {
        let mode = |mode| match mode {
            Mode::Long => "",
            Mode::Real => "_real_mode",
        };
        match self {
            Self::NullSyscall => "null_syscall".into(),
            Self::Call(name) => name.into(),
            Self::Run(exit, m) => {
                let exit = match exit {
                    Exit::PioOut => "pio_out",
                    Exit::PioIn => "pio_in",
                    Exit::MmioWrite => "mmio_write",
                    Exit::MmioRead => "mmio_read",
                    Exit::Hlt => "hlt",
                };
                format!("kvm_run_{exit}{}", mode(m))
            }
            Self::ImmediateExit => "kvm_run_immediate_exit".into(),
            Self::EmulationLoop(m) => format!("emulation_loop{}", mode(m)),
        }
    }

    /// The mode of its guest, if it runs one.
    #[must_use]
    pub fn mode(self) -> Option<Mode> {
        match self {
            Self::Run(_, mode) | Self::EmulationLoop(mode) => Some(mode),
            Self::NullSyscall | Self::Call(_) | Self::ImmediateExit => None,
        }
    }

    /// Whether the thread of a vcpu makes it while its guest runs, and not the
    /// one that sets up and looks after the VM.
    #[must_use]
    pub fn is_of_vcpu(self) -> bool {
        match self {
            Self::Call(name) => CALLS
                .iter()
                .any(|call| call.name == name && call.fd == Fd::Vcpu),
            Self::NullSyscall | Self::Run(..) | Self::ImmediateExit | Self::EmulationLoop(_) => {
                true
            }
        }
    }

    /// Why the call's own work hides how it was called, where it does: the
    /// ratio of such a row says little about the interface.
    #[must_use]
    pub fn own_work(self) -> Option<&'static str> {
        match self {
            Self::Call(name) => match name {
                "kvm_create_vm" => Some("allocates and sets up a VM"),
                "kvm_create_vcpu" => Some("allocates and sets up a vcpu"),
                "kvm_get_msr_index_list" => Some("copies the whole list"),
                "kvm_set_memory_region" => Some("allocates and maps memory, waits for readers"),
                "kvm_set_user_memory_region" => Some("waits for readers of the slots"),
                "kvm_set_memory_alias" => Some("waits for readers of the slots"),
                "kvm_get_memory_alias" => Some("over ioctl answered without a call"),
                "kvm_get_dirty_log" => Some("clears and copies the bitmap"),
                "kvm_set_cpuid" => Some("copies, checks and applies all of CPUID"),
                _ => None,
            },
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
        for call in CALLS.iter() {
            if call.name == "kvm_run" {
                all.extend(runs(Mode::Long));
                all.extend(runs(Mode::Real));
                all.push(Self::ImmediateExit);
            } else {
                all.push(Self::Call(call.name));
            }
        }
        all.push(Self::EmulationLoop(Mode::Long));
        all.push(Self::EmulationLoop(Mode::Real));
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
        let calls: Vec<_> = CALLS.iter().map(|call| call.name).collect();
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
