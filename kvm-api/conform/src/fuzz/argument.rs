//! An argument: a descriptor, a place in memory, or a number.

use std::fmt::{self, Display};

use clap::ValueEnum;

/// A file descriptor of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Fd {
    Vm0,
    Vm1,
    /// The VM that is bound to the child's address space, if there is one.
    BoundVm,
    Vcpu0,
    Vcpu1,
    Kvm,
    Pipe,
    Closed,
    /// One of the last few descriptors that calls have created.
    New,
    /// The child's own pidfd.
    Pidfd,
}

/// Memory of the pool: a structure that was valid at first, or another place. Its name
/// has an `@` in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Place {
    Regs,
    Sregs,
    Fpu,
    Debug,
    Msrs,
    Cpuid,
    Mask,
    List,
    Alias,
    /// The parts of a vCPU's state, and pointers to them.
    State,
    /// A range of the memory of the guests.
    Range,
    Bitmap,
    Bytes,
    /// The run mapping of vcpu0.
    Run,
    /// The memory of the guests.
    Memory,
    ReadOnly,
    /// The last bytes before unmapped memory.
    Edge,
    Unmapped,
    Kernel,
    Null,
}

impl Place {
    /// The writable places.
    pub fn writable() -> &'static [Self] {
        &Self::value_variants()[..=Self::Memory as usize]
    }

    /// The structure for a pointer to that type.
    pub fn of_type(name: &str) -> Self {
        match name {
            "kvm_regs" => Self::Regs,
            "kvm_sregs" => Self::Sregs,
            "kvm_fpu" => Self::Fpu,
            "kvm_guest_debug" => Self::Debug,
            "kvm_msrs" => Self::Msrs,
            "kvm_cpuid2" => Self::Cpuid,
            "kvm_signal_mask" => Self::Mask,
            "kvm_msr_list" => Self::List,
            "kvm_memory_alias" => Self::Alias,
            "kvm_vcpu_state" => Self::State,
            "kvm_userspace_memory_region2" => Self::Range,
            "void" => Self::Bitmap,
            _ => Self::Bytes,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    Fd(Fd),
    Place(Place),
    Number(u64),
}

impl Arg {
    /// Reads the text that [`Display`] writes.
    pub fn parse(word: &str) -> Option<Self> {
        if let Some(place) = word.strip_prefix('@') {
            return Place::from_str(place, false).ok().map(Self::Place);
        }
        let number = match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => word.parse(),
        };
        let number = number.ok().map(Self::Number);
        number.or_else(|| Fd::from_str(word, false).ok().map(Self::Fd))
    }
}

impl Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn name(value: &impl ValueEnum) -> String {
            let value = value.to_possible_value().expect("no name is left out");
            value.get_name().to_owned()
        }
        match self {
            Self::Fd(fd) => f.write_str(&name(fd)),
            Self::Place(place) => write!(f, "@{}", name(place)),
            Self::Number(number) => write!(f, "{number:#x}"),
        }
    }
}

/// Numbers at the limits of ranges.
pub const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    3,
    7,
    8,
    0xff,
    0x100,
    0x101,
    0xfff,
    0x1000,
    0x1001,
    0x2000,
    0x10000,
    0x20000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 39,
    1 << 52,
    i64::MAX as u64,
    1 << 63,
    !0xfff,
    u64::MAX,
];
