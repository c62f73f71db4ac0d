//! The VM of an address space belongs to all that share it, and ends with it.

use std::fs::{self, OpenOptions};
use std::hint::black_box;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use guests::{TestVm, programs};
use kvm_api::bound::BoundVcpu;
use kvm_api::kvm_sys::{
    __NR_kvm_bound_mmap, __NR_kvm_unbind_vm, KVM_CAP_NR_MEMSLOTS, kvm_regs, kvm_sregs,
};
use kvm_api::process::{BoundVm, NoFd};
use kvm_api::{Errno, Form, GuestMemory, Kvm, Reason, RunMapping, Vcpu};
use nix::sys::ptrace;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, chdir, execv, fork, gettid, pipe};

use crate::Needs::AnyVcpu;
use crate::bound::{bind, bound_run, elsewhere, flat, unbind};
use crate::raw::device;
use crate::{Stage, Test};

pub const TESTS: &[(Form, Test)] = &[
    of("kvm_create_bound_vm::needs_no_descriptor", no_descriptor),
    of("kvm_create_bound_vm::one_vm_an_address_space", one_vm),
    of("kvm_create_bound_vcpu::has_the_lowest_free_id", lowest_id),
    of("kvm_create_bound_vcpu::one_vcpu_a_task", one_vcpu),
    of("kvm_bind_vm::refuses_what_is_no_vm", no_vm),
    of("kvm_bind_vm::keeps_the_vm_alive", kept_alive),
    of("kvm_unbind_vm::ends_the_vm", ended_by_unbind),
    of("kvm_unbind_vm::leaves_mapped_vcpus", mapped_vcpu),
    of("kvm_map_memory::maps_without_a_descriptor", mapped_memory),
    of("bound_vm::belongs_to_all_threads", all_threads),
    of("bound_vm::is_not_inherited_by_fork", not_forked),
    of("bound_vm::is_shared_by_vfork", shared_by_vfork),
    of(
        "bound_vm::outlives_the_process_that_made_it",
        outlives_maker,
    ),
    of("bound_vm::ends_with_exec", ended_by_exec),
    of("bound_vm::ends_with_the_last_task", ended_by_exit),
    of(
        "bound_vm::ends_with_the_last_thread",
        ended_by_exit_of_threads,
    ),
    of("bound_vm::ends_after_a_core_dump", ended_by_core_dump),
    of("bound_vm::ends_after_an_oom_kill", ended_by_oom_kill),
    of("bound_vm::belongs_to_a_traced_task", traced),
    of("bound_vm::is_shown_in_status", shown_in_status),
];

const fn of(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Process, (name, AnyVcpu, test))
}

/// The time limit of a child, in seconds.
const LIMIT: u32 = 300;
/// The address and the size of the memory of a VM, which the kernel allocates.
const AT: u64 = 0x10_0000;
const SIZE: usize = 32 << 20;
/// The slot of the memory of a guest that runs.
const SLOT: u32 = 7;

/// Removes what an earlier test has left bound.
fn tidy() {
    let _ = unbind();
    // SAFETY: the call touches no memory.
    unsafe { libc::syscall(__NR_kvm_unbind_vm) };
}

/// Asks the VM of the address space something.
fn asked() -> Result<i32, Errno> {
    // SAFETY: the number is no descriptor, so nothing closes it.
    let vm = unsafe { BorrowedFd::borrow_raw(kvm_api::kvm_sys::KVM_BOUND_VM) };
    flat().kvm_check_extension(vm, KVM_CAP_NR_MEMSLOTS)
}

fn unbind_vm() -> Result<(), Errno> {
    // SAFETY: the call touches no memory.
    Errno::result(unsafe { libc::syscall(__NR_kvm_unbind_vm) }).map(drop)
}

/// The exit status of `does` in a child, 1 if it panics.
fn in_child(does: impl FnOnce()) -> WaitStatus {
    ended(child(does))
}

/// The exit status of a child. A signal ends a child that stays.
fn ended(child: Pid) -> WaitStatus {
    let end = Instant::now() + Duration::from_secs(LIMIT.into());
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive => thread::sleep(Duration::from_millis(10)),
            status => return status,
        }
        if Instant::now() > end {
            kill(child, Signal::SIGKILL).unwrap();
            let status = waitpid(child, None).unwrap();
            panic!("the child has not ended, but stayed until a signal: {status:?}");
        }
    }
}

