//! A vCPU's registers, one kind at a time and several.

use anyhow::{Context, Result, ensure};
use kvm_api::ioctl::Ioctl;
use kvm_api::{Errno, GetState, SetState, State, Vcpu};
use kvm_bindings::{
    KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_sregs,
};

use crate::case::{Case, call};
use crate::fixture::{Fixture, Guest};
use crate::form::StaticForm;
use crate::guest::{Exit, Mode};
use crate::interface::ways;
use crate::peer::KvmIoctls;
use crate::workload::{Plain, Prepared, Steps};

/// A model specific register that every KVM lets user space read and write:
/// IA32_SYSENTER_CS.
const MSR: u32 = 0x174;

/// Calls that read or write one kind of register.
pub const CALLS: &[Case] = &[
    Case {
        work: "get the general registers",
        ..call!(
            kvm_get_regs,
            |f| {
                let mut regs = f.regs()?;
                Plain(move || f.vcpu.kvm_get_regs(&mut regs).unwrap())
            },
            |peer| Plain(move || {
                peer.vcpu.get_regs().unwrap();
            })
        )
    },
    Case {
        work: "set the general registers",
        ..call!(
            kvm_set_regs,
            |f| {
                let regs = f.regs()?;
                Plain(move || f.vcpu.kvm_set_regs(&regs).unwrap())
            },
            |peer| {
                let regs = peer.vcpu.get_regs()?;
                Plain(move || peer.vcpu.set_regs(&regs).unwrap())
            }
        )
    },
    call!(
        kvm_get_sregs,
        |f| {
            let mut sregs = f.sregs()?;
            Plain(move || f.vcpu.kvm_get_sregs(&mut sregs).unwrap())
        },
        |peer| Plain(move || {
            peer.vcpu.get_sregs().unwrap();
        })
    ),
    call!(
        kvm_set_sregs,
        |f| {
            let sregs = f.sregs()?;
            Plain(move || f.vcpu.kvm_set_sregs(&sregs).unwrap())
        },
        |peer| {
            let sregs = peer.vcpu.get_sregs()?;
            Plain(move || peer.vcpu.set_sregs(&sregs).unwrap())
        }
    ),
    call!(
        kvm_get_msrs,
        |f| {
            let mut msrs = msrs()?;
            Plain(move || {
                assert!(f.vcpu.kvm_get_msrs(&mut msrs).unwrap() == 1);
            })
        },
        |peer| {
            let mut msrs = msrs()?;
            Plain(move || {
                assert!(peer.vcpu.get_msrs(&mut msrs).unwrap() == 1);
            })
        }
    ),
    call!(
        kvm_set_msrs,
        |f| {
            let msrs = msrs()?;
            Plain(move || {
                assert!(f.vcpu.kvm_set_msrs(&msrs).unwrap() == 1);
            })
        },
        |peer| {
            let msrs = msrs()?;
            Plain(move || {
                assert!(peer.vcpu.set_msrs(&msrs).unwrap() == 1);
            })
        }
    ),
    call!(
        kvm_get_fpu,
        |f| {
            let mut fpu = kvm_fpu::default();
            Plain(move || f.vcpu.kvm_get_fpu(&mut fpu).unwrap())
        },
        |peer| Plain(move || {
            peer.vcpu.get_fpu().unwrap();
        })
    ),
    call!(
        kvm_set_fpu,
        |f| {
            let mut fpu = kvm_fpu::default();
            f.vcpu.kvm_get_fpu(&mut fpu).context("kvm_get_fpu")?;
            Plain(move || f.vcpu.kvm_set_fpu(&fpu).unwrap())
        },
        |peer| {
            let fpu = peer.vcpu.get_fpu()?;
            Plain(move || peer.vcpu.set_fpu(&fpu).unwrap())
        }
    ),
];

/// General, special and floating-point registers, read and written back.
pub const WORK: &[Case] = &[Case {
    vcpu_thread: true,
    guest: Guest {
        exit: Exit::PioOut,
        mode: Mode::Long,
    },
    ..Case::new(
        "registers_read_written",
        "regs, sregs and fpu read and written",
        ways![
            by_calls => Ioctl, Syscall, Files;
            by_merged_calls => Merged, Bound;
            by_sync_regs => SyncRegs;
            by_kvm_ioctls => KvmIoctls;
        ],
    )
}];

