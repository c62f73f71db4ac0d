//! Runs of a vCPU up to an exit.

use kvm_api::ioctl::Ioctl;
use kvm_api::{Errno, RunMapping, Vcpu};
use kvm_bindings::{KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_MMIO, KVM_SYNC_X86_REGS};
use kvm_ioctls::VcpuExit;

use crate::case::Case;
use crate::fixture::{Fixture, Guest};
use crate::form::StaticForm;
use crate::guest::Exit::{self, Hlt, MmioRead, MmioWrite, PioIn, PioOut};
use crate::guest::Mode::{self, Long, Real};
use crate::interface::ways;
use crate::peer::KvmIoctls;
use crate::workload::{Prepared, Steps};

/// `kvm_run`, by kind of exit.
pub const RUNS: &[Case] = &[
    run("kvm_run_pio_out", WRITES_PORT, PioOut, Long),
    run("kvm_run_pio_in", READS_PORT, PioIn, Long),
    run("kvm_run_mmio_write", WRITES_MMIO, MmioWrite, Long),
    run("kvm_run_mmio_read", READS_MMIO, MmioRead, Long),
    run("kvm_run_hlt", HALTS, Hlt, Long),
    run("kvm_run_pio_out_real_mode", WRITES_PORT, PioOut, Real),
    run("kvm_run_pio_in_real_mode", READS_PORT, PioIn, Real),
    run("kvm_run_mmio_write_real_mode", WRITES_MMIO, MmioWrite, Real),
    run("kvm_run_mmio_read_real_mode", READS_MMIO, MmioRead, Real),
    run("kvm_run_hlt_real_mode", HALTS, Hlt, Real),
    IMMEDIATE_EXIT,
];

const WRITES_PORT: &str = "a run to an exit: the guest writes a port";
const READS_PORT: &str = "a run to an exit: the guest reads a port";
const WRITES_MMIO: &str = "a run to an exit: the guest writes MMIO";
const READS_MMIO: &str = "a run to an exit: the guest reads MMIO";
const HALTS: &str = "a run to an exit: the guest halts";

/// The work of a VMM that emulates an instruction.
pub const LOOPS: &[Case] = &[
    emulation_loop("emulation_loop", PORT, PioIn, Long),
    emulation_loop("emulation_loop_real_mode", PORT, PioIn, Real),
    emulation_loop("mmio_emulation_loop", MMIO, MmioRead, Long),
    emulation_loop("mmio_emulation_loop_real_mode", MMIO, MmioRead, Real),
];

const PORT: &str = "a port exit, registers read and written";
const MMIO: &str = "an MMIO exit, registers read and written";

/// Returns KVM's reason for an exit of this kind.
fn reason(exit: Exit) -> u32 {
    match exit {
        PioOut | PioIn => KVM_EXIT_IO,
        MmioWrite | MmioRead => KVM_EXIT_MMIO,
        Hlt => KVM_EXIT_HLT,
    }
}

/// Runs the vCPU up to its next exit, which must have this reason.
#[inline(always)]
pub fn run_to<V: Vcpu>(vcpu: &V, run: &mut RunMapping, exit: u32) {
    let got = vcpu.kvm_run(run).unwrap();
    assert!(got.exit_reason() == exit, "{:?}", got.reason());
}

/// A run up to one kind of exit.
const fn run(name: &'static str, work: &'static str, exit: Exit, mode: Mode) -> Case {
    fn by_call<B: StaticForm>(form: &B, guest: Guest) -> Prepared<'_> {
        let exit = reason(guest.exit);
        let steps = Steps::new(Fixture::with_guest(form, guest)?, move |f| {
            run_to(&f.vcpu, &mut f.run, exit)
        });
        steps.check(move |f, calls| f.check_rounds(guest.mode, calls))
    }

    fn by_kvm_ioctls(kvm: &KvmIoctls, guest: Guest) -> Prepared<'_> {
        let steps = Steps::new(kvm.with_guest(guest)?, move |peer| {
            let exit = match peer.vcpu.run().unwrap() {
                VcpuExit::IoOut(..) => PioOut,
                VcpuExit::IoIn(..) => PioIn,
                VcpuExit::MmioWrite(..) => MmioWrite,
                VcpuExit::MmioRead(..) => MmioRead,
                VcpuExit::Hlt => Hlt,
                other => panic!("{other:?}"),
            };
            assert!(exit == guest.exit);
        });
        steps.check(move |peer, calls| peer.fixture.check_rounds(guest.mode, calls))
    }

    Case {
        vcpu_thread: true,
        guest: Guest { exit, mode },
        ..Case::new(
            name,
            work,
            ways![by_call => Ioctl, Syscall, Files, Bound, Process; by_kvm_ioctls => KvmIoctls],
        )
    }
}

