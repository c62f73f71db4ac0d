//! Facts about this kernel and this processor that the model does not know:
//! read once, over ioctl.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::Result;
use kvm_api::Kvm;
use kvm_api::ioctl::Ioctl;
use kvm_api::kvm_sys::*;

use crate::errors::Others;
use crate::requests::filled;

/// Extensions that KVM has, with 1 or with a number, and extensions that it
/// does not have.
pub const EXTENSIONS: [u32; 6] = [0, 3, 9, 10, 0x4b56, 9999];

pub struct Facts {
    pub slots: u32,
    pub msrs: Vec<u32>,
    pub mmap_size: usize,
    pub extensions: BTreeMap<u32, i32>,
    /// The initial registers of a vCPU.
    pub regs: kvm_regs,
    pub fcw: u16,
    /// A machine of another process.
    others: Mutex<Option<Arc<Others>>>,
}

static FACTS: OnceLock<Facts> = OnceLock::new();

impl Facts {
    /// Reads the facts. Must be called first.
    pub fn find() -> Result<()> {
        let kvm = Ioctl::open()?;
        let vm = kvm.kvm_create_vm()?;
        let vcpu = kvm.kvm_create_vcpu(vm.as_fd())?;
        let mut msrs = MsrList::new(KVM_MAX_MSR_ENTRIES)?;
        kvm.kvm_get_msr_index_list(vm.as_fd(), &mut msrs)?;
        let mut extensions = BTreeMap::new();
        for extension in EXTENSIONS {
            let answer = kvm.kvm_check_extension(vm.as_fd(), extension)?;
            extensions.insert(extension, answer);
        }
        let fpu: kvm_fpu = filled(|fpu| kvm.kvm_get_fpu(vcpu.as_fd(), fpu))?;
        let facts = Self {
            slots: kvm.kvm_check_extension(vm.as_fd(), KVM_CAP_NR_MEMSLOTS)? as u32,
            msrs: msrs.as_slice().to_vec(),
            mmap_size: kvm.kvm_get_vcpu_mmap_size(vm.as_fd())?,
            extensions,
            regs: filled(|regs| kvm.kvm_get_regs(vcpu.as_fd(), regs))?,
            fcw: fpu.fcw,
            others: Mutex::new(Some(Arc::new(Others::make(&kvm)?))),
        };
        FACTS.get_or_init(|| facts);
        Ok(())
    }

    pub fn get() -> &'static Self {
        FACTS.get().expect("Facts::find() comes first")
    }

    pub fn others(&self) -> Arc<Others> {
        let others = self.others.lock().expect("no thread panics with the lock");
        others.clone().expect("sequences are not over")
    }

    pub fn close(&self) {
        *self.others.lock().expect("no thread panics with the lock") = None;
    }
}
