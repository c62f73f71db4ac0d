//! Calls on a vCPU that do not move its registers, and the step of a debugger.

use anyhow::{Context, Result};
use kvm_api::{SigSet, Vcpu};
use kvm_bindings::{
    CpuId, KVM_EXIT_DEBUG, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_MAX_CPUID_ENTRIES,
    kvm_guest_debug, kvm_regs,
};

use super::exits::run_to;
use crate::case::{Case, call};
use crate::fixture::{Fixture, Guest};
use crate::form::StaticForm;
use crate::guest::{CODE, Mode, SPIN, VECTOR};
use crate::interface::ways;
use crate::workload::{Plain, Prepared, Steps};

/// Calls that control a vCPU or its guest.
pub const CALLS: &[Case] = &[
    call!(
        kvm_translate,
        |f| Plain(move || {
            let (mut physical, mut valid, mut writeable, mut usermode) = (0, 0, 0, 0);
            f.vcpu
                .kvm_translate(
                    CODE,
                    &mut physical,
                    &mut valid,
                    &mut writeable,
                    &mut usermode,
                )
                .unwrap();
            assert!(physical == CODE && valid == 1);
        }),
        |peer| Plain(move || {
            let translation = peer.vcpu.translate_gva(CODE).unwrap();
            assert!(translation.physical_address == CODE && translation.valid == 1);
        })
    ),
    call!(kvm_interrupt, |f| Plain(move || f
        .vcpu
        .kvm_interrupt(VECTOR)
        .unwrap())),
    call!(
        kvm_debug_guest,
        |f| {
            let debug = debug(KVM_GUESTDBG_ENABLE);
            Plain(move || f.vcpu.kvm_debug_guest(&debug).unwrap())
        },
        |peer| {
            let debug = debug(KVM_GUESTDBG_ENABLE);
            Plain(move || peer.vcpu.set_guest_debug(&debug).unwrap())
        }
    ),
    Case {
        own_work: Some("copies, checks and applies all of CPUID"),
        ..call!(
            kvm_set_cpuid,
            |f| {
                let cpuid = supported_cpuid()?;
                Plain(move || f.vcpu.kvm_set_cpuid(&cpuid).unwrap())
            },
            |peer| {
                let cpuid = supported_cpuid()?;
                Plain(move || peer.vcpu.set_cpuid2(&cpuid).unwrap())
            }
        )
    },
    call!(kvm_set_signal_mask, |f| {
        let mask = SigSet::empty();
        Plain(move || f.vcpu.kvm_set_signal_mask(Some(&mask)).unwrap())
    }),
];

/// A debugger's step: enable single-stepping, run one instruction, read the registers.
pub const WORK: &[Case] = &[Case::new(
    "debugger_step",
    "a guest single-stepped, registers read",
    ways![step => Ioctl, Syscall, Merged, Files, Bound, Process],
)];

fn step<B: StaticForm>(form: &B, _: Guest) -> Prepared<'_> {
    let mut regs = kvm_regs::default();
    let steps = Steps::new(Fixture::with_code(form, SPIN)?, move |f| {
        let debug = debug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
        f.vcpu.kvm_debug_guest(&debug).unwrap();
        run_to(&f.vcpu, &mut f.run, KVM_EXIT_DEBUG);
        f.vcpu.kvm_get_regs(&mut regs).unwrap();
    });
    // A round has two instructions. The first counts it.
    steps.check(|f, calls| f.check_rounds(Mode::Real, calls.div_ceil(2)))
}

fn debug(control: u32) -> kvm_guest_debug {
    kvm_guest_debug {
        control,
        ..Default::default()
    }
}

/// Everything in CPUID that this KVM supports.
fn supported_cpuid() -> Result<CpuId> {
    kvm_ioctls::Kvm::new()
        .and_then(|kvm| kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES))
        .context("KVM_GET_SUPPORTED_CPUID")
}
