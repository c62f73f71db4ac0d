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
    HLT: 1 = "guests_hlt", "hlt";
    /// Never exits.
    SPIN: 2 = "guests_spin", "jmp .";
    /// Counts at [`COUNTER`], and never exits.
    COUNT: 7 = "guests_count", "2: incl 0x3000; jmp 2b";
    /// Counts at 0x20000 and at 0x30000, and never exits.
    COUNT_FAR: 23 = "guests_count_far",
        "mov $0x2000,%ax; mov %ax,%ds; mov $0x3000,%ax; mov %ax,%es; 2: incl 0; incl %es:0; jmp 2b";
    /// Counts in each of 16 pages from 0x20000 on, and never exits.
    COUNT_PAGES: 16 = "guests_count_pages",
        "mov $0x2000,%ax; mov %ax,%ds; xor %bx,%bx; 2: incl (%bx); add $0x1000,%bx; jmp 2b";
    /// Writes 0x2a to [`OUT_PORT`].
    OUT: 5 = "guests_out", "mov $0x2a,%al; out %al,$0x11; hlt";
    /// Counts in %bx and writes to [`OUT_PORT`], in a loop.
    COUNT_OUT: 5 = "guests_count_out", "2: inc %bx; out %al,$0x11; jmp 2b";
    /// Writes the successor of a byte from [`IN_PORT`] to [`OUT_PORT`].
    IN: 7 = "guests_in", "in $0x10,%al; inc %al; out %al,$0x11; hlt";
    /// Writes the four bytes at 0x1040 to [`OUT_PORT`].
    OUT_STRING: 13 = "guests_out_string",
        "mov $0x1040,%si; mov $4,%cx; mov $0x11,%dx; cld; rep outsb; hlt";
    /// Writes 0x5a to [`MMIO`].
    MMIO_WRITE: 11 = "guests_mmio_write", "mov $0xd000,%ax; mov %ax,%ds; movb $0x5a,0x10; hlt";
    /// Writes a byte from [`MMIO`] to [`OUT_PORT`].
    MMIO_READ: 11 = "guests_mmio_read",
        "mov $0xd000,%ax; mov %ax,%ds; mov 0x10,%al; out %al,$0x11; hlt";
    /// Writes the byte at [`FAR`] to [`OUT_PORT`], and 0x77 to the address behind.
    FAR_COPY: 16 = "guests_far_copy",
        "mov $0x2000,%ax; mov %ax,%ds; mov 0,%al; out %al,$0x11; movb $0x77,1; hlt";
    /// Writes 1 to the start of page 3.
    WRITE_PAGE_3: 6 = "guests_write_page_3", "movb $1,0x3000; hlt";
    /// Writes the byte at the start of segment ES to [`OUT_PORT`].
    READ_ES: 7 = "guests_read_es", "mov %es:0,%al; out %al,$0x11; hlt";
    /// Adds %cx to %bx.
    ADD: 3 = "guests_add", "add %cx,%bx; hlt";
    /// Enables interrupts, and never exits.
    ENABLE_AND_SPIN: 4 = "guests_enable_and_spin", "sti; nop; jmp .";
    /// A handler of an interrupt, which writes 0x21 to [`OUT_PORT`].
    HANDLER: 5 = "guests_handler", "mov $0x21,%al; out %al,$0x11; iret";
    /// Two instructions before it halts.
    NOPS: 3 = "guests_nops", "nop; nop; hlt";
    /// Increments the MSR SYSENTER_CS.
    INCREMENT_SYSENTER_CS: 13 = "guests_increment_sysenter_cs",
        "mov $0x174,%ecx; rdmsr; inc %eax; wrmsr; hlt";
    /// Executes CPUID for the leaf 0x40000001.
    CPUID: 9 = "guests_cpuid", "mov $0x40000001,%eax; cpuid; hlt";
    /// Stores the FPU's control word at 0x3000, and loads the one at 0x3002.
    SWAP_FCW: 9 = "guests_swap_fcw", "fnstcw 0x3000; fldcw 0x3002; hlt";
}

