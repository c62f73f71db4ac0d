//! A tracer that stops the task of a bound vCPU finds the state of the task, not of the
//! guest, and may change it.

use std::arch::asm;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use guests::{ENTRY, TestVm, programs};
use kvm_api::kvm_sys::{__NR_kvm_bound_run, kvm_debugregs, kvm_fpu};
use kvm_api::{Backend, SetState, State};
use libc::{c_long, c_void, user, user_regs_struct};
use nix::sys::ptrace::{self, regset::NT_PRFPREG};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::Needs::AnyVcpu;
use crate::state::merged;
use crate::{Stage, Test};
use kvm_api::Form;

pub const TESTS: &[(Form, Test)] = &[
    (Form::Bound, BETWEEN_RUNS),
    (Form::Process, BETWEEN_RUNS),
    (Form::Bound, WHILE_RUNNING),
    (Form::Process, WHILE_RUNNING),
];

const BETWEEN_RUNS: Test = ("kvm_bind::traced_between_two_runs", AnyVcpu, between_runs);
const WHILE_RUNNING: Test = (
    "kvm_bind::traced_while_the_guest_runs",
    AnyVcpu,
    while_running,
);

/// The values of the guest in vector registers, and the bases of its segments.
const GUEST_BYTE: u8 = 0xa5;
const GUEST_BASES: [u64; 2] = [0xf000, 0xe000];

/// The base of GS and the registers of a task.
const TASK_GS: u64 = 0x1234_5000;
const TASK_R12: u64 = 0x1212;
const TRACERS_R12: u64 = 0x2121;
const TRACERS_ANSWER: c_long = 77;

/// The value of DR7 for a breakpoint on a write of eight bytes at the address in DR0.
const WRITE_OF_EIGHT: u64 = 0x9_0001;
/// The `si_code` of this breakpoint.
const TRAP_HWBKPT: i32 = 4;

const ARCH_SET_GS: c_long = 0x1001;
const ARCH_GET_FS: c_long = 0x1003;

/// Long enough for a task to be in the guest.
const AWHILE: Duration = Duration::from_millis(20);

/// What the tracer watches.
static WATCHED: AtomicU64 = AtomicU64::new(0);

/// A machine whose guest has its own value in each register that the host uses, too.
fn machine<'b>(bound: &'b Backend, program: &[u8]) -> TestVm<'b> {
    let mut machine = TestVm::of_form(bound, 0);
    machine.load(program);
    machine.run.set_immediate_exit(true);
    // Values that are set before the first run do not stay.
    assert!(machine.vcpu.kvm_run(&mut machine.run).is_err());
    machine.run.set_immediate_exit(false);
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        xmm: [[GUEST_BYTE; 16]; 16],
        ..Default::default()
    };
    machine.vcpu.kvm_set_fpu(&fpu).unwrap();
    let debugregs = kvm_debugregs {
        db: [WATCHED.as_ptr().expose_provenance() as u64; 4],
        dr6: 0xffff_0ff0,
        dr7: 0xdddd_0455,
        ..Default::default()
    };
    let state = SetState::new().debugregs(&debugregs);
    merged(&machine).kvm_set_state(&state).unwrap();
    machine.change_sregs(|sregs| [sregs.fs.base, sregs.gs.base] = GUEST_BASES);
    machine
}

/// Traces a child that only calls `does`, with the form under test.
fn traced(stage: &Stage, does: impl FnOnce(&Backend)) -> Pid {
    let bound = stage.form.open().unwrap();
    // SAFETY: the tests run one at a time, and no other thread is active. The child ends
    // without unwinding into the frames of the parent.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let does = AssertUnwindSafe(|| {
                // SAFETY: nothing that is compiled uses the segment.
                unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, TASK_GS) };
                ptrace::traceme().unwrap();
                does(&bound);
            });
            let status = i32::from(catch_unwind(does).is_err());
            // SAFETY: the call ends the process.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => child,
    }
}

/// Waits until the child stops for this signal.
fn stopped(task: Pid, signal: Signal) {
    let status = waitpid(task, None).unwrap();
    assert_eq!(status, WaitStatus::Stopped(task, signal));
}

fn ends_well(task: Pid) {
    ptrace::cont(task, None).unwrap();
    assert_eq!(waitpid(task, None).unwrap(), WaitStatus::Exited(task, 0));
}