fn child(does: impl FnOnce()) -> Pid {
    // SAFETY: the tests run one at a time. The child ends without unwinding into the
    // frames of the parent.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            alarm::set(LIMIT);
            let status = i32::from(catch_unwind(AssertUnwindSafe(does)).is_err());
            // SAFETY: the call ends the process.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => child,
    }
}

#[track_caller]
fn succeeds(status: WaitStatus) {
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
}

/// Makes a VM of this process, and runs a guest in it until it halts.
fn run_guest() {
    let vm = BoundVm::create(flat()).unwrap();
    run_guest_of(&vm);
}

fn run_guest_of(vm: &BoundVm) {
    let memory = load(vm, programs::OUT);
    {
        let (vcpu, mut run) = new_vcpu(vm);
        let exit = vcpu.kvm_run(&mut run).unwrap();
        let mut data = [0];
        assert_eq!(exit.read_data(&mut data), 1);
        assert_eq!(data, [0x2a]);
        let exit = vcpu.kvm_run(&mut run).unwrap();
        assert_eq!(exit.reason(), Reason::Hlt);
    }
    // SAFETY: a slot that is deleted needs no memory.
    unsafe { flat().kvm_set_user_memory_region(vm.as_fd(), SLOT, 0, 0, 0, 0) }.unwrap();
    drop(memory);
}

/// Gives the VM a program, and memory for it, which has to stay as long as the slot.
fn load(vm: &BoundVm, program: &[u8]) -> GuestMemory {
    let mut memory = GuestMemory::anonymous(guests::MEMORY).unwrap();
    memory.write(guests::ENTRY as usize, program).unwrap();
    let address = memory.as_ptr().expose_provenance() as u64;
    let size = guests::MEMORY as u64;
    // SAFETY: the callers keep the memory.
    unsafe { flat().kvm_set_user_memory_region(vm.as_fd(), SLOT, 0, 0, size, address) }.unwrap();
    memory
}

/// Makes a vCPU of this thread, at the start of the program.
fn new_vcpu(vm: &BoundVm) -> (BoundVcpu<NoFd>, RunMapping) {
    let vcpu = vm.create_vcpu().unwrap();
    let run = vm.map_run(&vcpu).unwrap();
    let mut sregs = kvm_sregs::default();
    vcpu.kvm_get_sregs(&mut sregs).unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.kvm_set_sregs(&sregs).unwrap();
    let regs = kvm_regs {
        rip: guests::ENTRY,
        rflags: 2,
        ..Default::default()
    };
    vcpu.kvm_set_regs(&regs).unwrap();
    (vcpu, run)
}

/// Runs a guest in the VM on a new thread, as long as the process lives. Returns when the
/// guest runs.
fn keep_running(vm: BoundVm) {
    let memory = load(&vm, programs::COUNT);
    thread::spawn(move || {
        let (vcpu, mut run) = new_vcpu(&vm);
        let _ = vcpu.kvm_run(&mut run);
        // Only a signal ends the run, and the process with it.
        std::mem::forget((vm, vcpu, run));
    });
    let mut count = [0; 4];
    while count == [0; 4] {
        thread::sleep(Duration::from_millis(1));
        memory.read(programs::COUNTER, &mut count).unwrap();
    }
    std::mem::forget(memory);
}

/// Gives the VM memory, all of it in use. No mapping of it stays.
fn fill(vm: &BoundVm) {
    let vm = vm.as_fd();
    let kernel = flat();
    kernel
        .kvm_set_memory_region(vm, 1, 0, AT, SIZE as u64)
        .unwrap();
    let mut memory = kernel.kvm_map_memory(vm, AT, SIZE).unwrap();
    for page in (0..SIZE).step_by(0x1000) {
        memory.write(page, &[1]).unwrap();
    }
}

