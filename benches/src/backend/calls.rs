//! One call of the proposal at a time.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use kvm_api::kvm_sys::{FlatCall, KVM_CAP_NR_MEMSLOTS, kvm_memory_alias};
use kvm_api::{Kvm, SigSet, Vcpu};
use kvm_bindings::{
    CpuId, KVM_GUESTDBG_ENABLE, KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES,
    KVM_MEM_LOG_DIRTY_PAGES, MsrList, Msrs, kvm_fpu, kvm_guest_debug, kvm_msr_entry,
};

use super::form::StaticForm;
use super::make::{CreateVcpu, CreateVm};
use crate::fixture::Fixture;
use crate::guest::{self, VECTOR};
use crate::workload::{Plain, Set, Workload};

/// A model specific register that every KVM lets user space read and write:
/// IA32_SYSENTER_CS.
const MSR: u32 = 0x174;
/// The slot and the place of the memory that the calls about memory set.
pub const SLOT: u32 = 1;
/// See [`SLOT`].
pub const PLACE: u64 = 0x20_0000;

/// Prepares a call. The cases of [`Run`](super::run::Run) measure `kvm_run`, by exit.
pub fn prepare<B: StaticForm>(form: &B, call: FlatCall) -> Result<Option<Box<dyn Workload + '_>>> {
    let f = Fixture::new(form)?;
    let kvm = form.kvm();
    Ok(Some(match call {
        FlatCall::kvm_run => return Ok(None),
        FlatCall::kvm_create_vm => Box::new(CreateVm::new(kvm)),
        FlatCall::kvm_get_msr_index_list => {
            let dev = dev_kvm()?;
            let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES).context("a list of MSRs")?;
            Box::new(Plain(move || {
                kvm.kvm_get_msr_index_list(dev.as_fd(), &mut list).unwrap();
            }))
        }
        FlatCall::kvm_get_vcpu_mmap_size => {
            let dev = dev_kvm()?;
            Box::new(Plain(move || {
                kvm.kvm_get_vcpu_mmap_size(dev.as_fd()).unwrap();
            }))
        }
        FlatCall::kvm_set_memory_region => Box::new(Set {
            set: move |size| {
                kvm.kvm_set_memory_region(f.vm(), SLOT, 0, PLACE, size)
                    .unwrap();
            },
            size: guest::MEMORY,
        }),
        FlatCall::kvm_create_vcpu => Box::new(CreateVcpu::new(kvm)),
        FlatCall::kvm_get_dirty_log => {
            let flags = KVM_MEM_LOG_DIRTY_PAGES;
            kvm.kvm_set_memory_region(f.vm(), SLOT, flags, PLACE, guest::MEMORY)
                .context("kvm_set_memory_region")?;
            let mut bitmap = [0; (guest::MEMORY as usize >> 12).div_ceil(64)];
            Box::new(Plain(move || {
                // SAFETY: the bitmap has a bit for each of the slot's pages.
                unsafe { kvm.kvm_get_dirty_log(f.vm(), SLOT, &mut bitmap) }.unwrap();
            }))
        }
        FlatCall::kvm_get_memory_alias => {
            kvm.kvm_set_memory_alias(f.vm(), &alias(guest::MEMORY))
                .context("kvm_set_memory_alias")?;
            let mut alias = kvm_memory_alias::default();
            Box::new(Plain(move || {
                kvm.kvm_get_memory_alias(f.vm(), &mut alias).unwrap();
            }))
        }
        FlatCall::kvm_get_regs => {
            let mut regs = f.regs()?;
            Box::new(Plain(move || {
                f.vcpu.kvm_get_regs(&mut regs).unwrap();
            }))
        }
        FlatCall::kvm_set_regs => {
            let regs = f.regs()?;
            Box::new(Plain(move || f.vcpu.kvm_set_regs(&regs).unwrap()))
        }
        FlatCall::kvm_get_sregs => {
            let mut sregs = f.sregs()?;
            Box::new(Plain(move || {
                f.vcpu.kvm_get_sregs(&mut sregs).unwrap();
            }))
        }
        FlatCall::kvm_set_sregs => {
            let sregs = f.sregs()?;
            Box::new(Plain(move || f.vcpu.kvm_set_sregs(&sregs).unwrap()))
        }
        FlatCall::kvm_translate => Box::new(Plain(move || {
            let (mut physical, mut valid, mut writeable, mut usermode) = (0, 0, 0, 0);
            f.vcpu
                .kvm_translate(
                    guest::CODE,
                    &mut physical,
                    &mut valid,
                    &mut writeable,
                    &mut usermode,
                )
                .unwrap();
            assert!(physical == guest::CODE && valid == 1);
        })),
        FlatCall::kvm_interrupt => Box::new(Plain(move || f.vcpu.kvm_interrupt(VECTOR).unwrap())),
        FlatCall::kvm_debug_guest => {
            let debug = kvm_guest_debug {
                control: KVM_GUESTDBG_ENABLE,
                ..Default::default()
            };
            Box::new(Plain(move || f.vcpu.kvm_debug_guest(&debug).unwrap()))
        }
        FlatCall::kvm_get_msrs => {
            let mut msrs = msrs()?;
            Box::new(Plain(move || {
                assert!(f.vcpu.kvm_get_msrs(&mut msrs).unwrap() == 1);
            }))
        }
        FlatCall::kvm_set_msrs => {
            let msrs = msrs()?;
            Box::new(Plain(move || {
                assert!(f.vcpu.kvm_set_msrs(&msrs).unwrap() == 1);
            }))
        }
        FlatCall::kvm_set_cpuid => {
            let cpuid = supported_cpuid()?;
            Box::new(Plain(move || f.vcpu.kvm_set_cpuid(&cpuid).unwrap()))
        }
        FlatCall::kvm_set_signal_mask => {
            let mask = SigSet::empty();
            Box::new(Plain(move || {
                f.vcpu.kvm_set_signal_mask(Some(&mask)).unwrap();
            }))
        }
        FlatCall::kvm_get_fpu => {
            let mut fpu = kvm_fpu::default();
            Box::new(Plain(move || {
                f.vcpu.kvm_get_fpu(&mut fpu).unwrap();
            }))
        }
        FlatCall::kvm_set_fpu => {
            let mut fpu = kvm_fpu::default();
            f.vcpu.kvm_get_fpu(&mut fpu).context("kvm_get_fpu")?;
            Box::new(Plain(move || f.vcpu.kvm_set_fpu(&fpu).unwrap()))
        }
        FlatCall::kvm_check_extension => Box::new(Plain(move || {
            assert!(
                kvm.kvm_check_extension(f.vm(), KVM_CAP_NR_MEMSLOTS)
                    .unwrap()
                    > 0
            );
        })),
        FlatCall::kvm_set_user_memory_region => {
            let memory = kvm.kvm_map_memory(f.vm(), 0, guest::MEMORY as usize)?;
            Box::new(Set {
                set: move |size| {
                    // SAFETY: the memory is mapped as long as this closure, and so
                    // the VM, which has no vcpu that runs, is there.
                    unsafe {
                        let address = memory.as_ptr() as u64;
                        kvm.kvm_set_user_memory_region(f.vm(), SLOT, 0, PLACE, size, address)
                    }
                    .unwrap();
                },
                size: guest::MEMORY,
            })
        }
        FlatCall::kvm_set_memory_alias => Box::new(Set {
            set: move |size| kvm.kvm_set_memory_alias(f.vm(), &alias(size)).unwrap(),
            size: guest::MEMORY,
        }),
    }))
}

pub fn dev_kvm() -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .context("/dev/kvm")
}

fn alias(memory_size: u64) -> kvm_memory_alias {
    kvm_memory_alias {
        slot: 0,
        flags: 0,
        guest_phys_addr: PLACE,
        memory_size,
        target_phys_addr: 0,
    }
}

/// One MSR to read or write.
pub fn msrs() -> Result<Msrs> {
    let entry = kvm_msr_entry {
        index: MSR,
        ..Default::default()
    };
    Msrs::from_entries(&[entry]).context("a list of MSRs")
}

/// All that this KVM can show a guest of a processor.
pub fn supported_cpuid() -> Result<CpuId> {
    kvm_ioctls::Kvm::new()
        .and_then(|kvm| kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES))
        .context("KVM_GET_SUPPORTED_CPUID")
}
