//! The registry of the forms of the interface, and the backend of each.

use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use kvm_sys::{Call, Fd};

use crate::bound::BoundVcpu;
use crate::files::FileVcpu;
use crate::ioctl::{self, Ioctl};
use crate::merged::MergedVcpu;
use crate::named::named;
use crate::process::BoundVm;
use crate::ranges::RangeMemory;
use crate::syscall::{self, Syscall};
use crate::{ByFd, Kvm, Result, SlotMemory, Vcpu, VmMemory};

named! {
    /// A form of the interface, in the order in which results are shown.
    pub enum Form: &'static str {
        /// The ioctls of `/dev/kvm`.
        Ioctl = "ioctl",
        /// The flat system calls.
        Syscall = "syscall",
        /// The system calls that move any parts of the state of a vCPU.
        Merged = "merged",
        /// The system calls that name guest memory by addresses.
        Ranges = "ranges",
        /// The files of a vCPU.
        Files = "files",
        /// The system calls on the vCPU that is bound to the calling task.
        Bound = "bound",
        /// The same, on a VM that is bound to the address space of the process.
        Process = "process",
    }
}

/// The reason why a form cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `/dev/kvm` cannot be used.
    #[error(transparent)]
    Ioctl(#[from] ioctl::OpenError),
    /// The kernel does not have the system calls.
    #[error(transparent)]
    Syscall(#[from] syscall::OpenError),
}

impl Form {
    /// Opens the backend of the form.
    ///
    /// # Errors
    ///
    /// If the kernel lacks the form.
    pub fn open(self) -> std::result::Result<Backend, OpenError> {
        let flat = match self {
            Self::Ioctl => Flat::Ioctl(Ioctl::open()?),
            _ => Flat::Syscall(Syscall::open()?),
        };
        Ok(Backend { form: self, flat })
    }

    /// Whether the form does the work of `call` in its own way.
    #[must_use]
    pub fn has_own(self, call: &Call) -> bool {
        match self {
            Self::Ioctl | Self::Syscall => true,
            Self::Merged => call.merged.is_some(),
            Self::Ranges => call.range.is_some(),
            Self::Files => call.file.is_some(),
            Self::Bound => call.bound.is_some(),
            // It makes VMs and vCPUs, and names them, in its own way.
            Self::Process => call.fd != Fd::System,
        }
    }

    /// Whether another call takes the place of `call` in the form.
    #[must_use]
    pub fn lacks(self, call: &Call) -> bool {
        self == Self::Ranges && call.range.is_some()
    }
}

/// The whole interface that a form builds on.
enum Flat {
    Ioctl(Ioctl),
    Syscall(Syscall),
}

/// A VM, as a form names it.
#[derive(Debug)]
pub enum Vm {
    /// By a file descriptor.
    Fd(OwnedFd),
    /// As the VM of this process.
    Bound(BoundVm),
}

impl Vm {
    /// The file descriptor, if the form has one.
    #[must_use]
    pub fn into_fd(self) -> Option<OwnedFd> {
        match self {
            Self::Fd(fd) => Some(fd),
            Self::Bound(_) => None,
        }
    }
}

impl AsFd for Vm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Fd(fd) => fd.as_fd(),
            Self::Bound(vm) => vm.as_fd(),
        }
    }
}

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// A form that is open.
///
/// It makes the calls of [`Kvm`] through the interface that the form builds on. The form
/// decides how it names vCPUs and the memory of VMs.
pub struct Backend {
    form: Form,
    flat: Flat,
}

impl Backend {
    /// The form.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// Names a VM as the form does. The form `process` binds it to the address space of
    /// this process, and closes the file descriptor.
    ///
    /// # Errors
    ///
    /// Those of [`BoundVm::bind`].
    pub fn vm(&self, fd: OwnedFd) -> Result<Vm> {
        Ok(match (&self.flat, self.form) {
            (Flat::Syscall(flat), Form::Process) => Vm::Bound(BoundVm::bind(*flat, fd.as_fd())?),
            _ => Vm::Fd(fd),
        })
    }

    /// Names a vCPU as the form does. The forms `bound` and `process` bind it to this
    /// thread.
    ///
    /// # Errors
    ///
    /// Those of [`FileVcpu::open`] or of [`BoundVcpu::bind`]. The other forms check the
    /// file descriptor at each call.
    pub fn vcpu<'a>(&'a self, fd: impl AsFd + 'a) -> Result<Box<dyn Vcpu + 'a>> {
        Ok(match (&self.flat, self.form) {
            (Flat::Syscall(flat), Form::Merged) => Box::new(MergedVcpu::new(*flat, fd)),
            (Flat::Syscall(flat), Form::Files) => Box::new(FileVcpu::open(*flat, fd)?),
            (Flat::Syscall(flat), Form::Bound | Form::Process) => {
                Box::new(BoundVcpu::bind(*flat, fd)?)
            }
            _ => Box::new(ByFd::new(&**self, fd)),
        })
    }

    /// Names the memory of a VM as the form does.
    pub fn memory<'a>(&'a self, vm: impl AsFd + 'a) -> Box<dyn VmMemory + 'a> {
        match (&self.flat, self.form) {
            (Flat::Syscall(flat), Form::Ranges) => Box::new(RangeMemory::new(*flat, vm)),
            _ => Box::new(SlotMemory::new(&**self, vm)),
        }
    }
}

impl Deref for Backend {
    type Target = dyn Kvm;

    fn deref(&self) -> &(dyn Kvm + 'static) {
        match &self.flat {
            Flat::Ioctl(kvm) => kvm,
            Flat::Syscall(kvm) => kvm,
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.form.name())
    }
}
