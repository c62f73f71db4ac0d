//! Guest programs, assembled by the compiler.

/// The symbol of a program for the linker.
macro_rules! symbol {
    ($list:ident $name:ident) => {
        concat!("guests_", stringify!($list), "_", stringify!($name))
    };
}
pub(crate) use symbol;

/// Defines programs for a mode, `.code16` or `.code64`: each a name, its length
/// in bytes, and the instructions in AT&T syntax. Tests find all of them under the
/// name of the list, which only one list has.
macro_rules! programs {
    ($list:ident: $mode:literal;
     $($(#[$doc:meta])* $name:ident: $length:literal = $code:literal;)*) => {
        $(
            std::arch::global_asm!(
                ".pushsection .rodata",
                concat!(".globl ", $crate::assemble::symbol!($list $name)),
                concat!($crate::assemble::symbol!($list $name), ":"),
                $mode,
                $code,
                // A longer program is an error here; a shorter one is padded.
                concat!(".org ", $crate::assemble::symbol!($list $name), "+", $length, ", 6"),
                ".code64",
                ".popsection",
                options(att_syntax)
            );
            $(#[$doc])*
            pub static $name: &[u8] = {
                unsafe extern "C" {
                    #[link_name = $crate::assemble::symbol!($list $name)]
                    safe static CODE: [u8; $length];
                }
                &CODE
            };
        )*
        #[cfg(test)]
        const $list: &[(&str, &&[u8])] = &[$((stringify!($name), &$name)),*];
    };
}
pub(crate) use programs;
