//! The emulators and accelerators that execute a machine's instructions.

use std::fmt::{self, Display};

use clap::ValueEnum;

/// The emulator or accelerator that executes the machine's instructions.
///
/// The default does not depend on `/dev/kvm`: some hosts have it without hardware that runs
/// a kernel, and counting instructions needs emulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// Emulation; one instruction is one nanosecond of the machine's time
    #[default]
    Tcg,
    /// Emulation in real time with a thread for each processor. It counts nothing, runs do
    /// not repeat, and processors race
    Mttcg,
    /// Hardware virtualization, nested for KVM inside
    Kvm,
    /// Emulation of an Intel processor by Bochs, with VMX, which QEMU does not emulate. Its
    /// clock counts instructions, too, and it is slow
    Bochs,
}

impl Accel {
    /// The usual processor of the machine, by the emulator's name.
    #[must_use]
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Tcg | Self::Mttcg => "EPYC,+svm,+npt",
            Self::Kvm => "host",
            // The newest with the right size of XSAVE state. The kernel finds newer ones, with
            // AVX-512 and protection keys, inconsistent.
            Self::Bochs => "broadwell_ult",
        }
    }

    /// The name of the emulator.
    pub(crate) fn emulator(self) -> &'static str {
        match self {
            Self::Bochs => "Bochs",
            _ => "QEMU",
        }
    }

    /// The options of QEMU, separated by blanks; none for Bochs.
    pub(crate) fn qemu_args(self) -> &'static str {
        match self {
            Self::Tcg => "-accel tcg,thread=single -icount shift=0,sleep=off",
            Self::Mttcg => "-accel tcg,thread=multi",
            Self::Kvm => "-accel kvm",
            Self::Bochs => "",
        }
    }
}

impl Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no value is skipped");
        f.write_str(value.get_name())
    }
}
