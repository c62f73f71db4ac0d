//! A vCPU that is bound at its first run: the answers are those of the ioctl, whatever the
//! program does with its descriptors, and whatever other threads ask for.

use std::ffi::CStr;
use std::fs;
use std::io::{Read, Write, pipe};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use guests::{TestVm, programs};
use kvm_api::kvm_sys::debug::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_DB};
use kvm_api::kvm_sys::{
    KVM_GET_MP_STATE, KVM_GET_REGS, KVM_RUN, KVM_SET_GUEST_DEBUG, kvm_guest_debug, kvm_regs,
};
use kvm_api::{Errno, Result};
use kvm_preload::{
    BIND_VARIABLE, COUNTS_VARIABLE, Counts, Event, Outcome, WITH_FD, WITHOUT_FD, hand_over,
};
use libc::{c_int, c_ulong};
use nix::sched::{CloneFlags, clone};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::files::{Files, of_parent};
use super::games::{Game, refuse_calls};
use super::{end_of_child, in_child_with};
use crate::Stage;

/// The time limit of a step that takes no time unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The time limit of a test.
const LIMIT: Duration = Duration::from_secs(120);

/// A request by the library.
fn request(fd: RawFd, request: c_ulong, arg: c_ulong) -> Result<c_int> {
    // SAFETY: the requests of these tests take numbers, or the address of a structure.
    Errno::result(unsafe { hand_over(fd, request, arg) })
}

fn run(vcpu: RawFd) -> Result<c_int> {
    request(vcpu, KVM_RUN, 0)
}

fn get_regs(vcpu: RawFd) -> Result<kvm_regs> {
    let mut regs = kvm_regs::default();
    let address = (&raw mut regs).expose_provenance() as c_ulong;
    request(vcpu, KVM_GET_REGS, address).map(|_| regs)
}

/// A request that has no call.
fn get_mp_state(vcpu: RawFd) -> Result<c_int> {
    let mut state = 0_u32;
    let address = (&raw mut state).expose_provenance() as c_ulong;
    request(vcpu, KVM_GET_MP_STATE, address)
}

/// A file of counts, for a child that binds its vCPUs.
struct Counted {
    path: PathBuf,
    mode: &'static str,
}

impl Counted {
    fn new(mode: &'static CStr) -> Self {
        let mode = mode.to_str().unwrap();
        let path = std::env::temp_dir().join(format!("counts-{mode}"));
        Counts::prepare(&path).unwrap();
        Self { path, mode }
    }

    fn in_child(&self, test: impl FnOnce()) {
        let path = self.path.to_str().unwrap();
        in_child_with(
            &[(COUNTS_VARIABLE, path), (BIND_VARIABLE, self.mode)],
            || {
                // A thread of a test that fails may wait for ever.
                // SAFETY: the call touches no memory.
                unsafe { libc::alarm(LIMIT.as_secs() as u32) };
                test();
            },
        );
    }

    fn print(&self) {
        let counts = Counts::read(&self.path).unwrap();
        print!("{}", counts.bindings);
        for line in counts.lines.iter().filter(|line| line.outcome.is_call()) {
            let name = line.call.unwrap_or_default();
            println!("{name} {:?}: {}", line.outcome, line.count);
        }
    }

    fn event(&self, event: Event) -> u64 {
        Counts::read(&self.path).unwrap().bindings.count(event)
    }

    fn outcome(&self, outcome: Outcome) -> u64 {
        let lines = Counts::read(&self.path).unwrap().lines;
        let lines = lines.iter().filter(|line| line.outcome == outcome);
        lines.map(|line| line.count).sum()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Games while another thread asks for the vCPUs from time to time.
fn games(game: &Game) {
    let played = thread::scope(|scope| scope.spawn(|| game.each_after_each()).join());
    played.unwrap();
    let (tell, told) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            for () in told {
                for name in ["a vCPU", "another vCPU"] {
                    let vcpu = game.files.named(name);
                    get_regs(vcpu).unwrap();
                    assert_eq!(get_mp_state(vcpu), Ok(0));
                }
            }
        });
        // Each in a thread of its own, which may bind a vCPU by another descriptor. The
        // other thread ends when nobody can send it a message.
        game.at_random(4, |steps| {
            let play = || game.play(steps, Some(&tell));
            thread::scope(|scope| scope.spawn(play).join()).unwrap();
        });
        drop(tell);
    });
}