/// `kvm_run` that returns before it enters the guest.
const IMMEDIATE_EXIT: Case = {
    fn by_call<B: StaticForm>(form: &B, guest: Guest) -> Prepared<'_> {
        let mut fixture = Fixture::with_guest(form, guest)?;
        fixture.run.set_immediate_exit(true);
        let steps = Steps::new(fixture, |f| {
            let result = f.vcpu.kvm_run(&mut f.run);
            assert!(matches!(result, Err(Errno::EINTR)));
        });
        steps.check(move |f, _| f.check_rounds(guest.mode, 0))
    }

    fn by_kvm_ioctls(kvm: &KvmIoctls, guest: Guest) -> Prepared<'_> {
        let mut peer = kvm.with_guest(guest)?;
        peer.vcpu.set_kvm_immediate_exit(1);
        let steps = Steps::new(peer, |peer| {
            let result = peer.vcpu.run();
            assert!(matches!(result, Err(e) if e.errno() == Errno::EINTR as i32));
        });
        steps.check(move |peer, _| peer.fixture.check_rounds(guest.mode, 0))
    }

    Case {
        vcpu_thread: true,
        ..Case::new(
            "kvm_run_immediate_exit",
            "a run that returns before the guest",
            ways![by_call => Ioctl, Syscall, Bound, Process; by_kvm_ioctls => KvmIoctls],
        )
    }
};

/// A run up to an exit, then the registers read, changed and written back.
const fn emulation_loop(name: &'static str, work: &'static str, exit: Exit, mode: Mode) -> Case {
    fn by_calls<B: StaticForm>(form: &B, guest: Guest) -> Prepared<'_> {
        let exit = reason(guest.exit);
        let steps = Steps::new(Fixture::with_guest(form, guest)?, move |f| {
            run_to(&f.vcpu, &mut f.run, exit);
            let mut regs = Default::default();
            f.vcpu.kvm_get_regs(&mut regs).unwrap();
            regs.r8 += 1;
            f.vcpu.kvm_set_regs(&regs).unwrap();
        });
        steps.check(move |f, calls| {
            f.check_rounds(guest.mode, calls)?;
            f.check_changes(calls)
        })
    }

    /// The registers come with the exit, in the run mapping, and go back with the next
    /// run.
    fn by_sync_regs(kvm: &Ioctl, guest: Guest) -> Prepared<'_> {
        let exit = reason(guest.exit);
        let mut fixture = Fixture::with_guest(kvm, guest)?;
        fixture.run.set_valid_regs(KVM_SYNC_X86_REGS.into());
        let steps = Steps::new(fixture, move |f| {
            run_to(&f.vcpu, &mut f.run, exit);
            let mut regs = f.run.regs();
            regs.r8 += 1;
            f.run.set_regs(&regs);
            f.run.set_dirty_regs(KVM_SYNC_X86_REGS.into());
        });
        steps.check(move |f, calls| {
            f.check_rounds(guest.mode, calls)?;
            // The last change goes back with the next run.
            f.check_changes(calls - 1)
        })
    }

    fn by_kvm_ioctls(kvm: &KvmIoctls, guest: Guest) -> Prepared<'_> {
        let steps = Steps::new(kvm.with_guest(guest)?, |peer| {
            let vcpu = &mut peer.vcpu;
            let exit = vcpu.run().unwrap();
            assert!(matches!(exit, VcpuExit::IoIn(..) | VcpuExit::MmioRead(..)));
            let mut regs = vcpu.get_regs().unwrap();
            regs.r8 += 1;
            vcpu.set_regs(&regs).unwrap();
        });
        steps.check(move |peer, calls| {
            peer.fixture.check_rounds(guest.mode, calls)?;
            peer.fixture.check_changes(calls)
        })
    }

    Case {
        vcpu_thread: true,
        guest: Guest { exit, mode },
        ..Case::new(
            name,
            work,
            ways![
                by_calls => Ioctl, Syscall, Merged, Files, Bound, Process;
                by_sync_regs => SyncRegs;
                by_kvm_ioctls => KvmIoctls;
            ],
        )
    }
}
