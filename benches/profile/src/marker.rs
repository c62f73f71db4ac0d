//! Marks in a program for the emulator: NOPs, which do nothing on a processor.

/// The kind of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Marker {
    /// A new section begins.
    Section = 1,
    /// The next instruction is the first of a call.
    Begin = 2,
    /// The previous instruction was the last of the call.
    End = 3,
    /// The section ends.
    Close = 4,
    /// The last section that ended does not count.
    Discard = 5,
}

impl Marker {
    /// Each kind.
    pub const ALL: [Self; 5] = [
        Self::Section,
        Self::Begin,
        Self::End,
        Self::Close,
        Self::Discard,
    ];
}

/// The displacement of the NOP, without the kind of the mark in its last byte.
pub const MAGIC: u32 = u32::from_be_bytes(*b"kvm\0");

/// `nopl displacement(%rax,%rax)` without the displacement.
const NOP: [u8; 4] = [0x0f, 0x1f, 0x84, 0x00];

impl Marker {
    /// Returns the kind of mark that an instruction is, if it is one.
    #[must_use]
    pub fn of(instruction: &[u8]) -> Option<Self> {
        let displacement = instruction.strip_prefix(&NOP)?;
        let displacement = u32::from_le_bytes(displacement.try_into().ok()?);
        Self::ALL
            .into_iter()
            .find(|marker| displacement == MAGIC | *marker as u32)
    }
}

/// Inserts a mark. The argument is a constant [`Marker`].
#[macro_export]
macro_rules! mark {
    ($marker:expr) => {
        // SAFETY: the instruction does nothing. Without `nomem`, the compiler moves no
        // memory access across it.
        unsafe {
            ::std::arch::asm!(
                ".byte 0x0f, 0x1f, 0x84, 0x00",
                ".long {mark}",
                mark = const $crate::marker::MAGIC | $marker as u32,
                options(nostack, preserves_flags),
            )
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_recognised_and_nothing_else_is() {
        fn marked() {
            mark!(Marker::Begin);
        }
        // SAFETY: a function has as many bytes, and the bytes behind it are readable.
        let code = unsafe { std::slice::from_raw_parts(marked as *const u8, 16) };
        let found: Vec<_> = code.windows(8).filter_map(Marker::of).collect();
        assert_eq!(found, [Marker::Begin]);
        assert_eq!(Marker::of(&NOP), None);
        assert_eq!(Marker::of(&[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]), None);
    }
}
