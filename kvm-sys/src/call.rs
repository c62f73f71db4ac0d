//! The row of a call in a table, and the macro that makes a table: constants, the list
//! of the rows, and an enum of the calls.

use std::ffi::CStr;

use libc::{c_long, c_ulong};
use nix::errno::Errno;

/// One call: a row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The system call's name, as in the proposal.
    pub name: &'static str,
    /// Its number in the patched kernel.
    pub number: c_long,
    /// Its parameters in C.
    pub parameters: &'static str,
    /// The kind of its first argument.
    pub fd: Fd,
    /// The number of the call that does the same to the vCPU that is bound to the
    /// calling task, without a file descriptor.
    pub bound: Option<c_long>,
    /// The part of the state, of [`state`](crate::state), that the merged calls move
    /// in its place.
    pub merged: Option<u64>,
    /// The name of the file of the vCPU that a program reads or writes in its place.
    pub file: Option<&'static CStr>,
    /// The number of the call that takes its place in the form that names memory by
    /// addresses, not by slots.
    pub range: Option<c_long>,
    /// The ioctl that does the same, if only in 2007; empty if there never was one.
    pub ioctl: &'static str,
    /// That ioctl's request code, or `None` where Linux has none.
    pub request: Option<c_ulong>,
    /// The structure that the call or its ioctl passes.
    pub structure: Option<Structure>,
    /// The errors of the call, without those for its file descriptor and its pointers.
    pub errors: &'static [Errno],
    /// The change since 2007, or a special behaviour.
    pub note: &'static str,
}

/// The kind of file descriptor that a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fd {
    /// No descriptor.
    None,
    /// The descriptor of a virtual machine or of `/dev/kvm`.
    System,
    /// The descriptor of a virtual machine.
    Vm,
    /// The descriptor of a vCPU.
    Vcpu,
    /// The descriptor of a vCPU, or the pidfd of the task that a vCPU is bound to.
    VcpuOrTask,
}

/// A structure that passes between a program and KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Structure {
    /// Its name in C, without `struct`.
    pub name: &'static str,
    /// Its size in bytes, without the open-ended array that some end with.
    pub size: usize,
}

impl Structure {
    pub(crate) const fn of<T>(name: &'static str) -> Self {
        let size = size_of::<T>();
        Self { name, size }
    }
}

/// Makes a table. A row has the call's name, its number, and the fields of [`Call`]
/// that are not empty: `ioctl` with the macro that makes the request code, and the
/// structure of the ioctl; `removed` for an ioctl that Linux has no more; `passes` for
/// the structure of a call without an ioctl.
macro_rules! calls {
    (
        $(#[doc = $list_doc:literal])* static $list:ident;
        $(#[doc = $enum_doc:literal])* enum $enum:ident;
        $(
        $(#[doc = $doc:literal])*
        $name:ident: $nr:ident = $number:literal ($parameters:literal) on $fd:ident {
            $( bound $bound:ident = $bound_number:literal; )?
            $( merged $merged:ident; )?
            $( file $file:literal; )?
            $( range $range:ident; )?
            $( ioctl $ioctl:ident = $make:ident $code:literal $( of $argument:ident )?; )?
            $( removed $removed:ident; )?
            $( passes $structure:ident; )?
            $( errors $($errno:ident)+; )?
            $( note $note:literal; )?
        }
    )*) => {
        $(
            $(#[doc = $doc])*
            pub const $nr: c_long = $number;
            $(
                #[doc = concat!("[`", stringify!($nr), "`] of the vCPU that is bound to the caller.")]
                pub const $bound: c_long = $bound_number;
            )?
            $(
                #[doc = concat!("The ioctl that [`", stringify!($nr), "`] replaces.")]
                pub const $ioctl: c_ulong =
                    $make!($crate::requests::KVMIO, $code $(, std::mem::size_of::<$argument>())?);
            )?
        )*

        $(#[doc = $list_doc])*
        pub static $list: [$crate::Call; [$($number),*].len()] = [$(
            $crate::Call {
                name: stringify!($name),
                number: $nr,
                parameters: $parameters,
                fd: $crate::Fd::$fd,
                bound: [$(Some($bound),)? None][0],
                merged: [$(Some($merged),)? None][0],
                file: [$(Some($file),)? None][0],
                range: [$(Some($range),)? None][0],
                ioctl: concat!($(stringify!($ioctl))? $(stringify!($removed))?),
                request: [$(Some($ioctl),)? None][0],
                structure: [
                    $($(Some($crate::Structure::of::<$argument>(stringify!($argument))),)?)?
                    $(Some($crate::Structure::of::<$structure>(stringify!($structure))),)?
                    None
                ][0],
                errors: &[$($($errno),+)?],
                note: concat!($($note)?),
            },
        )*];

        $(#[doc = $enum_doc])*
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum {
            $(
                #[doc = concat!("[`", stringify!($nr), "`]")]
                $name,
            )*
        }

        impl $enum {
            /// Each of them, in the order of the table.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$name),*];

            /// The call of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|call| call.name == name)
            }

            /// Its row in the table.
            #[must_use]
            pub const fn row(self) -> &'static $crate::Call {
                &$list[self as usize]
            }
        }

        impl std::ops::Deref for $enum {
            type Target = $crate::Call;

            /// Its row in the table.
            fn deref(&self) -> &$crate::Call {
                self.row()
            }
        }
    };
}

pub(crate) use calls;
