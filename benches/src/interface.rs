//! The interfaces that are compared, which are the columns of the comparison.

use kvm_api::Form;
use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::FlatCall;
use kvm_api::syscall::Syscall;

use crate::fixture::Guest;
use crate::form::{Bound, Files, Merged, Process, StaticForm};
use crate::peer::KvmIoctls;
use crate::workload::Prepared;

/// Defines the columns: their names, and the type of each when it is open.
macro_rules! columns {
    ($($(#[doc = $doc:literal])* $column:ident($open:ty) = $name:expr;)*) => {
        /// A column of the comparison.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Column {
            $($(#[doc = $doc])* $column,)*
        }

        /// The names of the columns.
        pub const INTERFACES: [&str; [$(Column::$column),*].len()] = [$($name),*];

        impl Column {
            /// Each column, in the order in which they are measured and shown.
            pub const ALL: [Self; INTERFACES.len()] = [$(Self::$column),*];

            /// Opens the interface, with its own file descriptors.
            ///
            /// # Errors
            ///
            /// If the kernel lacks it.
            pub fn open(self) -> anyhow::Result<Interface> {
                Ok(match self {
                    $(Self::$column => Interface::$column(<$open>::open()?),)*
                })
            }
        }

        /// An open interface.
        pub enum Interface {
            $($(#[doc = $doc])* $column($open),)*
        }

        /// The way in which an interface does a case.
        pub enum Way {
            $($(#[doc = $doc])* $column(for<'a> fn(&'a $open, Guest) -> Prepared<'a>),)*
        }

        impl Interface {
            /// Returns the column of the interface.
            #[must_use]
            pub fn column(&self) -> Column {
                match self {
                    $(Self::$column(_) => Column::$column,)*
                }
            }

            /// Prepares a case in its own way, if it is one of `ways`.
            #[must_use]
            pub fn prepare(&self, ways: &[Way], guest: Guest) -> Option<Prepared<'_>> {
                ways.iter().find_map(|way| match (self, way) {
                    $((Self::$column(open), Way::$column(prepare)) => Some(prepare(open, guest)),)*
                    _ => None,
                })
            }
        }
    };
}

columns! {
    /// The ioctls. All columns are compared with them.
    Ioctl(Ioctl) = Form::Ioctl.name();
    /// The flat system calls.
    Syscall(Syscall) = Form::Syscall.name();
    /// The calls that move any parts of a vCPU's state.
    Merged(Merged) = Form::Merged.name();
    /// The calls that name guest memory by addresses.
    Ranges(Syscall) = Form::Ranges.name();
    /// The files of a vCPU.
    Files(Files) = Form::Files.name();
    /// The calls on the bound vCPU.
    Bound(Bound) = Form::Bound.name();
    /// The calls on the VM of the process and on the bound vCPU.
    Process(Process) = Form::Process.name();
    /// The registers that pass with `KVM_RUN`, by `KVM_CAP_SYNC_REGS`.
    SyncRegs(Ioctl) = "sync-regs";
    /// The ioctls, by the crate that VMMs use.
    KvmIoctls(KvmIoctls) = "kvm-ioctls";
}

/// Lists the ways of a case: each function, and the columns that use it.
macro_rules! ways {
    ($($prepare:expr => $($column:ident),+);+ $(;)?) => {
        &[$($($crate::interface::Way::$column($prepare),)+)+]
    };
}

pub(crate) use ways;

impl Column {
    /// Returns the name, which is the last part of the id of a bench.
    #[must_use]
    pub const fn name(self) -> &'static str {
        INTERFACES[self as usize]
    }

    /// Returns the form, if the column has one.
    fn form(self) -> Option<Form> {
        Form::ALL
            .into_iter()
            .find(|form| form.name() == self.name())
    }

    /// Whether an unpatched kernel has the interface.
    #[must_use]
    pub fn is_stock(self) -> bool {
        self.form().is_none_or(|form| form == Form::Ioctl)
    }

    /// Whether the interface makes `call` in its own way.
    #[must_use]
    pub fn has_own(self, call: FlatCall) -> bool {
        self.form().is_none_or(|form| form.has_own(&call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_a_column() {
        let forms = Form::ALL.map(Form::name);
        assert_eq!(INTERFACES[..forms.len()], forms);
    }
}
