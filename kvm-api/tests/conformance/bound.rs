//! A bound vCPU belongs to its task alone, until the task ends, executes another
//! program, or unbinds it.

use std::arch::asm;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use guests::{TestVm, programs};
use kvm_api::bound::BoundVcpu;
use kvm_api::kvm_sys::{
    __NR_kvm_bind, __NR_kvm_bound_get_regs, __NR_kvm_bound_run, __NR_kvm_unbind,
    KVM_SET_SIGNAL_MASK, kvm_regs,
};
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Result, kick};
use libc::c_long;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork, gettid};

use crate::Needs::AnyVcpu;
use crate::{Stage, Test};
use kvm_api::Form;

pub const TESTS: &[(Form, Test)] = &[
    of("kvm_bind::one_vcpu_a_task", one_vcpu_a_task),
    of("kvm_bind::one_task_a_vcpu", one_task_a_vcpu),
    of("kvm_bind::holds_for_a_32_bit_ioctl", by_32_bit_ioctl),
    of("kvm_bind::refuses_what_is_no_vcpu", no_vcpu),
    of("kvm_bind::keeps_the_vcpu_alive", kept_alive),
    of("kvm_bind::the_task_may_use_the_fd_too", fd_too),
    of("kvm_bind::another_vcpu_meanwhile", another_meanwhile),
    of("kvm_bind::is_shown_by_fdinfo", shown_by_fdinfo),
    of("kvm_bind::ends_with_the_thread", ends_with_thread),
    of("kvm_bind::ends_with_exec", ends_with_exec),
    of("kvm_bind::is_not_inherited", not_inherited),
    of("kvm_unbind::gives_the_vcpu_free", given_free),
    of("kvm_unbind::leaves_a_pending_exit_as_it_is", pending_exit),
];

const fn of(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Bound, (name, AnyVcpu, test))
}

/// The time limit of something that only a kick ends, in seconds.
const LIMIT: u32 = 10;
/// The time limit of a step that takes no time unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

fn raw(number: c_long, argument: c_long) -> Result<c_long> {
    // SAFETY: the calls that are made this way touch no memory but the vCPU's
    // run mapping, and registers that outlive the call.
    Errno::result(unsafe { libc::syscall(number, argument) })
}

pub fn bind(vcpu: BorrowedFd<'_>) -> Result<()> {
    raw(__NR_kvm_bind, vcpu.as_raw_fd().into()).map(drop)
}

pub fn unbind() -> Result<()> {
    raw(__NR_kvm_unbind, 0).map(drop)
}

pub fn bound_run() -> Result<()> {
    raw(__NR_kvm_bound_run, 0).map(drop)
}

fn bound_regs() -> Result<kvm_regs> {
    let mut regs = kvm_regs::default();
    raw(__NR_kvm_bound_get_regs, &raw mut regs as c_long)?;
    Ok(regs)
}

/// A machine of the witness, which binds no vCPU. No earlier test has left a vCPU
/// bound.
pub fn machine<'s>(stage: &'s Stage, program: &[u8]) -> TestVm<'s> {
    let _ = unbind();
    let mut machine = TestVm::new(&*stage.witness);
    machine.load(program);
    machine
}

/// Does something that hangs if a kick is lost. Then a signal ends the process.
pub fn limited(act: impl FnOnce()) {
    alarm::set(LIMIT);
    act();
    alarm::cancel();
}

/// A pidfd of the calling thread.
pub fn this_thread() -> OwnedFd {
    // SAFETY: the calls touch no memory, and the second gives a new descriptor.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, libc::gettid(), libc::PIDFD_THREAD);
        OwnedFd::from_raw_fd(Errno::result(fd).unwrap() as i32)
    }
}

/// The result of `f` in a new thread.
pub fn elsewhere<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(f).join().unwrap())
}

/// The calls of the kernel.
pub fn flat() -> Syscall {
    Syscall::open().unwrap()
}

fn one_vcpu_a_task(stage: &Stage) {
    let (one, other) = (machine(stage, programs::OUT), machine(stage, programs::OUT));
    assert_eq!(unbind(), Err(Errno::ENXIO));
    assert_eq!(bound_run(), Err(Errno::ENXIO));
    bind(one.vcpu()).unwrap();
    assert_eq!(bind(other.vcpu()), Err(Errno::EEXIST));
    assert_eq!(bind(one.vcpu()), Err(Errno::EEXIST));
    assert_eq!(bound_regs().unwrap().rip, guests::ENTRY);
    unbind().unwrap();
    bind(other.vcpu()).unwrap();
    unbind().unwrap();
    assert_eq!(unbind(), Err(Errno::ENXIO));
}

