//! An argument: a descriptor, a place in memory, or a number.

use std::fmt::{self, Display};

/// A file descriptor of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fd {
    Vm0,
    Vm1,
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

impl Fd {
    pub const ALL: [(&'static str, Self); 9] = [
        ("vm0", Self::Vm0),
        ("vm1", Self::Vm1),
        ("vcpu0", Self::Vcpu0),
        ("vcpu1", Self::Vcpu1),
        ("kvm", Self::Kvm),
        ("pipe", Self::Pipe),
        ("closed", Self::Closed),
        ("new", Self::New),
        ("pidfd", Self::Pidfd),
    ];
}

/// Memory of the pool: a structure that was valid at first, or another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub const ALL: [(&'static str, Self); 19] = [
        ("@regs", Self::Regs),
        ("@sregs", Self::Sregs),
        ("@fpu", Self::Fpu),
        ("@debug", Self::Debug),
        ("@msrs", Self::Msrs),
        ("@cpuid", Self::Cpuid),
        ("@mask", Self::Mask),
        ("@list", Self::List),
        ("@alias", Self::Alias),
        ("@state", Self::State),
        ("@bitmap", Self::Bitmap),
        ("@bytes", Self::Bytes),
        ("@run", Self::Run),
        ("@memory", Self::Memory),
        ("@readonly", Self::ReadOnly),
        ("@edge", Self::Edge),
        ("@unmapped", Self::Unmapped),
        ("@kernel", Self::Kernel),
        ("@null", Self::Null),
    ];

    /// The number of writable places, which come first.
    pub const WRITABLE: usize = 14;

    /// The structure for a parameter of that type.
    pub fn of(parameter: &str) -> Self {
        let types = [
            ("kvm_regs", Self::Regs),
            ("kvm_sregs", Self::Sregs),
            ("kvm_fpu", Self::Fpu),
            ("kvm_guest_debug", Self::Debug),
            ("kvm_msrs", Self::Msrs),
            ("kvm_cpuid2", Self::Cpuid),
            ("kvm_signal_mask", Self::Mask),
            ("kvm_msr_list", Self::List),
            ("kvm_memory_alias", Self::Alias),
            ("kvm_vcpu_state", Self::State),
            ("dirty_bitmap", Self::Bitmap),
            ("bitmap", Self::Bitmap),
        ];
        let word = |name: &str| parameter.split([' ', '*']).any(|word| word == name);
        let named = types.into_iter().find(|(name, _)| word(name));
        named.map_or(Self::Bytes, |(_, place)| place)
    }
}

/// An argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    Fd(Fd),
    Place(Place),
    Number(u64),
}

impl Arg {
    /// Reads the text that [`Display`] writes.
    pub fn parse(word: &str) -> Option<Self> {
        let fd = Fd::ALL.into_iter().find(|(name, _)| *name == word);
        let place = Place::ALL.into_iter().find(|(name, _)| *name == word);
        match (fd, place) {
            (Some((_, fd)), _) => Some(Self::Fd(fd)),
            (_, Some((_, place))) => Some(Self::Place(place)),
            (None, None) => {
                let number = match word.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => word.parse(),
                };
                Some(Self::Number(number.ok()?))
            }
        }
    }
}

impl Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Fd(fd) => Fd::ALL.into_iter().find(|it| it.1 == *fd).map(|it| it.0),
            Self::Place(at) => Place::ALL.into_iter().find(|it| it.1 == *at).map(|it| it.0),
            Self::Number(number) => return write!(f, "{number:#x}"),
        };
        f.write_str(name.expect("each has a name"))
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

#[cfg(test)]
mod tests {
    use super::super::rows::{CallRow, ROWS};
    use super::*;

    #[test]
    fn parameters_get_their_structures() {
        let call = &ROWS[CallRow::named("kvm_set_sregs").unwrap()];
        let places: Vec<_> = call.parameters.iter().map(|it| Place::of(it)).collect();
        assert_eq!(places[1], Place::Sregs);
    }
}