/// Asserts that the tracer sees the registers and the watchpoints of the task, and returns
/// the registers.
fn own_registers(task: Pid, watches: [u64; 2]) -> user_regs_struct {
    let regs = ptrace::getregs(task).unwrap();
    let mut fs = 0_u64;
    // SAFETY: the call writes one word.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_FS, &raw mut fs) };
    // The child inherits it from this thread.
    assert_eq!((regs.fs_base, regs.gs_base), (fs, TASK_GS));
    assert_eq!([regs.ds, regs.es, regs.fs, regs.gs], [0; 4]);
    let fpu = ptrace::getregset::<NT_PRFPREG>(task).unwrap();
    let guests = u32::from_ne_bytes([GUEST_BYTE; 4]);
    assert!(fpu.xmm_space.iter().all(|word| *word != guests));
    let debug = [0, 7].map(|n| ptrace::read_user(task, place(n)).unwrap() as u64);
    assert_eq!(debug, watches);
    regs
}

/// The offset of a debug register for ptrace(2).
fn place(n: usize) -> *mut c_void {
    ptr::without_provenance_mut(offset_of!(user, u_debugreg) + n * size_of::<u64>())
}

/// Stops the calling task with a number in a register. Returns the value of the register
/// when the task continues.
fn stop(mut r12: u64) -> u64 {
    // SAFETY: the call sends a signal that ends nothing.
    unsafe {
        asm!(
            "syscall",
            inout("rax") libc::SYS_tgkill => _,
            in("rdi") libc::getpid(),
            in("rsi") libc::gettid(),
            in("rdx") libc::SIGSTOP,
            inout("r12") r12,
            out("rcx") _,
            out("r11") _,
        );
    }
    r12
}

fn between_runs(stage: &Stage) {
    let address = WATCHED.as_ptr().expose_provenance() as u64;
    let task = traced(stage, |bound| {
        let mut machine = machine(bound, programs::OUT);
        machine.run_to_out(programs::OUT_PORT);
        assert_eq!(stop(TASK_R12), TRACERS_R12);
        // The vCPU continues where it was.
        machine.run_to_hlt();
        assert_eq!(machine.regs().rip, ENTRY + 5);
        // Until now, nothing has written to the watched word.
        stop(TASK_R12);
        WATCHED.store(1, Ordering::Relaxed);
        machine.start_at(ENTRY);
        machine.run_to_out(programs::OUT_PORT);
        WATCHED.store(2, Ordering::Relaxed);
    });
    stopped(task, Signal::SIGSTOP);
    let mut regs = own_registers(task, [0, 0]);
    assert_eq!(regs.r12, TASK_R12);
    regs.r12 = TRACERS_R12;
    ptrace::setregs(task, regs).unwrap();
    for (n, value) in [(0, address), (7, WRITE_OF_EIGHT)] {
        ptrace::write_user(task, place(n), value as c_long).unwrap();
    }
    ptrace::cont(task, None).unwrap();
    stopped(task, Signal::SIGSTOP);
    // A breakpoint of the task reads back, whether it is in the debug registers or not.
    for _ in 0..2 {
        own_registers(task, [address, WRITE_OF_EIGHT]);
        ptrace::cont(task, None).unwrap();
        stopped(task, Signal::SIGTRAP);
        let code = ptrace::getsiginfo(task).unwrap().si_code;
        assert_eq!(code, TRAP_HWBKPT);
    }
    own_registers(task, [address, WRITE_OF_EIGHT]);
    ends_well(task);
}

fn while_running(stage: &Stage) {
    let task = traced(stage, |bound| {
        let mut machine = machine(bound, programs::SPIN);
        // The call returns the value that the tracer sets.
        // SAFETY: it touches only the run mapping and the memory of the guest.
        let answer = unsafe { libc::syscall(__NR_kvm_bound_run) };
        assert_eq!(answer, TRACERS_ANSWER);
        assert_eq!(machine.regs().rip, ENTRY);
        machine.load(programs::OUT);
        machine.run_to_out(programs::OUT_PORT);
    });
    loop {
        sleep(AWHILE);
        kill(task, Signal::SIGSTOP).unwrap();
        stopped(task, Signal::SIGSTOP);
        let mut regs = ptrace::getregs(task).unwrap();
        if regs.orig_rax == __NR_kvm_bound_run as u64 {
            own_registers(task, [0, 0]);
            assert_eq!(regs.rax, -i64::from(libc::EINTR) as u64);
            regs.rax = TRACERS_ANSWER as u64;
            ptrace::setregs(task, regs).unwrap();
            break ends_well(task);
        }
        ptrace::cont(task, None).unwrap();
    }
}
