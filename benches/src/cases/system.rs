//! System calls that do nothing, query KVM, or create its objects.

use std::arch::asm;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use kvm_api::Kvm;
use kvm_api::kvm_sys::KVM_CAP_NR_MEMSLOTS;
use kvm_api::process::BoundVm;
use kvm_bindings::{KVM_MAX_MSR_ENTRIES, MsrList};
use kvm_ioctls::VmFd;

use crate::case::{Case, call};
use crate::interface::ways;
use crate::workload::{Plain, Steps};

/// The floor under all other cases.
pub const NULL_SYSCALL: Case = Case {
    vcpu_thread: true,
    ..Case::new(
        "null_syscall",
        "getppid(), a system call that does nothing",
        ways![|_, _| Ok(Box::new(Plain(getppid))) => Ioctl],
    )
};

/// Calls on the system, or without descriptor, and the creation of a vCPU.
pub const CALLS: &[Case] = &[
    Case {
        own_work: Some("allocates and sets up a VM"),
        ..call!(
            kvm_create_vm,
            |f| {
                let kvm = f.kvm();
                Steps::new(None, |vm| *vm = Some(kvm.kvm_create_vm().unwrap()))
                    .after(|vm| *vm = None)
            },
            |peer| {
                let kvm = peer.kvm;
                Steps::new(None, |vm| *vm = Some(kvm.create_vm().unwrap())).after(|vm| *vm = None)
            },
            process | flat | {
                Steps::new(None, move |vm| *vm = Some(BoundVm::create(flat).unwrap()))
                    .after(|vm| *vm = None)
            }
        )
    },
    Case {
        own_work: Some("copies the whole list"),
        ..call!(
            kvm_get_msr_index_list,
            |f| {
                let (kvm, dev) = (f.kvm(), dev_kvm()?);
                let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES).context("a list of MSRs")?;
                Plain(move || kvm.kvm_get_msr_index_list(dev.as_fd(), &mut list).unwrap())
            },
            |peer| {
                let kvm = peer.kvm;
                Plain(move || {
                    kvm.get_msr_index_list().unwrap();
                })
            }
        )
    },
    call!(
        kvm_get_vcpu_mmap_size,
        |f| {
            let (kvm, dev) = (f.kvm(), dev_kvm()?);
            Plain(move || {
                kvm.kvm_get_vcpu_mmap_size(dev.as_fd()).unwrap();
            })
        },
        |peer| {
            let kvm = peer.kvm;
            Plain(move || {
                kvm.get_vcpu_mmap_size().unwrap();
            })
        }
    ),
    Case {
        own_work: Some("allocates and sets up a vcpu"),
        ..call!(
            kvm_create_vcpu,
            |f| {
                let kvm = f.kvm();
                Steps::new((None, None), |(vcpu, vm)| {
                    let vm = AsFd::as_fd(vm.as_ref().expect("it was created before"));
                    *vcpu = Some(kvm.kvm_create_vcpu(vm).unwrap());
                })
                .before(|(_, vm)| *vm = Some(kvm.kvm_create_vm().unwrap()))
                .after(|created| *created = (None, None))
            },
            |peer| {
                let kvm = peer.kvm;
                Steps::new((None, None), |(vcpu, vm)| {
                    let vm: &VmFd = vm.as_ref().expect("it was created before");
                    *vcpu = Some(vm.create_vcpu(0).unwrap());
                })
                .before(|(_, vm)| *vm = Some(kvm.create_vm().unwrap()))
                .after(|created| *created = (None, None))
            },
            // The call binds the vCPU as well.
            process | flat | {
                Steps::new((None, None), |(vcpu, vm)| {
                    let vm: &BoundVm = vm.as_ref().expect("it was created before");
                    *vcpu = Some(vm.create_vcpu().unwrap());
                })
                .before(move |(_, vm)| *vm = Some(BoundVm::create(flat).unwrap()))
                .after(|created| *created = (None, None))
            }
        )
    },
    call!(
        kvm_check_extension,
        |f| {
            let kvm = f.kvm();
            Plain(move || {
                let slots = kvm.kvm_check_extension(f.vm(), KVM_CAP_NR_MEMSLOTS);
                assert!(slots.unwrap() > 0);
            })
        },
        |peer| Plain(move || {
            let slots = peer.vm.check_extension_raw(KVM_CAP_NR_MEMSLOTS.into());
            assert!(slots > 0);
        })
    ),
];

/// Opens KVM itself.
pub fn dev_kvm() -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .context("/dev/kvm")
}

/// Calls getppid(), which lmbench also takes for a system call that does nothing.
fn getppid() {
    // SAFETY: the call has no arguments and no effect.
    unsafe {
        asm!(
            "syscall",
            inlateout("eax") nix::libc::SYS_getppid as i32 => _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
}