fn one_task_a_vcpu(stage: &Stage) {
    let machine = machine(stage, programs::SPIN);
    let vcpu = machine.vcpu();
    let (tell, told) = mpsc::channel();
    let contend = || {
        thread::scope(|scope| {
            let runs = scope.spawn(move || {
                bind(vcpu).unwrap();
                tell.send(this_thread()).unwrap();
                let result = bound_run();
                unbind().unwrap();
                result
            });
            let thread = told.recv_timeout(PATIENCE).unwrap();
            // The call returns at once, although the task is in the guest and stays there.
            for kvm in [&*stage.witness, &flat()] {
                let regs = kvm.kvm_get_regs(vcpu, &mut kvm_regs::default());
                assert_eq!(regs, Err(Errno::EBUSY));
            }
            assert_eq!(BoundVcpu::bind(flat(), vcpu).err(), Some(Errno::EBUSY));
            kick(flat(), thread.as_fd()).unwrap();
            assert_eq!(runs.join().unwrap(), Err(Errno::EINTR));
        })
    };
    limited(contend);
    let regs = &mut kvm_regs::default();
    stage.witness.kvm_get_regs(vcpu, regs).unwrap();
}

/// The ioctl by which a 32-bit program removes the signal mask of a vCPU.
fn set_no_sigmask_32(vcpu: BorrowedFd<'_>) -> Result<()> {
    const IOCTL: i32 = 54;
    let request = KVM_SET_SIGNAL_MASK as u32;
    let answer: i32;
    // SAFETY: the call touches no memory. A program of 64 bits may make it, and LLVM
    // has the register of the first argument for itself.
    unsafe {
        asm!(
            "push rbx",
            "mov ebx, edi",
            "int 0x80",
            "pop rbx",
            inout("eax") IOCTL => answer,
            in("edi") vcpu.as_raw_fd(),
            in("ecx") request,
            in("edx") 0,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    if answer < 0 {
        return Err(Errno::from_raw(-answer));
    }
    Ok(())
}

fn by_32_bit_ioctl(stage: &Stage) {
    let machine = machine(stage, programs::OUT);
    let vcpu = machine.vcpu();
    assert_eq!(set_no_sigmask_32(vcpu), Ok(()));
    bind(vcpu).unwrap();
    assert_eq!(elsewhere(|| set_no_sigmask_32(vcpu)), Err(Errno::EBUSY));
    assert_eq!(set_no_sigmask_32(vcpu), Ok(()));
    unbind().unwrap();
    assert_eq!(elsewhere(|| set_no_sigmask_32(vcpu)), Ok(()));
}

fn no_vcpu(stage: &Stage) {
    let machine = machine(stage, programs::OUT);
    let null = File::open("/dev/null").unwrap();
    assert_eq!(raw(__NR_kvm_bind, -1), Err(Errno::EBADF));
    assert_eq!(bind(null.as_fd()), Err(Errno::ENOTTY));
    assert_eq!(bind(machine.vm()), Err(Errno::ENOTTY));
    assert_eq!(bind(crate::raw::device().as_fd()), Err(Errno::EINVAL));
}

fn kept_alive(stage: &Stage) {
    let machine = machine(stage, programs::OUT);
    bind(machine.vcpu()).unwrap();
    let TestVm {
        vcpu,
        vm,
        memory,
        run,
        ..
    } = machine;
    drop((vcpu, vm));
    bound_run().unwrap();
    assert_eq!(bound_regs().unwrap().rip, guests::ENTRY + 2);
    unbind().unwrap();
    assert_eq!(bound_regs().map(drop), Err(Errno::ENXIO));
    drop((memory, run));
}

fn fd_too(stage: &Stage) {
    let mut machine = machine(stage, programs::OUT);
    bind(machine.vcpu()).unwrap();
    machine.change_regs(|regs| regs.rbx = 5);
    assert_eq!(bound_regs().unwrap().rbx, 5);
    assert_eq!(machine.run_to_out(programs::OUT_PORT), 0x2a);
    bound_run().unwrap();
    assert_eq!(bound_regs().unwrap().rip, guests::ENTRY + 5);
    unbind().unwrap();
}

fn another_meanwhile(stage: &Stage) {
    let machine = machine(stage, programs::OUT);
    bind(machine.vcpu()).unwrap();
    bound_run().unwrap();
    // Creating another vCPU loads it.
    let mut other = TestVm::new(&*stage.witness);
    other.load(programs::OUT);
    assert_eq!(other.run_to_out(programs::OUT_PORT), 0x2a);
    bound_run().unwrap();
    assert_eq!(bound_regs().unwrap().rip, guests::ENTRY + 5);
    other.run_to_hlt();
    unbind().unwrap();
}

/// The thread that a vCPU is bound to, as any process sees it; 0 if the vCPU is unbound.
fn shown(vcpu: BorrowedFd<'_>) -> i32 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", vcpu.as_raw_fd())).unwrap();
    let mut lines = info.lines();
    let pid = lines.find_map(|line| line.strip_prefix("kvm-bound-pid:\t"));
    pid.expect("a vCPU's fdinfo has it").parse().unwrap()
}

fn shown_by_fdinfo(stage: &Stage) {
    let machine = machine(stage, programs::OUT);
    let vcpu = machine.vcpu();
    assert_eq!(shown(vcpu), 0);
    bind(vcpu).unwrap();
    assert_eq!(elsewhere(|| shown(vcpu)), gettid().as_raw());
    unbind().unwrap();
    assert_eq!(shown(vcpu), 0);
    elsewhere(|| {
        bind(vcpu).unwrap();
        assert_eq!(shown(vcpu), gettid().as_raw());
    });
    assert_eq!(shown(vcpu), 0);
}

fn ends_with_thread(stage: &Stage) {
    let mut machine = machine(stage, programs::OUT);
    let vcpu = machine.vcpu.as_fd().try_clone_to_owned().unwrap();
    let thread = elsewhere(move || {
        bind(vcpu.as_fd()).unwrap();
        bound_run().unwrap();
        this_thread()
    });
    machine.run_to_hlt();
    let kicked = kick(flat(), thread.as_fd());
    assert_eq!(kicked, Err(Errno::ESRCH));
}

fn ends_with_exec(stage: &Stage) {
    let machine = machine(stage, programs::OUT);
    // The executed program is this one, which lists its tests. It would crash if the
    // vCPU's mm were freed while the vCPU is loaded.
    let status = in_child(|| {
        let child = self::machine(stage, programs::OUT);
        bind(child.vcpu()).unwrap();
        bound_run().unwrap();
        let args = [
            c"conformance".as_ptr(),
            c"--list".as_ptr(),
            std::ptr::null(),
        ];
        // SAFETY: the strings and the array live during the call.
        unsafe {
            libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO);
            libc::execv(c"/proc/self/exe".as_ptr(), args.as_ptr());
        }
        1
    });
    assert_eq!(status, 0);
    drop(machine);
}

fn not_inherited(stage: &Stage) {
    let machine = machine(stage, programs::OUT);
    bind(machine.vcpu()).unwrap();
    bound_run().unwrap();
    let status = in_child(|| {
        let errors = [bound_run(), bind(machine.vcpu())];
        i32::from(errors != [Err(Errno::ENXIO), Err(Errno::EIO)])
    });
    assert_eq!(status, 0);
    bound_run().unwrap();
    assert_eq!(bound_regs().unwrap().rip, guests::ENTRY + 5);
    unbind().unwrap();
}

/// The exit status of a child that only calls `f`.
pub fn in_child(f: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the tests run one at a time, and no other thread is active. The child ends
    // without unwinding into the frames of the parent.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            // SAFETY: the call ends the process.
            unsafe { libc::_exit(status.unwrap_or(101)) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, status) => status,
            other => panic!("{other:?}"),
        },
    }
}

fn given_free(stage: &Stage) {
    let mut machine = machine(stage, programs::OUT);
    bind(machine.vcpu()).unwrap();
    bound_run().unwrap();
    unbind().unwrap();
    let vcpu = machine.vcpu.as_fd().try_clone_to_owned().unwrap();
    elsewhere(move || {
        bind(vcpu.as_fd()).unwrap();
        assert_eq!(bound_regs().unwrap().rip, guests::ENTRY + 2);
        unbind().unwrap();
    });
    machine.run_to_hlt();
}

fn pending_exit(stage: &Stage) {
    // The vCPU exits to one interface, and another one completes the OUT, at the same RIP or
    // at another one.
    for (moved, rip) in [(0, guests::ENTRY + 5), (1, guests::ENTRY + 5)] {
        let mut machine = machine(stage, programs::OUT);
        bind(machine.vcpu()).unwrap();
        bound_run().unwrap();
        unbind().unwrap();
        machine.change_regs(|regs| regs.rip += 2 * moved);
        machine.run_to_hlt();
        assert_eq!(machine.regs().rip, rip, "moved by {moved} instructions");
    }
}
