//! The forms as types that the compiler knows, so that a case measures the call and
//! nothing else.

use std::os::fd::{AsFd, OwnedFd};

use kvm_api::bound::BoundVcpu;
use kvm_api::files::FileVcpu;
use kvm_api::ioctl::Ioctl;
use kvm_api::merged::MergedVcpu;
use kvm_api::process::{BoundVm, NoFd};
use kvm_api::syscall::Syscall;
use kvm_api::{ByFd, Kvm, Result, Vcpu};

/// An open form.
pub trait StaticForm {
    /// The interface that the form builds on.
    type Kvm: Kvm;
    /// The form's type of VM.
    type Vm: AsFd;
    /// The form's type of vCPU.
    type Vcpu<'k>: Vcpu
    where
        Self: 'k;

    /// Opens the form.
    ///
    /// # Errors
    ///
    /// If the kernel lacks it.
    fn open() -> anyhow::Result<Self>
    where
        Self: Sized;

    /// Returns the interface that the form builds on.
    fn kvm(&self) -> &Self::Kvm;

    /// Makes a VM of the form from its descriptor.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to bind the VM.
    fn vm(&self, fd: OwnedFd) -> Result<Self::Vm>;

    /// Makes a vCPU of the form from its descriptor.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to open or bind the vCPU.
    fn vcpu(&self, fd: OwnedFd) -> Result<Self::Vcpu<'_>>;
}

/// Implements [`StaticForm`] for a whole interface.
macro_rules! whole {
    ($name:ident) => {
        impl StaticForm for $name {
            type Kvm = Self;
            type Vm = OwnedFd;
            type Vcpu<'k> = ByFd<'k, Self, OwnedFd>;

            fn open() -> anyhow::Result<Self> {
                Ok(Self::open()?)
            }

            fn kvm(&self) -> &Self {
                self
            }

            fn vm(&self, fd: OwnedFd) -> Result<OwnedFd> {
                Ok(fd)
            }

            fn vcpu(&self, fd: OwnedFd) -> Result<Self::Vcpu<'_>> {
                Ok(ByFd::new(self, fd))
            }
        }
    };
}

whole! { Ioctl }
whole! { Syscall }

/// Defines a form that builds on the flat calls, with its own types of VM and vCPU.
macro_rules! on_flat {
    ($(#[doc = $doc:literal])* $name:ident:
     $vm:ty, |$vm_flat:ident, $vm_fd:ident| $make_vm:expr;
     $vcpu:ty, |$flat:ident, $fd:ident| $make:expr) => {
        $(#[doc = $doc])*
        pub struct $name(pub Syscall);

        impl StaticForm for $name {
            type Kvm = Syscall;
            type Vm = $vm;
            type Vcpu<'k> = $vcpu;

            fn open() -> anyhow::Result<Self> {
                Ok(Self(Syscall::open()?))
            }

            fn kvm(&self) -> &Syscall {
                &self.0
            }

            fn vm(&self, $vm_fd: OwnedFd) -> Result<$vm> {
                let $vm_flat = self.0;
                $make_vm
            }

            fn vcpu(&self, $fd: OwnedFd) -> Result<$vcpu> {
                let $flat = self.0;
                $make
            }
        }
    };
}

on_flat! {
    /// The merged calls.
    Merged:
    OwnedFd, |_flat, fd| Ok(fd);
    MergedVcpu<OwnedFd>, |flat, fd| Ok(MergedVcpu::new(flat, fd))
}

on_flat! {
    /// The files of a vCPU.
    Files:
    OwnedFd, |_flat, fd| Ok(fd);
    FileVcpu<OwnedFd>, |flat, fd| FileVcpu::open(flat, fd)
}

on_flat! {
    /// The calls on the bound vCPU.
    Bound:
    OwnedFd, |_flat, fd| Ok(fd);
    BoundVcpu<OwnedFd>, |flat, fd| BoundVcpu::bind(flat, fd)
}

on_flat! {
    /// The calls on the VM of the process, and on the bound vCPU. Both have no descriptor.
    Process:
    BoundVm, |flat, fd| BoundVm::bind(flat, fd.as_fd());
    BoundVcpu<NoFd>, |flat, fd| BoundVcpu::bind_and_close(flat, fd)
}
