//! Enums whose variants have names.

/// Defines an enum, the list of its variants, and the name of each.
macro_rules! named {
    (
        $(#[$attribute:meta])*
        pub enum $enum:ident: $name_type:ty {
            $( $(#[doc = $doc:literal])* $variant:ident = $name:literal, )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $enum {
            $( $(#[doc = $doc])* $variant, )*
        }

        impl $enum {
            /// Each of them, in their order.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// The name.
            #[must_use]
            pub const fn name(self) -> $name_type {
                match self {
                    $( Self::$variant => $name, )*
                }
            }
        }
    };
}

pub(crate) use named;
