//! The guest's programs.

/// Where the guest's program begins: `1: inc %bx; out %al,$0x11; jmp 1b`.
pub const START: u64 = guests::ENTRY;
/// Its OUT.
pub const OUT: u64 = START + 1;
/// What is behind that.
pub const JMP: u64 = START + 3;
/// Where there is a guest that never exits: `jmp .`.
pub const SPIN: u64 = START + 0x100;

/// The program, and the other, which is loaded at [`SPIN`].
pub const PROGRAM: &[u8] = &[0x43, 0xe6, 0x11, 0xeb, 0xfb];
