//! The crate `kvm-ioctls`, which VMMs use today. The ioctl backend is compared with it.

use std::os::fd::{AsFd, IntoRawFd};

use anyhow::{Context, Result};
use kvm_api::ioctl::Ioctl;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::fixture::{Fixture, Guest};

/// The crate's handle, and the backend that sets up virtual machines for it.
pub struct KvmIoctls {
    kvm: Kvm,
    pub setup: Ioctl,
}

/// A fixture whose descriptors the crate has, too.
pub struct Peer<'b> {
    pub kvm: &'b Kvm,
    pub vm: VmFd,
    pub vcpu: VcpuFd,
    pub fixture: Fixture<'b, Ioctl>,
}

impl KvmIoctls {
    /// Opens `/dev/kvm` for both.
    ///
    /// # Errors
    ///
    /// If one of them cannot open it.
    pub fn open() -> Result<Self> {
        Ok(Self {
            kvm: Kvm::new().context("/dev/kvm")?,
            setup: Ioctl::open().context("/dev/kvm")?,
        })
    }

    /// Makes a virtual machine with a new vCPU and empty memory.
    pub fn idle(&self) -> Result<Peer<'_>> {
        self.wrap(Fixture::new(&self.setup)?)
    }

    /// Makes a virtual machine that is ready to run the program of `guest`.
    pub fn with_guest(&self, guest: Guest) -> Result<Peer<'_>> {
        self.wrap(Fixture::with_guest(&self.setup, guest)?)
    }

    fn wrap<'b>(&'b self, fixture: Fixture<'b, Ioctl>) -> Result<Peer<'b>> {
        let vm = self.vm(&fixture)?;
        let vcpu = fixture.vcpu.as_fd().try_clone_to_owned()?.into_raw_fd();
        // SAFETY: the descriptor is a vCPU's, and nothing else owns it.
        let vcpu = unsafe { vm.create_vcpu_from_rawfd(vcpu) }.context("the vCPU")?;
        let kvm = &self.kvm;
        Ok(Peer {
            kvm,
            vm,
            vcpu,
            fixture,
        })
    }

    /// Hands a copy of a fixture's VM descriptor to the crate.
    pub fn vm(&self, fixture: &Fixture<'_, Ioctl>) -> Result<VmFd> {
        let vm = fixture.vm.try_clone()?.into_raw_fd();
        // SAFETY: the descriptor is a VM's, and nothing else owns it.
        unsafe { self.kvm.create_vmfd_from_rawfd(vm) }.context("the VM")
    }
}
