//! Guest programs, assembled by the compiler.

/// Defines programs for a mode, `.code16` or `.code64`: each a name, its length
/// in bytes, the symbol for the linker, and the instructions in AT&T syntax.
/// Tests find all of them under the name of the list.
macro_rules! programs {
    ($list:ident: $mode:literal;
     $($(#[$doc:meta])* $name:ident: $length:literal = $symbol:literal, $code:literal;)*) => {
        $(
            std::arch::global_asm!(
                ".pushsection .rodata",
                concat!(".globl ", $symbol),
                concat!($symbol, ":"),
                $mode,
                $code,
                // A longer program is an error here; a shorter one is padded.
                concat!(".org ", $symbol, "+", $length, ", 6"),
                ".code64",
                ".popsection",
                options(att_syntax)
            );
            $(#[$doc])*
            pub static $name: &[u8] = {
                unsafe extern "C" {
                    #[link_name = $symbol]
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
