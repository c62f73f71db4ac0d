//! A case of the comparison: one value with all that is particular to it.

use anyhow::{Context, Result};
use kvm_api::kvm_sys::{Fd, FlatCall};

use crate::fixture::Guest;
use crate::guest::{Exit, Mode};
use crate::interface::{Interface, Way};
use crate::workload::Workload;

/// A row of the comparison.
pub struct Case {
    /// The name, which is the first part of the id of a bench.
    pub name: &'static str,
    /// The work in a few words.
    pub work: &'static str,
    /// The call's own work, if it outweighs the interface. The ratio of such a row says
    /// little about the interface.
    pub own_work: Option<&'static str>,
    /// The call of the proposal that the case measures, if it measures one alone.
    pub call: Option<FlatCall>,
    /// Whether the thread of a vCPU makes the calls while its guest runs, and not the
    /// thread that manages the VM. A case of one call has this from the table of calls.
    pub vcpu_thread: bool,
    /// The guest.
    pub guest: Guest,
    /// The number of processors that it needs.
    pub processors: u32,
    /// The interfaces that take part, each with its way. Those that do not have `call`
    /// of their own stay out.
    pub ways: &'static [Way],
}

/// The work of a case that is one call.
pub const ONE_CALL: &str = "one call";

impl Case {
    /// A case that runs a guest in real mode, if it runs one.
    #[must_use]
    pub const fn new(name: &'static str, work: &'static str, ways: &'static [Way]) -> Self {
        Self {
            name,
            work,
            own_work: None,
            call: None,
            vcpu_thread: false,
            guest: Guest {
                exit: Exit::PioOut,
                mode: Mode::Real,
            },
            processors: 1,
            ways,
        }
    }

    /// Whether the thread of a vCPU makes the calls while its guest runs.
    #[must_use]
    pub fn is_of_vcpu(&self) -> bool {
        let by_table = self.call.is_some_and(|call| call.fd == Fd::Vcpu);
        self.vcpu_thread || by_table
    }

    /// The work, and the number of processors if the case needs more than one.
    #[must_use]
    pub fn describe(&self) -> String {
        match self.processors {
            1 => self.work.into(),
            processors => format!("{}, on {processors} processors", self.work),
        }
    }

    /// Prepares the case on an interface. `None` if the interface has no part in it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a call that prepares the case.
    pub fn prepare<'a>(&self, interface: &'a Interface) -> Result<Option<Box<dyn Workload + 'a>>> {
        let column = interface.column();
        if self.call.is_some_and(|call| !column.has_own(call)) {
            return Ok(None);
        }
        let workload = interface.prepare(self.ways, self.guest).transpose();
        workload.with_context(|| format!("{}/{}", self.name, column.name()))
    }
}

/// Makes the case of one call of the proposal, from the call on a fixture by the trait
/// `Kvm` or `Vcpu`, from the call by `kvm-ioctls` if the crate has it, and from the call of
/// the form `process` if that is another one.
macro_rules! call {
    (
        $call:ident,
        |$f:ident| $ours:expr
        $(, |$peer:ident| $theirs:expr)?
        $(, process |$process:ident| $own:expr)?
        $(,)?
    ) => {{
        fn prepare<B: $crate::form::StaticForm>(
            form: &B,
            _: $crate::fixture::Guest,
        ) -> $crate::workload::Prepared<'_> {
            let $f = $crate::fixture::Fixture::new(form)?;
            Ok(Box::new($ours))
        }
        $crate::case::Case {
            call: Some(::kvm_api::kvm_sys::FlatCall::$call),
            ..$crate::case::Case::new(
                stringify!($call),
                $crate::case::ONE_CALL,
                $crate::interface::ways![
                    $(|form, _| {
                        let $process = form.0;
                        Ok(Box::new($own))
                    } => Process;)?
                    prepare => Ioctl, Syscall, Merged, Files, Bound, Process;
                    $(|kvm, _| {
                        let $peer = kvm.idle()?;
                        Ok(Box::new($theirs))
                    } => KvmIoctls)?
                ],
            )
        }
    }};
}

pub(crate) use call;
