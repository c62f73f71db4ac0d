//! Making VMs and vcpus, and closing them again.

use std::os::fd::{AsFd, OwnedFd};

use kvm_api::Kvm;

use crate::workload::Workload;

/// A new VM.
pub struct CreateVm<'b, B> {
    kvm: &'b B,
    vm: Option<OwnedFd>,
}

impl<'b, B> CreateVm<'b, B> {
    pub fn new(kvm: &'b B) -> Self {
        Self { kvm, vm: None }
    }
}

impl<B: Kvm> Workload for CreateVm<'_, B> {
    fn apart(&self) -> bool {
        true
    }

    fn call(&mut self) {
        self.vm = Some(self.kvm.kvm_create_vm().unwrap());
    }

    fn after(&mut self) {
        self.vm = None;
    }
}

/// A new vcpu of a new VM.
pub struct CreateVcpu<'b, B> {
    kvm: &'b B,
    vm: Option<OwnedFd>,
    vcpu: Option<OwnedFd>,
}

impl<'b, B> CreateVcpu<'b, B> {
    pub fn new(kvm: &'b B) -> Self {
        Self {
            kvm,
            vm: None,
            vcpu: None,
        }
    }
}

impl<B: Kvm> Workload for CreateVcpu<'_, B> {
    fn apart(&self) -> bool {
        true
    }

    fn before(&mut self) {
        self.vm = Some(self.kvm.kvm_create_vm().unwrap());
    }

    fn call(&mut self) {
        let vm = self.vm.as_ref().expect("made before").as_fd();
        self.vcpu = Some(self.kvm.kvm_create_vcpu(vm).unwrap());
    }

    fn after(&mut self) {
        self.vcpu = None;
        self.vm = None;
    }
}