/// The library sees no change of a descriptor.
pub fn with_fd(stage: &Stage) {
    let parents = of_parent(&*stage.kvm);
    let counted = Counted::new(WITH_FD);
    counted.in_child(|| {
        games(&Game::new(Files::of_child(&*stage.kvm, parents)));
    });
    counted.print();
    assert!(counted.outcome(Outcome::BoundWithFd) > 1000);
    assert_eq!(counted.outcome(Outcome::Bound), 0);
    assert!(counted.event(Event::Waited) > 0);
}

/// The library sees each change.
pub fn without_fd(stage: &Stage) {
    let parents = of_parent(&*stage.kvm);
    let counted = Counted::new(WITHOUT_FD);
    counted.in_child(|| {
        games(&Game::new(Files::of_child(&*stage.kvm, parents).watched()));
    });
    counted.print();
    assert!(counted.outcome(Outcome::Bound) > 1000);
    assert!(counted.event(Event::Waited) > 0);
}

/// Does something in each mode, on a new machine with this program.
fn in_each_mode(stage: &Stage, program: &[u8], test: impl Fn(&mut TestVm)) -> [Counted; 2] {
    [WITH_FD, WITHOUT_FD].map(|mode| {
        let counted = Counted::new(mode);
        counted.in_child(|| {
            let mut machine = TestVm::new(&*stage.kvm);
            machine.load(program);
            test(&mut machine);
        });
        counted
    })
}

/// A thread that waits outside of KVM gives its vCPU at once, and goes on waiting.
pub fn given_by_waiting(stage: &Stage) {
    let counted = in_each_mode(stage, programs::COUNT_OUT, |machine| {
        let vcpu = machine.vcpu().as_raw_fd();
        let (mut reader, mut writer) = pipe().unwrap();
        let (tell, told) = channel();
        thread::scope(move |scope| {
            let thread = scope.spawn(move || {
                run(vcpu).unwrap();
                tell.send(()).unwrap();
                let mut byte = [0];
                // Not `read_exact`, which would try again.
                let read = reader.read(&mut byte).unwrap();
                (read, byte, run(vcpu))
            });
            told.recv_timeout(PATIENCE).unwrap();
            for _ in 0..3 {
                assert_eq!(get_regs(vcpu).unwrap().rbx, 1);
                assert_eq!(get_mp_state(vcpu), Ok(0));
            }
            writer.write_all(&[7]).unwrap();
            assert_eq!(thread.join().unwrap(), (1, [7], Ok(0)));
        });
    });
    for counted in counted {
        assert_eq!(counted.event(Event::Bound), 1);
        assert_eq!(counted.event(Event::Signalled), 1);
        assert_eq!(counted.event(Event::Waited), 1);
    }
}

extern "C" fn ignore(_: c_int) {}

/// Has a signal end a run.
fn catch(signal: Signal) {
    let action = SigAction::new(
        SigHandler::Handler(ignore),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }.unwrap();
}