fn by_calls<B: StaticForm>(form: &B, guest: Guest) -> Prepared<'_> {
    let (mut regs, mut sregs) = (kvm_regs::default(), kvm_sregs::default());
    let mut fpu = kvm_fpu::default();
    let steps = Steps::new(Fixture::with_guest(form, guest)?, move |f| {
        f.vcpu.kvm_get_regs(&mut regs).unwrap();
        f.vcpu.kvm_get_sregs(&mut sregs).unwrap();
        f.vcpu.kvm_get_fpu(&mut fpu).unwrap();
        regs.r8 += 1;
        f.vcpu.kvm_set_regs(&regs).unwrap();
        f.vcpu.kvm_set_sregs(&sregs).unwrap();
        f.vcpu.kvm_set_fpu(&fpu).unwrap();
    });
    steps.check(|f, calls| f.check_changes(calls))
}

fn by_merged_calls<B: StaticForm>(form: &B, guest: Guest) -> Prepared<'_>
where
    for<'k> B::Vcpu<'k>: State,
{
    let (mut regs, mut sregs) = (kvm_regs::default(), kvm_sregs::default());
    let mut fpu = kvm_fpu::default();
    let steps = Steps::new(Fixture::with_guest(form, guest)?, move |f| {
        let get = GetState::new().regs(&mut regs);
        let mut get = get.sregs(&mut sregs).fpu(&mut fpu);
        f.vcpu.kvm_get_state(&mut get).unwrap();
        regs.r8 += 1;
        let set = SetState::new().regs(&regs).sregs(&sregs).fpu(&fpu);
        f.vcpu.kvm_set_state(&set).unwrap();
    });
    steps.check(|f, calls| f.check_changes(calls))
}

/// The registers that pass with a run.
const SYNCED: u64 = (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS) as u64;

/// General and special registers are in the run mapping since the last run, and go back
/// with a run that ends before it enters the guest. `KVM_CAP_SYNC_REGS` does not pass the
/// floating-point registers.
fn by_sync_regs(kvm: &Ioctl, guest: Guest) -> Prepared<'_> {
    let mut fixture = Fixture::with_guest(kvm, guest)?;
    fixture.run.set_valid_regs(SYNCED);
    fixture.run.set_immediate_exit(true);
    sync(&mut fixture);
    let mut fpu = kvm_fpu::default();
    let steps = Steps::new(fixture, move |f| {
        let mut regs = f.run.regs();
        let sregs = f.run.sregs();
        f.vcpu.kvm_get_fpu(&mut fpu).unwrap();
        regs.r8 += 1;
        f.run.set_regs(&regs);
        f.run.set_sregs(&sregs);
        f.run.set_dirty_regs(SYNCED);
        f.vcpu.kvm_set_fpu(&fpu).unwrap();
        sync(f);
    });
    steps.check(|f, calls| {
        f.check_changes(calls)?;
        check_sregs(f)
    })
}

/// Runs without entering the guest, which loads dirty registers and stores valid ones.
#[inline(always)]
fn sync(f: &mut Fixture<'_, Ioctl>) {
    let result = f.vcpu.kvm_run(&mut f.run);
    assert!(matches!(result, Err(Errno::EINTR)));
}

/// Checks that a change of the special registers reaches the vCPU. The measured calls
/// write them unchanged.
fn check_sregs(f: &mut Fixture<'_, Ioctl>) -> Result<()> {
    let mut sregs = f.run.sregs();
    sregs.cr2 += 1;
    f.run.set_sregs(&sregs);
    f.run.set_dirty_regs(SYNCED);
    sync(f);
    let (current, stored) = (f.sregs()?, f.run.sregs());
    ensure!(
        current == sregs && stored == sregs,
        "a change of the special registers did not stay"
    );
    Ok(())
}

fn by_kvm_ioctls(kvm: &KvmIoctls, guest: Guest) -> Prepared<'_> {
    let steps = Steps::new(kvm.with_guest(guest)?, |peer| {
        let vcpu = &peer.vcpu;
        let mut regs = vcpu.get_regs().unwrap();
        let sregs = vcpu.get_sregs().unwrap();
        let fpu = vcpu.get_fpu().unwrap();
        regs.r8 += 1;
        vcpu.set_regs(&regs).unwrap();
        vcpu.set_sregs(&sregs).unwrap();
        vcpu.set_fpu(&fpu).unwrap();
    });
    steps.check(|peer, calls| peer.fixture.check_changes(calls))
}

/// A list of one MSR.
fn msrs() -> Result<Msrs> {
    let entry = kvm_msr_entry {
        index: MSR,
        ..Default::default()
    };
    Msrs::from_entries(&[entry]).context("a list of MSRs")
}