/// The kernel's shared memory, in bytes.
fn shared_memory() -> usize {
    let info = fs::read_to_string("/proc/meminfo").unwrap();
    let line = info.lines().find(|line| line.starts_with("Shmem:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.expect("Linux counts it").parse::<usize>().unwrap() << 10
}

/// Waits until VMs with their memory have gone, since there was `before`. The kernel may
/// free a VM a moment after its last user has gone.
#[track_caller]
fn gone(before: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    while shared_memory() > before + SIZE / 2 {
        assert!(Instant::now() < end, "the memory of the VM is still there");
        thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn there(before: usize) {
    assert!(shared_memory() > before + SIZE / 2, "the VM has no memory");
}

fn no_descriptor(_: &Stage) {
    succeeds(in_child(|| {
        // SAFETY: the child uses none of them.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
        let vm = BoundVm::create(flat()).unwrap();
        run_guest_of(&vm);
        let vcpu = vm.create_vcpu().unwrap();
        let _run = vm.map_run(&vcpu).unwrap();
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let open = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        let of_kvm: Vec<_> = open
            .filter(|file| file.to_string_lossy().contains("kvm"))
            .collect();
        assert!(of_kvm.is_empty(), "{of_kvm:?}");
    }));
}

fn one_vm(stage: &Stage) {
    tidy();
    assert_eq!(unbind_vm(), Err(Errno::ENXIO));
    assert_eq!(asked(), Err(Errno::EBADF));
    let vm = BoundVm::create(flat()).unwrap();
    assert!(asked().unwrap() > 0);
    assert_eq!(BoundVm::create(flat()).err(), Some(Errno::EEXIST));
    let other = stage.witness.kvm_create_vm().unwrap();
    let bound = BoundVm::bind(flat(), other.as_fd());
    assert_eq!(bound.err(), Some(Errno::EEXIST));
    drop(vm);
    assert_eq!(asked(), Err(Errno::EBADF));
    drop(BoundVm::bind(flat(), other.as_fd()).unwrap());
    assert_eq!(unbind_vm(), Err(Errno::ENXIO));
}

fn lowest_id(_: &Stage) {
    tidy();
    let vm = BoundVm::create(flat()).unwrap();
    // The vCPU stays in the VM.
    drop(vm.create_vcpu().unwrap());
    let next = flat().kvm_create_vcpu(vm.as_fd()).unwrap();
    assert_eq!(vcpu_name(&next), "kvm-vcpu:1");
}

/// The name of a vCPU, which has its id.
fn vcpu_name(vcpu: &OwnedFd) -> String {
    let link = fs::read_link(format!("/proc/self/fd/{}", vcpu.as_raw_fd())).unwrap();
    let link = link.to_string_lossy();
    let (_, name) = link.rsplit_once("kvm-vcpu").expect("it is a vCPU");
    format!("kvm-vcpu{}", name.split(' ').next().unwrap_or(name))
}

fn one_vcpu(stage: &Stage) {
    tidy();
    let other = TestVm::new(&*stage.witness);
    let vm = BoundVm::create(flat()).unwrap();
    let vcpu = vm.create_vcpu().unwrap();
    assert_eq!(vm.create_vcpu().err(), Some(Errno::EEXIST));
    // The failure has created nothing.
    let next = flat().kvm_create_vcpu(vm.as_fd()).unwrap();
    assert_eq!(vcpu_name(&next), "kvm-vcpu:1");
    assert_eq!(bind(other.vcpu()), Err(Errno::EEXIST));
    // No call on a descriptor takes the vCPU.
    let regs = flat().kvm_get_regs(vcpu.as_fd(), &mut kvm_regs::default());
    assert_eq!(regs, Err(Errno::EBADF));
    drop(vcpu);
    assert_eq!(bound_run(), Err(Errno::ENXIO));
    // SAFETY: the call fails.
    let mapped = Errno::result(unsafe { libc::syscall(__NR_kvm_bound_mmap) });
    assert_eq!(mapped, Err(Errno::ENXIO));
}

fn no_vm(stage: &Stage) {
    tidy();
    let machine = TestVm::new(&*stage.witness);
    let (reader, _writer) = pipe().unwrap();
    let refused = |fd: BorrowedFd<'_>| BoundVm::bind(flat(), fd).err().unwrap();
    assert_eq!(refused(reader.as_fd()), Errno::ENOTTY);
    assert_eq!(refused(device().as_fd()), Errno::EINVAL);
    assert_eq!(refused(machine.vcpu()), Errno::EINVAL);
    succeeds(in_child(|| assert_eq!(refused(machine.vm()), Errno::EIO)));
    assert_eq!(asked(), Err(Errno::EBADF));
}

fn kept_alive(stage: &Stage) {
    tidy();
    let vm = stage.witness.kvm_create_vm().unwrap();
    let bound = BoundVm::bind(flat(), vm.as_fd()).unwrap();
    drop(vm);
    run_guest_of(&bound);
}

fn ended_by_unbind(_: &Stage) {
    tidy();
    let before = shared_memory();
    let vm = BoundVm::create(flat()).unwrap();
    fill(&vm);
    there(before);
    drop(vm);
    gone(before);
}

fn mapped_vcpu(_: &Stage) {
    tidy();
    let before = shared_memory();
    let vm = BoundVm::create(flat()).unwrap();
    fill(&vm);
    let vcpu = vm.create_vcpu().unwrap();
    let run = vm.map_run(&vcpu).unwrap();
    drop(vm);
    drop(vcpu);
    there(before);
    drop(run);
    gone(before);
}

fn mapped_memory(_: &Stage) {
    tidy();
    let vm = BoundVm::create(flat()).unwrap();
    let (kernel, vm) = (flat(), vm.as_fd());
    kernel.kvm_set_memory_region(vm, 1, 0, AT, 0x2000).unwrap();
    let mut one = kernel.kvm_map_memory(vm, AT, 0x2000).unwrap();
    let second = kernel.kvm_map_memory(vm, AT + 0x1000, 0x1000).unwrap();
    one.write(0x1000, &[7]).unwrap();
    let mut found = [0];
    second.read(0, &mut found).unwrap();
    assert_eq!(found, [7]);
    let beyond = kernel.kvm_map_memory(vm, AT, 0x3000);
    assert_eq!(beyond.err(), Some(Errno::ENODEV));
}

fn all_threads(_: &Stage) {
    tidy();
    let vm = BoundVm::create(flat()).unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| drop(vm.create_vcpu().unwrap()));
        }
        scope.spawn(|| run_guest_of(&vm));
    });
    // One thread unbinds it for all.
    thread::scope(|scope| scope.spawn(unbind_vm).join().unwrap()).unwrap();
    assert_eq!(asked(), Err(Errno::EBADF));
}