/// A request waits for the end of the run, which it does not cause.
pub fn run_waited_for(stage: &Stage) {
    /// Long enough for many attempts of the library.
    const A_WHILE: Duration = Duration::from_millis(300);
    /// `inc %bx; out %al,$0x11; jmp .`
    const COUNT_AND_SPIN: &[u8] = &[0x43, 0xe6, 0x11, 0xeb, 0xfe];
    let counted = in_each_mode(stage, COUNT_AND_SPIN, |machine| {
        catch(Signal::SIGUSR1);
        let vcpu = machine.vcpu().as_raw_fd();
        let (tell, told) = channel::<Pthread>();
        let answered = AtomicBool::new(false);
        thread::scope(|scope| {
            let runs = scope.spawn(move || {
                run(vcpu).unwrap();
                tell.send(pthread_self()).unwrap();
                run(vcpu)
            });
            let thread = told.recv_timeout(PATIENCE).unwrap();
            sleep(A_WHILE);
            let asks = scope.spawn(|| {
                let regs = get_regs(vcpu);
                answered.store(true, Ordering::SeqCst);
                regs
            });
            sleep(A_WHILE);
            assert!(!runs.is_finished());
            assert!(!answered.load(Ordering::SeqCst));
            let began = Instant::now();
            // The signal may come before the run.
            while !runs.is_finished() {
                assert!(began.elapsed() < PATIENCE);
                let _ = pthread_kill(thread, Signal::SIGUSR1);
                sleep(Duration::from_millis(20));
            }
            assert_eq!(runs.join().unwrap(), Err(Errno::EINTR));
            assert_eq!(asks.join().unwrap().map(|regs| regs.rbx), Ok(1));
        });
    });
    for counted in counted {
        assert_eq!(counted.event(Event::Bound), 1);
        assert_eq!(counted.event(Event::Signalled), 0);
    }
}

/// Threads that all run the vCPU see no error, and miss no exit.
pub fn turns(stage: &Stage) {
    const THREADS: usize = 3;
    const RUNS: usize = 400;
    let counted = in_each_mode(stage, programs::COUNT_OUT, |machine| {
        let vcpu = machine.vcpu().as_raw_fd();
        let runs = AtomicUsize::new(0);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let runs = &runs;
                scope.spawn(move || {
                    for turn in 0..RUNS {
                        assert_eq!(run(vcpu), Ok(0));
                        runs.fetch_add(1, Ordering::SeqCst);
                        get_regs(vcpu).unwrap();
                        if turn % (thread + 2) == 0 {
                            sleep(Duration::from_micros(100));
                        }
                    }
                });
            }
        });
        assert_eq!(runs.into_inner(), THREADS * RUNS);
        assert_eq!(get_regs(vcpu).unwrap().rbx, (THREADS * RUNS) as u64);
    });
    for counted in counted {
        assert!(counted.event(Event::Bound) > 0);
        assert!(counted.event(Event::Waited) > 0);
    }
}

/// `EBUSY` of the request itself is its answer, for each thread.
pub fn busy_by_itself(stage: &Stage) {
    in_each_mode(stage, programs::COUNT_OUT, |machine| {
        let vcpu = machine.vcpu().as_raw_fd();
        run(vcpu).unwrap();
        let inject = || {
            let mut debug = kvm_guest_debug {
                // An exception, which cannot be injected while another is pending.
                control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB,
                ..Default::default()
            };
            let address = (&raw mut debug).expose_provenance() as c_ulong;
            request(vcpu, KVM_SET_GUEST_DEBUG, address)
        };
        assert_eq!(inject(), Ok(0));
        assert_eq!(inject(), Err(Errno::EBUSY));
        let elsewhere = thread::scope(|scope| scope.spawn(inject).join());
        assert_eq!(elsewhere.unwrap(), Err(Errno::EBUSY));
        assert_eq!(inject(), Err(Errno::EBUSY));
    });
}

/// A child of `vfork`, for which the thread waits, has the memory of the thread, and may use
/// the vCPU.
pub fn before_vfork(stage: &Stage) {
    let counted = in_each_mode(stage, programs::COUNT_OUT, |machine| {
        let vcpu = machine.vcpu().as_raw_fd();
        run(vcpu).unwrap();
        kvm_preload::before_vfork();
        let child = || {
            // SAFETY: the call touches no memory. It ends a child that waits.
            unsafe { libc::alarm(PATIENCE.as_secs() as u32) };
            let answers = (get_regs(vcpu).map(|regs| regs.rbx), run(vcpu));
            (answers != (Ok(1), Ok(0))).into()
        };
        let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
        let mut stack = vec![0; 1 << 18];
        // SAFETY: the child has a stack of its own, and this thread waits until it ends.
        let child = unsafe { clone(Box::new(child), &mut stack, flags, Some(libc::SIGCHLD)) };
        let child = child.unwrap();
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        assert_eq!(run(vcpu), Ok(0));
        assert_eq!(get_regs(vcpu).unwrap().rbx, 3);
    });
    for counted in counted {
        assert_eq!(counted.event(Event::Bound), 2);
    }
}

