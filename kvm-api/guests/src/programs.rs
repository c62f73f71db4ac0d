//! The programs of the tests. They are for real mode unless the text says
//! 64-bit; DS, ES and SS begin at 0 unless the program loads them. Those that
//! do not spin or return end with HLT.

use crate::assemble::programs;

/// The port that programs write to.
pub const OUT_PORT: u16 = 0x11;
/// The port that programs read from.
pub const IN_PORT: u16 = 0x10;
/// The guest physical address, without memory, that programs access.
pub const MMIO: u64 = 0xd0010;
/// The guest physical address that [`FAR_COPY`] uses.
pub const FAR: u64 = 0x20000;
/// The address of the 32-bit counter of [`COUNT`].
pub const COUNTER: usize = 0x3000;
/// The address of [`HANDLER`].
pub const HANDLER_AT: u16 = 0x1100;

programs! { REAL_MODE: ".code16";
    /// Halts.
    HLT: 1 = "hlt";
    /// Never exits.
    SPIN: 2 = "jmp .";
    /// Counts at [`COUNTER`], and never exits.
    COUNT: 7 = "2: incl 0x3000; jmp 2b";
    /// Counts at 0x20000 and at 0x30000, and never exits.
    COUNT_FAR: 23 =
        "mov $0x2000,%ax; mov %ax,%ds; mov $0x3000,%ax; mov %ax,%es; 2: incl 0; incl %es:0; jmp 2b";
    /// Counts in each of 16 pages from 0x20000 on, and never exits.
    COUNT_PAGES: 16 =
        "mov $0x2000,%ax; mov %ax,%ds; xor %bx,%bx; 2: incl (%bx); add $0x1000,%bx; jmp 2b";
    /// Writes the byte at 0x20000 to a port, in a loop. KVM reads it, because it emulates the
    /// instruction.
    OUT_FAR: 10 = "mov $0x2000,%ax; mov %ax,%ds; 2: xor %si,%si; outsb; jmp 2b";
    /// Writes 0x2a to [`OUT_PORT`].
    OUT: 5 = "mov $0x2a,%al; out %al,$0x11; hlt";
    /// Counts in %bx and writes to [`OUT_PORT`], in a loop.
    COUNT_OUT: 5 = "2: inc %bx; out %al,$0x11; jmp 2b";
    /// Writes the successor of a byte from [`IN_PORT`] to [`OUT_PORT`].
    IN: 7 = "in $0x10,%al; inc %al; out %al,$0x11; hlt";
    /// Writes the four bytes at 0x1040 to [`OUT_PORT`].
    OUT_STRING: 13 = "mov $0x1040,%si; mov $4,%cx; mov $0x11,%dx; cld; rep outsb; hlt";
    /// Writes 0x5a to [`MMIO`].
    MMIO_WRITE: 11 = "mov $0xd000,%ax; mov %ax,%ds; movb $0x5a,0x10; hlt";
    /// Writes a byte from [`MMIO`] to [`OUT_PORT`].
    MMIO_READ: 11 = "mov $0xd000,%ax; mov %ax,%ds; mov 0x10,%al; out %al,$0x11; hlt";
    /// Writes the byte at [`FAR`] to [`OUT_PORT`], and 0x77 to the address behind.
    FAR_COPY: 16 = "mov $0x2000,%ax; mov %ax,%ds; mov 0,%al; out %al,$0x11; movb $0x77,1; hlt";
    /// Writes 1 to the start of page 3.
    WRITE_PAGE_3: 6 = "movb $1,0x3000; hlt";
    /// Writes the byte at the start of segment ES to [`OUT_PORT`].
    READ_ES: 7 = "mov %es:0,%al; out %al,$0x11; hlt";
    /// Adds %cx to %bx.
    ADD: 3 = "add %cx,%bx; hlt";
    /// Enables interrupts, and never exits.
    ENABLE_AND_SPIN: 4 = "sti; nop; jmp .";
    /// A handler of an interrupt, which writes 0x21 to [`OUT_PORT`].
    HANDLER: 5 = "mov $0x21,%al; out %al,$0x11; iret";
    /// Two instructions before it halts.
    NOPS: 3 = "nop; nop; hlt";
    /// Increments the MSR SYSENTER_CS.
    INCREMENT_SYSENTER_CS: 13 = "mov $0x174,%ecx; rdmsr; inc %eax; wrmsr; hlt";
    /// Executes CPUID for the leaf 0x40000001.
    CPUID: 9 = "mov $0x40000001,%eax; cpuid; hlt";
    /// Stores the FPU's control word at 0x3000, and loads the one at 0x3002.
    SWAP_FCW: 9 = "fnstcw 0x3000; fldcw 0x3002; hlt";
}

programs! { LONG_MODE: ".code64";
    /// Writes %r8 to 0x3000, and 0x2a to [`OUT_PORT`].
    LONG: 23 = "movabs $0x1122334455667788,%r8; mov %r8,0x3000; mov $0x2a,%al; out %al,$0x11; hlt";
    /// Writes the byte at the linear address 0x200000 to [`OUT_PORT`].
    LONG_ELSEWHERE: 10 = "mov 0x200000,%al; out %al,$0x11; hlt";
    /// Writes %r8 to [`MMIO`], and reads it back.
    LONG_MMIO: 17 = "movabs $0xd0010,%rdi; mov %r8,(%rdi); mov (%rdi),%rax; hlt";
    /// Executes an instruction of the FPU.
    FLD1: 3 = "fld1; hlt";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_program_is_shorter_than_declared() {
        for (name, code) in REAL_MODE.iter().chain(LONG_MODE) {
            assert_ne!(code.last(), Some(&6), "{name} ends with padding");
        }
    }
}
