//! The addresses of the guest's programs.

/// The address of `programs::COUNT_OUT`.
pub const START: u64 = guests::ENTRY;
/// The address of its OUT instruction.
pub const OUT: u64 = START + 1;
/// The address of its JMP instruction.
pub const JMP: u64 = START + 3;
/// The address of `programs::SPIN`.
pub const SPIN: u64 = START + 0x100;