fn not_forked(_: &Stage) {
    tidy();
    let vm = BoundVm::create(flat()).unwrap();
    succeeds(in_child(|| {
        assert_eq!(asked(), Err(Errno::EBADF));
        assert_eq!(unbind_vm(), Err(Errno::ENXIO));
        run_guest();
    }));
    run_guest_of(&vm);
}

/// The status of a child that shares the address space, and does `act`.
///
/// # Safety
///
/// `act` must not use the C library's state of the thread.
unsafe fn sharing(flags: libc::c_int, act: extern "C" fn(*mut libc::c_void) -> libc::c_int) -> Pid {
    const STACK: usize = 256 << 10;
    // The child may outlive this function, so its stack is never freed.
    let stack = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    let flags = flags | libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the stack is the child's own. The caller answers for `act`.
    let child = unsafe {
        let top = stack.as_mut_ptr().add(STACK);
        libc::clone(act, top.cast(), flags, std::ptr::null_mut())
    };
    Pid::from_raw(Errno::result(child).unwrap())
}

/// Asks the VM, which a child does that shares the address space.
extern "C" fn asks(_: *mut libc::c_void) -> libc::c_int {
    i32::from(asked().is_err())
}

fn shared_by_vfork(_: &Stage) {
    tidy();
    let vm = BoundVm::create(flat()).unwrap();
    // SAFETY: the child makes a system call only.
    let child = unsafe { sharing(libc::CLONE_VFORK, asks) };
    succeeds(waitpid(child, None).unwrap());
    // The end of the child is not that of the address space.
    assert!(asked().is_ok());
    drop(vm);
    // SAFETY: as above.
    let child = unsafe { sharing(libc::CLONE_VFORK, asks) };
    let status = waitpid(child, None).unwrap();
    assert!(matches!(status, WaitStatus::Exited(_, 1)), "{status:?}");
}