/// A child has no bound vCPU, and the descriptors of its parent are of no use to it. It may
/// bind one of its own.
pub fn forked(stage: &Stage) {
    let counted = in_each_mode(stage, programs::COUNT_OUT, |machine| {
        let vcpu = machine.vcpu().as_raw_fd();
        run(vcpu).unwrap();
        // SAFETY: this process has one thread, and the child leaves without unwinding.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let of_parent = (get_regs(vcpu).map(drop), run(vcpu).map(drop));
                let mut own = TestVm::new(&*stage.kvm);
                own.load(programs::COUNT_OUT);
                let own_vcpu = own.vcpu().as_raw_fd();
                let ran = (run(own_vcpu), get_regs(own_vcpu).map(|regs| regs.rbx));
                let expected = ((Err(Errno::EIO), Err(Errno::EIO)), (Ok(0), Ok(1)));
                let failed = (of_parent, ran) != expected;
                // SAFETY: nothing of the parent's is touched on the way out.
                unsafe { libc::_exit(failed.into()) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            }
        }
        assert_eq!(get_regs(vcpu).unwrap().rbx, 1);
        run(vcpu).unwrap();
    });
    for counted in counted {
        assert_eq!(counted.event(Event::Bound), 2);
    }
}

/// A program that keeps the library from unbinding a vCPU gets no wrong answer: it ends with
/// a message.
pub fn ends_with_a_message(stage: &Stage) {
    let keeps_signal = "the program keeps a signal from a thread that has bound a vCPU";
    let refuses = "the kernel refuses kvm_unbind";
    let situations: [(fn(), &str); 3] = [
        (|| SigSet::all().thread_block().unwrap(), keeps_signal),
        (handle_signal, keeps_signal),
        (|| refuse_calls(libc::EPERM), refuses),
    ];
    for mode in [WITH_FD, WITHOUT_FD] {
        let mode = mode.to_str().unwrap();
        for (prepare, expected) in situations {
            let (mut errors, writer) = pipe().unwrap();
            let ended = end_of_child(&[(BIND_VARIABLE, mode)], || {
                // SAFETY: the calls touch no memory.
                unsafe {
                    libc::alarm(LIMIT.as_secs() as u32);
                    libc::dup2(writer.as_raw_fd(), libc::STDERR_FILENO);
                }
                ask_after(stage, prepare);
            });
            drop(writer);
            let mut text = String::new();
            errors.read_to_string(&mut text).unwrap();
            let aborted = matches!(ended, WaitStatus::Signaled(_, Signal::SIGABRT, _));
            assert!(aborted, "{ended:?}, not {expected:?}: {text}");
            assert!(text.contains(expected), "{text}");
        }
    }
}

/// Handles the signal that the library has chosen, as a program may by mistake.
fn handle_signal() {
    let signal = libc::SIGRTMAX();
    let handler = (ignore as extern "C" fn(c_int) as *const ()).expose_provenance();
    // SAFETY: the handler does nothing.
    assert_ne!(unsafe { libc::signal(signal, handler) }, libc::SIG_ERR);
}

/// A thread binds a vCPU, prepares something, and waits. Another one asks for the vCPU.
fn ask_after(stage: &Stage, prepare: fn()) {
    let mut machine = TestVm::new(&*stage.kvm);
    machine.load(programs::COUNT_OUT);
    let vcpu = machine.vcpu().as_raw_fd();
    let (tell, told) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            run(vcpu).unwrap();
            prepare();
            tell.send(()).unwrap();
            sleep(LIMIT);
        });
        told.recv_timeout(PATIENCE).unwrap();
        get_regs(vcpu).unwrap();
    });
}
