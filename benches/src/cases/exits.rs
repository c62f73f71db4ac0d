//! Runs of a vCPU up to an exit.

use kvm_api::ioctl::Ioctl;
use kvm_api::{Errno, RunMapping, Vcpu};
use kvm_bindings::{KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_MMIO, KVM_SYNC_X86_REGS};
use kvm_ioctls::VcpuExit;

use crate::case::Case;
use crate::fixture::{Fixture, Guest};
use crate::form::StaticForm;
use crate::guest::{Exit, Mode};
use crate::interface::ways;
use crate::peer::KvmIoctls;
use crate::workload::{Prepared, Steps};

/// `kvm_run`, by kind of exit.
pub const RUNS: &[Case] = &[
    run("kvm_run_pio_out", WRITES_PORT, Exit::PioOut, Mode::Long),
    run("kvm_run_pio_in", READS_PORT, Exit::PioIn, Mode::Long),
    run(
        "kvm_run_mmio_write",
        WRITES_MMIO,
        Exit::MmioWrite,
        Mode::Long,
    ),
    run("kvm_run_mmio_read", READS_MMIO, Exit::MmioRead, Mode::Long),
    run("kvm_run_hlt", HALTS, Exit::Hlt, Mode::Long),
    run(
        "kvm_run_pio_out_real_mode",
        WRITES_PORT,
        Exit::PioOut,
        Mode::Real,
    ),
    run(
        "kvm_run_pio_in_real_mode",
        READS_PORT,
        Exit::PioIn,
        Mode::Real,
    ),
    run(
        "kvm_run_mmio_write_real_mode",
        WRITES_MMIO,
        Exit::MmioWrite,
        Mode::Real,
    ),
    run(
        "kvm_run_mmio_read_real_mode",
        READS_MMIO,
        Exit::MmioRead,
        Mode::Real,
    ),
    run("kvm_run_hlt_real_mode", HALTS, Exit::Hlt, Mode::Real),
    IMMEDIATE_EXIT,
];

const WRITES_PORT: &str = "a run to an exit: the guest writes a port";
const READS_PORT: &str = "a run to an exit: the guest reads a port";
const WRITES_MMIO: &str = "a run to an exit: the guest writes MMIO";
const READS_MMIO: &str = "a run to an exit: the guest reads MMIO";
const HALTS: &str = "a run to an exit: the guest halts";

/// The work of a VMM that emulates an instruction.
pub const LOOPS: &[Case] = &[
    emulation_loop("emulation_loop", PORT, Exit::PioIn, Mode::Long),
    emulation_loop("emulation_loop_real_mode", PORT, Exit::PioIn, Mode::Real),
    emulation_loop("mmio_emulation_loop", MMIO, Exit::MmioRead, Mode::Long),
    emulation_loop(
        "mmio_emulation_loop_real_mode",
        MMIO,
        Exit::MmioRead,
        Mode::Real,
    ),
];

const PORT: &str = "a port exit, registers read and written";
const MMIO: &str = "an MMIO exit, registers read and written";

/// Returns KVM's reason for an exit of this kind.
fn reason(exit: Exit) -> u32 {
    match exit {
        Exit::PioOut | Exit::PioIn => KVM_EXIT_IO,
        Exit::MmioWrite | Exit::MmioRead => KVM_EXIT_MMIO,
        Exit::Hlt => KVM_EXIT_HLT,
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
        Ok(Box::new(
            steps.check(move |f, calls| f.check_rounds(guest.mode, calls)),
        ))
    }

    fn by_kvm_ioctls(kvm: &KvmIoctls, guest: Guest) -> Prepared<'_> {
        let steps = Steps::new(kvm.with_guest(guest)?, move |peer| {
            let exit = match peer.vcpu.run().unwrap() {
                VcpuExit::IoOut(..) => Exit::PioOut,
                VcpuExit::IoIn(..) => Exit::PioIn,
                VcpuExit::MmioWrite(..) => Exit::MmioWrite,
                VcpuExit::MmioRead(..) => Exit::MmioRead,
                VcpuExit::Hlt => Exit::Hlt,
                other => panic!("{other:?}"),
            };
            assert!(exit == guest.exit);
        });
        Ok(Box::new(steps.check(move |peer, calls| {
            peer.fixture.check_rounds(guest.mode, calls)
        })))
    }

    Case {
        vcpu_thread: true,
        guest: Guest { exit, mode },
        ..Case::new(
            name,
            work,
            ways![by_call => Ioctl, Syscall, Files, Bound; by_kvm_ioctls => KvmIoctls],
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
        Ok(Box::new(
            steps.check(move |f, _| f.check_rounds(guest.mode, 0)),
        ))
    }

    fn by_kvm_ioctls(kvm: &KvmIoctls, guest: Guest) -> Prepared<'_> {
        let mut peer = kvm.with_guest(guest)?;
        peer.vcpu.set_kvm_immediate_exit(1);
        let steps = Steps::new(peer, |peer| {
            let result = peer.vcpu.run();
            assert!(matches!(result, Err(e) if e.errno() == Errno::EINTR as i32));
        });
        Ok(Box::new(steps.check(move |peer, _| {
            peer.fixture.check_rounds(guest.mode, 0)
        })))
    }

    Case {
        vcpu_thread: true,
        ..Case::new(
            "kvm_run_immediate_exit",
            "a run that returns before the guest",
            ways![by_call => Ioctl, Syscall, Bound; by_kvm_ioctls => KvmIoctls],
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
        Ok(Box::new(steps.check(move |f, calls| {
            f.check_rounds(guest.mode, calls)?;
            f.check_changes(calls)
        })))
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
        Ok(Box::new(steps.check(move |f, calls| {
            f.check_rounds(guest.mode, calls)?;
            // The last change goes back with the next run.
            f.check_changes(calls - 1)
        })))
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
        Ok(Box::new(steps.check(move |peer, calls| {
            peer.fixture.check_rounds(guest.mode, calls)?;
            peer.fixture.check_changes(calls)
        })))
    }

    Case {
        vcpu_thread: true,
        guest: Guest { exit, mode },
        ..Case::new(
            name,
            work,
            ways![
                by_calls => Ioctl, Syscall, Merged, Files, Bound;
                by_sync_regs => SyncRegs;
                by_kvm_ioctls => KvmIoctls;
            ],
        )
    }
}