/// Waits until the parent has gone, and asks the VM.
extern "C" fn asks_later(_: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the calls touch no memory.
    unsafe {
        while libc::getppid() != ADOPTER.load(std::sync::atomic::Ordering::Relaxed) {
            libc::usleep(1000);
        }
    }
    asks(std::ptr::null_mut())
}

/// The process that adopts an orphan.
static ADOPTER: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);

fn outlives_maker(_: &Stage) {
    // This process adopts the orphan, and so learns its status.
    // SAFETY: the call touches no memory.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let before = shared_memory();
    let adopter = std::process::id() as i32;
    ADOPTER.store(adopter, std::sync::atomic::Ordering::Relaxed);
    let maker = child(|| {
        let vm = BoundVm::create(flat()).unwrap();
        fill(&vm);
        std::mem::forget(vm);
        // SAFETY: the child makes system calls only.
        unsafe { sharing(0, asks_later) };
    });
    succeeds(waitpid(maker, None).unwrap());
    succeeds(waitpid(None, None).unwrap());
    gone(before);
    // SAFETY: as above.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 0) };
}

/// Fills a pipe, so that the next write to it waits.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = pipe().unwrap();
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    let mut again = options.open(path).unwrap();
    while again.write(&[0; 0x1000]).is_ok() {}
    (reader, writer)
}

fn ended_by_exec(_: &Stage) {
    let before = shared_memory();
    let (reader, writer) = full_pipe();
    let listing = child(|| {
        let vm = BoundVm::create(flat()).unwrap();
        fill(&vm);
        there(before);
        std::mem::forget((vm.create_vcpu().unwrap(), vm));
        // The program waits when it lists its tests.
        // SAFETY: the call replaces standard output by the pipe.
        unsafe { libc::dup2(writer.as_raw_fd(), 1) };
        execv(c"/proc/self/exe", &[c"conformance", c"--list"]).unwrap();
    });
    // It has the memory first, and then lists.
    while fs::read(format!("/proc/{listing}/cmdline")).unwrap() != *b"conformance\0--list\0" {
        thread::sleep(Duration::from_millis(10));
    }
    gone(before);
    let running = waitpid(listing, Some(WaitPidFlag::WNOHANG)).unwrap();
    assert_eq!(running, WaitStatus::StillAlive);
    drop(writer);
    let mut output = Vec::new();
    std::io::Read::read_to_end(&mut fs::File::from(reader), &mut output).unwrap();
    succeeds(waitpid(listing, None).unwrap());
}

/// What a child has beside its VM when it ends.
#[derive(Clone, Copy)]
enum With {
    /// A vCPU that is bound to the thread that ends the child.
    BoundVcpu,
    /// A vCPU that is bound to another thread, and in the guest.
    RunningVcpu,
    /// A vCPU with a descriptor, which has run.
    Descriptor,
}

/// The status of a child that ends with a VM and a vCPU, after it has done `act`. `tidy`
/// removes what it leaves. Then the VM has gone.
fn ends(with: With, act: impl FnOnce(), tidy: impl FnOnce()) -> WaitStatus {
    let before = shared_memory();
    let status = in_child(|| {
        let vm = BoundVm::create(flat()).unwrap();
        fill(&vm);
        there(before);
        match with {
            With::BoundVcpu => std::mem::forget((new_vcpu(&vm), vm)),
            With::RunningVcpu => keep_running(vm),
            With::Descriptor => {
                let vcpu = flat().kvm_create_vcpu(vm.as_fd()).unwrap();
                let size = flat().kvm_get_vcpu_mmap_size(vm.as_fd()).unwrap();
                let mut run = RunMapping::new(vcpu.as_fd(), size).unwrap();
                run.set_immediate_exit(true);
                let ran = flat().kvm_run(vcpu.as_fd(), &mut run);
                assert_eq!(ran.err(), Some(Errno::EINTR));
                std::mem::forget((run, vcpu, vm));
            }
        }
        act();
    });
    tidy();
    gone(before);
    status
}

fn ended_by_exit(_: &Stage) {
    for with in [With::BoundVcpu, With::RunningVcpu, With::Descriptor] {
        succeeds(ends(with, || (), || ()));
    }
}

/// Ends the calling thread alone.
fn exit_thread(code: i32) {
    // SAFETY: nothing in the child waits for the thread.
    unsafe { libc::syscall(libc::SYS_exit, code) };
}

