//! Marks in a program that only an emulator sees: instructions that do nothing,
//! and cost no more than that.

/// What a mark stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Marker {
    /// What comes now is measured by itself: a new section.
    Section = 1,
    /// The next instruction is the first that counts.
    Begin = 2,
    /// The last instruction was the last that counted.
    End = 3,
    /// The section is at its end: nothing that follows counts before the next.
    Close = 4,
}

impl Marker {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Section, Self::Begin, Self::End, Self::Close];
}

/// What the displacement of a mark's NOP spells, above the kind of the mark.
pub const MAGIC: u32 = u32::from_be_bytes(*b"kvm\0");

/// `nopl displacement(%rax,%rax)` without the displacement.
const NOP: [u8; 4] = [0x0f, 0x1f, 0x84, 0x00];

impl Marker {
    /// The mark that an instruction is.
    #[must_use]
    pub fn of(instruction: &[u8]) -> Option<Self> {
        let displacement = instruction.strip_prefix(&NOP)?;
        let displacement = u32::from_le_bytes(displacement.try_into().ok()?);
        Self::ALL
            .into_iter()
            .find(|marker| displacement == MAGIC | *marker as u32)
    }
}

/// Puts a mark here, a constant [`Marker`].
#[macro_export]
macro_rules! mark {
    ($marker:expr) => {
        // SAFETY: the instruction does nothing. Without `nomem`, nothing that
        // touches memory is moved across it.
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
        // SAFETY: a function has as many bytes, and what follows is readable.
        let code = unsafe { std::slice::from_raw_parts(marked as *const u8, 16) };
        let found: Vec<_> = code.windows(8).filter_map(Marker::of).collect();
        assert_eq!(found, [Marker::Begin]);
        assert_eq!(Marker::of(&NOP), None);
        assert_eq!(Marker::of(&[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]), None);
    }
}
