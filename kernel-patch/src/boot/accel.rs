//! What runs a machine's instructions.

use std::fmt::{self, Display};
use std::str::FromStr;

use super::error::Result;
use crate::boot::{bochs, qemu};

/// What runs the machine's instructions.
///
/// `/dev/kvm` has no say in it: there are hosts whose KVM has no hardware
/// behind it and runs no kernel, and a count of instructions needs emulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    /// Emulation; one instruction is one nanosecond of the machine's time.
    #[default]
    Tcg,
    /// Emulation in real time, each processor a thread of its own: nothing is
    /// counted, no two runs are alike, and processors race.
    Mttcg,
    /// Hardware virtualization, and nested for what runs inside.
    Kvm,
    /// Emulation by Bochs instead of QEMU: of a processor of Intel's, with VMX,
    /// which QEMU does not emulate. Nothing is counted, and it is slow.
    Bochs,
}

impl Accel {
    /// All of them, by the names that they have on command lines.
    const NAMES: [(&str, Self); 4] = [
        ("tcg", Self::Tcg),
        ("mttcg", Self::Mttcg),
        ("kvm", Self::Kvm),
        ("bochs", Self::Bochs),
    ];

    /// The processor that the machine sees, in its emulator's words.
    #[must_use]
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Tcg | Self::Mttcg => "EPYC,+svm,+npt",
            Self::Kvm => "host",
            Self::Bochs => bochs::CPU,
        }
    }

    /// The program that emulates the machine, by its name.
    pub(crate) fn emulator(self) -> &'static str {
        match self {
            Self::Bochs => "Bochs",
            _ => "QEMU",
        }
    }

    /// What it is, in words for a report: the emulator (QEMU's version), what runs the
    /// instructions, and the processor.
    ///
    /// # Errors
    ///
    /// When QEMU does not say its version.
    pub fn describe(self) -> Result<String> {
        let emulator = match self {
            Self::Bochs => self.emulator().into(),
            _ => format!("{}, {}", qemu::version()?, self.qemu_args().join(" ")),
        };
        Ok(format!("{emulator}, {}", self.cpu()))
    }

    /// What QEMU is told; nothing for Bochs, which is not QEMU.
    pub(crate) fn qemu_args(self) -> &'static [&'static str] {
        match self {
            Self::Tcg => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
            ],
            Self::Mttcg => &["-accel", "tcg,thread=multi"],
            Self::Kvm => &["-accel", "kvm"],
            Self::Bochs => &[],
        }
    }
}

impl Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = Self::NAMES
            .into_iter()
            .find(|(_, accel)| accel == self)
            .expect("each has a name");
        f.write_str(name)
    }
}

impl FromStr for Accel {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let named = Self::NAMES.into_iter().find(|(name, _)| *name == text);
        let names = Self::NAMES.map(|(name, _)| name);
        named
            .map(|(_, accel)| accel)
            .ok_or_else(|| format!("none of {}", names.join(", ")))
    }
}