/// The worker that KVM has for a VM is a thread of the process, but no reason to live.
fn ended_by_exit_of_threads(_: &Stage) {
    for with in [With::BoundVcpu, With::Descriptor] {
        let one = ends(with, || exit_thread(5), || ());
        assert!(matches!(one, WaitStatus::Exited(_, 5)), "{one:?}");
        let both = || {
            let main = gettid();
            thread::spawn(move || {
                // The thread is the last one.
                let state = format!("/proc/{main}/task/{main}/stat");
                while !fs::read_to_string(&state).unwrap().contains(") Z ") {
                    thread::sleep(Duration::from_millis(1));
                }
                exit_thread(6);
            });
            exit_thread(5);
        };
        let both = ends(with, both, || ());
        assert!(matches!(both, WaitStatus::Exited(_, 6)), "{both:?}");
    }
}

fn ended_by_core_dump(_: &Stage) {
    let dir = std::env::temp_dir().join("kvm-core-dump");
    let dump = || {
        chdir(&dir).unwrap();
        let all = libc::RLIM_INFINITY;
        setrlimit(Resource::RLIMIT_CORE, all, all).unwrap();
        raise(Signal::SIGQUIT).unwrap();
    };
    for with in [With::BoundVcpu, With::RunningVcpu] {
        fs::create_dir_all(&dir).unwrap();
        let mut files = 0;
        let status = ends(with, dump, || {
            files = fs::read_dir(&dir).unwrap().count();
            // Temporary files may be shared memory.
            fs::remove_dir_all(&dir).unwrap();
        });
        let dumped = matches!(status, WaitStatus::Signaled(_, Signal::SIGQUIT, true));
        assert!(dumped && files == 1, "{status:?}, {files} files");
    }
}

fn ended_by_oom_kill(_: &Stage) {
    const CHUNK: usize = 16 << 20;
    let exhaust = || {
        fs::write("/proc/self/oom_score_adj", "1000").unwrap();
        // Private memory: the OOM killer frees it before the process has ended. Without it,
        // the end of a VM, which allocates, waits for memory that the same task frees later.
        loop {
            let mut memory = vec![0_u8; CHUNK];
            for page in (0..CHUNK).step_by(0x1000) {
                memory[page] = 1;
            }
            std::mem::forget(black_box(memory));
        }
    };
    for with in [With::BoundVcpu, With::RunningVcpu] {
        let status = ends(with, exhaust, || ());
        let killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, false));
        assert!(killed, "{status:?}");
    }
}

fn traced(_: &Stage) {
    let tracee = child(|| {
        ptrace::traceme().unwrap();
        let vm = BoundVm::create(flat()).unwrap();
        raise(Signal::SIGSTOP).unwrap();
        run_guest_of(&vm);
    });
    let stopped = waitpid(tracee, None).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(tracee, Signal::SIGSTOP));
    // The VM is the tracee's.
    assert_eq!(asked(), Err(Errno::EBADF));
    ptrace::syscall(tracee, None).unwrap();
    loop {
        match waitpid(tracee, None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => ptrace::syscall(tracee, None).unwrap(),
            status => return succeeds(status),
        }
    }
}

/// The VM and the vCPU of a thread of this process, as any process sees them.
fn shown(thread: Pid) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let lines = status.lines().filter(|line| line.starts_with("KVM"));
    lines.map(String::from).collect()
}

fn shown_in_status(_: &Stage) {
    const VM: &str = "KVM_bound_vm:\tanon_inode:kvm-vm";
    const VCPU: &str = "KVM_bound_vcpu:\tanon_inode:kvm-vcpu:0";
    tidy();
    let this = gettid();
    assert_eq!(shown(this), [""; 0]);
    let vm = BoundVm::create(flat()).unwrap();
    let vcpu = vm.create_vcpu().unwrap();
    assert_eq!(shown(this), [VM, VCPU]);
    elsewhere(|| {
        assert_eq!(shown(this), [VM, VCPU]);
        assert_eq!(shown(gettid()), [VM]);
    });
    drop(vm);
    assert_eq!(shown(this), [VCPU]);
    drop(vcpu);
    assert_eq!(shown(this), [""; 0]);
}