programs! { LONG_MODE: ".code64";
    /// Writes %r8 to 0x3000, and 0x2a to [`OUT_PORT`].
    LONG: 23 = "guests_long",
        "movabs $0x1122334455667788,%r8; mov %r8,0x3000; mov $0x2a,%al; out %al,$0x11; hlt";
    /// Writes the byte at the linear address 0x200000 to [`OUT_PORT`].
    LONG_ELSEWHERE: 10 = "guests_long_elsewhere", "mov 0x200000,%al; out %al,$0x11; hlt";
    /// Writes %r8 to [`MMIO`], and reads it back.
    LONG_MMIO: 17 = "guests_long_mmio",
        "movabs $0xd0010,%rdi; mov %r8,(%rdi); mov (%rdi),%rax; hlt";
    /// Executes an instruction of the FPU.
    FLD1: 3 = "guests_fld1", "fld1; hlt";
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
    #[test]
    fn old_bytes() {
        assert_eq!(COUNT_OUT, &[0x43, 0xe6, 0x11, 0xeb, 0xfb]);
        assert_eq!(HLT, &[0xf4], "HLT");
        assert_eq!(SPIN, &[0xeb, 0xfe], "SPIN");
        assert_eq!(COUNT, &[0x66, 0xff, 0x06, 0x00, 0x30, 0xeb, 0xf9], "COUNT");
        assert_eq!(
            COUNT_FAR,
            &[
                0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xb8, 0x00, 0x30, 0x8e, 0xc0, 0x66, 0xff, 0x06, 0x00,
                0x00, 0x26, 0x66, 0xff, 0x06, 0x00, 0x00, 0xeb, 0xf3
            ],
            "COUNT_FAR"
        );
        assert_eq!(
            COUNT_PAGES,
            &[
                0xb8, 0x00, 0x20, 0x8e, 0xd8, 0x31, 0xdb, 0x66, 0xff, 0x07, 0x81, 0xc3, 0x00, 0x10,
                0xeb, 0xf7
            ],
            "COUNT_PAGES"
        );
        assert_eq!(OUT, &[0xb0, 0x2a, 0xe6, 0x11, 0xf4], "OUT");
        assert_eq!(IN, &[0xe4, 0x10, 0xfe, 0xc0, 0xe6, 0x11, 0xf4], "IN");
        assert_eq!(
            OUT_STRING,
            &[
                0xbe, 0x40, 0x10, 0xb9, 0x04, 0x00, 0xba, 0x11, 0x00, 0xfc, 0xf3, 0x6e, 0xf4
            ],
            "OUT_STRING"
        );
        assert_eq!(
            MMIO_WRITE,
            &[
                0xb8, 0x00, 0xd0, 0x8e, 0xd8, 0xc6, 0x06, 0x10, 0x00, 0x5a, 0xf4
            ],
            "MMIO_WRITE"
        );
        assert_eq!(
            MMIO_READ,
            &[
                0xb8, 0x00, 0xd0, 0x8e, 0xd8, 0xa0, 0x10, 0x00, 0xe6, 0x11, 0xf4
            ],
            "MMIO_READ"
        );
        assert_eq!(
            FAR_COPY,
            &[
                0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa0, 0x00, 0x00, 0xe6, 0x11, 0xc6, 0x06, 0x01, 0x00,
                0x77, 0xf4
            ],
            "FAR_COPY"
        );
        assert_eq!(
            WRITE_PAGE_3,
            &[0xc6, 0x06, 0x00, 0x30, 0x01, 0xf4],
            "WRITE_PAGE_3"
        );
        assert_eq!(
            READ_ES,
            &[0x26, 0xa0, 0x00, 0x00, 0xe6, 0x11, 0xf4],
            "READ_ES"
        );
        assert_eq!(ADD, &[0x01, 0xcb, 0xf4], "ADD");
        assert_eq!(
            ENABLE_AND_SPIN,
            &[0xfb, 0x90, 0xeb, 0xfe],
            "ENABLE_AND_SPIN"
        );
        assert_eq!(HANDLER, &[0xb0, 0x21, 0xe6, 0x11, 0xcf], "HANDLER");
        assert_eq!(NOPS, &[0x90, 0x90, 0xf4], "NOPS");
        assert_eq!(
            INCREMENT_SYSENTER_CS,
            &[
                0x66, 0xb9, 0x74, 0x01, 0x00, 0x00, 0x0f, 0x32, 0x66, 0x40, 0x0f, 0x30, 0xf4
            ],
            "INCREMENT_SYSENTER_CS"
        );
        assert_eq!(
            CPUID,
            &[0x66, 0xb8, 0x01, 0x00, 0x00, 0x40, 0x0f, 0xa2, 0xf4],
            "CPUID"
        );
        assert_eq!(
            SWAP_FCW,
            &[0xd9, 0x3e, 0x00, 0x30, 0xd9, 0x2e, 0x02, 0x30, 0xf4],
            "SWAP_FCW"
        );
        assert_eq!(
            LONG,
            &[
                0x49, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x4c, 0x89, 0x04, 0x25,
                0x00, 0x30, 0x00, 0x00, 0xb0, 0x2a, 0xe6, 0x11, 0xf4
            ],
            "LONG"
        );
        assert_eq!(
            LONG_ELSEWHERE,
            &[0x8a, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0xe6, 0x11, 0xf4],
            "LONG_ELSEWHERE"
        );
        assert_eq!(
            LONG_MMIO,
            &[
                0x48, 0xbf, 0x10, 0x00, 0x0d, 0x00, 0x00, 0x00, 0x00, 0x00, 0x4c, 0x89, 0x07, 0x48,
                0x8b, 0x07, 0xf4
            ],
            "LONG_MMIO"
        );
        assert_eq!(FLD1, &[0xd9, 0xe8, 0xf4], "FLD1");
    }
}
