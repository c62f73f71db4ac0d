//! The backend by which a machine takes its steps, and its documented
//! differences.

use kvm_api::kvm_sys::Fd;
use kvm_api::{Backend, Errno, Form};

use crate::sequences::model::StepResult;
use crate::sequences::steps::{Step, Wrong};
use crate::trait_calls;

/// The backend by which a machine takes its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackendKind {
    /// The backend of a form other than ranges: the model names memory by slots.
    Form(Form),
    /// Ioctl or system call, as each step names it.
    Mixed,
}

/// The number of kinds: `Mixed` takes the place of the ranges.
pub const BACKENDS: usize = Form::ALL.len();

impl BackendKind {
    /// Each kind, `Mixed` last.
    pub fn all() -> [Self; BACKENDS] {
        let forms = Form::ALL.into_iter().filter(|form| *form != Form::Ranges);
        let mut kinds = forms.map(Self::Form).chain([Self::Mixed]);
        std::array::from_fn(|_| kinds.next().expect("one for each place"))
    }

    /// The result of a step, if this backend documents a result that differs from
    /// the `answer` of the others.
    pub fn own(self, step: &Step, answer: &StepResult) -> Option<StepResult> {
        let (Step::WrongFd { call, fd }, Err(Errno::ENOTTY)) = (step, answer) else {
            return None;
        };
        let (call, _) = trait_calls::nth(*call);
        let errno = match self {
            // Only a vCPU is a directory.
            Self::Form(Form::Files) => Errno::ENOTDIR,
            // The VM has no descriptor.
            Self::Form(Form::Process) if *fd == Wrong::Kind => Errno::EBADF,
            _ => return None,
        };
        (call.fd == Fd::Vcpu).then_some(Err(errno))
    }
}

/// The backend of a machine, or the two backends that take turns.
pub struct Backends {
    pub backend: BackendKind,
    flat: Backend,
    ioctl: Option<Backend>,
}

impl Backends {
    pub fn open(backend: BackendKind) -> Self {
        let open = |form: Form| form.open().expect("the kernel has all forms");
        let (flat, ioctl) = match backend {
            BackendKind::Form(form) => (open(form), None),
            BackendKind::Mixed => (open(Form::Syscall), Some(open(Form::Ioctl))),
        };
        Self {
            backend,
            flat,
            ioctl,
        }
    }

    /// The backend for a step that asks for the system call, or for the ioctl.
    pub fn pick(&self, flat: bool) -> &Backend {
        match &self.ioctl {
            Some(ioctl) if !flat => ioctl,
            _ => &self.flat,
        }
    }
}
