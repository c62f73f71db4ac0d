//! kvm_map_range, kvm_unmap_range, kvm_protect_range, kvm_get_dirty_range: what a change of
//! many memory slots costs the virtual machine, and a caller that waits for one.

use std::fs::{self, File};
use std::hint;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES as LOG;
use kvm_api::kvm_sys::{
    __NR_kvm_get_dirty_range, __NR_kvm_unmap_range, KVM_ENABLE_CAP, KVM_GET_STATS_FD,
};
use kvm_api::ranges::{RangeMemory, range};
use kvm_api::{Errno, GuestMemory, Result};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Needs::AnyVcpu;
use crate::range_guest::{Guest, PAGE, PAGES, WINDOW, Wrote};
use crate::{Stage, Test};
use kvm_api::Form;

const fn of(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Ranges, (name, AnyVcpu, test))
}

pub const TESTS: &[(Form, Test)] = &[
    of("kvm_unmap_range::flushes_once", flushes_once),
    of("kvm_unmap_range::thousands_of_slots", thousands),
    of("kvm_unmap_range::a_killed_caller_does_not_wait", killed),
    of(
        "kvm_unmap_range::a_killed_caller_changes_nothing",
        killed_inside,
    ),
];

/// The requests to flush the TLBs of a virtual machine, until now.
fn flushes(vm: BorrowedFd<'_>) -> u64 {
    // SAFETY: the request returns a new descriptor.
    let mut stats = unsafe {
        let fd = libc::ioctl(vm.as_raw_fd(), KVM_GET_STATS_FD, 0);
        File::from(OwnedFd::from_raw_fd(Errno::result(fd).unwrap()))
    };
    let mut all = Vec::new();
    stats.read_to_end(&mut all).unwrap();
    let word = |at: usize| u32::from_le_bytes(all[at..at + 4].try_into().unwrap()) as usize;
    // struct kvm_stats_header, and an array of struct kvm_stats_desc with names.
    let (name_size, count) = (word(4), word(8));
    let (descriptions, data) = (word(16), word(20));
    let value = |n: usize| {
        let description = descriptions + n * (16 + name_size);
        let name = &all[description + 16..];
        let at = data + word(description + 8);
        name.starts_with(b"remote_tlb_flush_requests\0")
            .then(|| u64::from_le_bytes(all[at..at + 8].try_into().unwrap()))
    };
    (0..count).find_map(value).expect("KVM counts them")
}

/// Has KVM remove the mappings of a slot that goes, and no others.
fn keep_other_mappings(vm: BorrowedFd<'_>) {
    const KVM_CAP_DISABLE_QUIRKS2: u64 = 213;
    const KVM_X86_QUIRK_SLOT_ZAP_ALL: u64 = 1 << 7;
    let mut words = [0_u64; 13];
    (words[0], words[1]) = (KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL);
    // SAFETY: the request reads a structure of this size.
    let result = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_ENABLE_CAP, words.as_ptr()) };
    Errno::result(result).unwrap();
}

fn flushes_once(stage: &Stage) {
    let mut guest = Guest::new(stage);
    keep_other_mappings(guest.machine.vm());
    // A slot for each page, with a mapping.
    for page in 0..PAGES {
        guest.map(page, 1, PAGES - 1 - page, LOG).unwrap();
    }
    for page in 0..PAGES {
        assert_eq!(guest.write(page), Wrote::To(PAGES - 1 - page));
    }
    let before = flushes(guest.machine.vm());
    guest.map(0, PAGES, 0, LOG).unwrap();
    let replaced = flushes(guest.machine.vm()) - before;
    // KVM may have to flush early, when another task needs its lock or the processor.
    assert!((1..=PAGES / 4).contains(&replaced), "{replaced} flushes");
    // None of the old mappings is left.
    for page in 0..PAGES {
        assert_eq!(guest.write(page), Wrote::To(page));
    }
    assert_eq!(guest.dirty(0, PAGES), Ok(vec![true; PAGES as usize]));
}

/// Where [`Slots`] are.
const FAR: u64 = 1 << 32;
/// The number of pages of [`Slots`].
const SLOTS: u64 = 2000;

/// More slots than any other test makes, each of one page and with a log.
struct Slots<'g> {
    ranges: RangeMemory<BorrowedFd<'g>>,
    // Dropped after the guest's mappings of it.
    memory: GuestMemory,
}

impl Drop for Slots<'_> {
    fn drop(&mut self) {
        let _ = self.ranges.kvm_unmap_range(0, FAR, SLOTS * PAGE);
    }
}

impl<'g> Slots<'g> {
    fn new(guest: &'g Guest<'_>) -> Self {
        let slots = Self {
            ranges: guest.ranges(),
            memory: GuestMemory::anonymous(2 * PAGE as usize).unwrap(),
        };
        let address = slots.memory.as_ptr().expose_provenance() as u64;
        // The second page is never behind the first, so that no two of them join.
        for n in 0..SLOTS {
            let page = range(FAR + n * PAGE, PAGE, address + (1 - n % 2) * PAGE, LOG);
            // SAFETY: the memory stays until it is unmapped from the guest.
            unsafe { slots.ranges.kvm_map_range(&page) }.unwrap();
        }
        slots
    }

    fn protect(&self, flags: u32) {
        // SAFETY: as in `new`.
        unsafe { self.ranges.kvm_protect_range(0, FAR, SLOTS * PAGE, flags) }.unwrap();
    }

    /// Fetches the log of the first pages.
    fn log(&self, pages: u64) -> Result<()> {
        let mut bitmap = vec![0; (SLOTS / 64 + 1) as usize];
        // SAFETY: it has a bit for each page.
        unsafe {
            self.ranges
                .kvm_get_dirty_range(0, FAR, pages * PAGE, &mut bitmap, 0)
        }
    }
}

fn thousands(stage: &Stage) {
    let guest = Guest::new(stage);
    let slots = Slots::new(&guest);
    slots.log(SLOTS).unwrap();
    slots.protect(0);
    assert_eq!(slots.log(SLOTS), Err(Errno::ENOENT));
    slots.protect(LOG);
    slots.log(SLOTS).unwrap();
    slots.ranges.kvm_unmap_range(0, FAR, SLOTS * PAGE).unwrap();
    assert_eq!(slots.log(1), Err(Errno::ENOMEM));
}

/// A page that nobody has touched, and the means to hold up whoever does.
struct Trap {
    uffd: OwnedFd,
    page: GuestMemory,
}

const UFFD_API: u64 = 0xaa;

/// struct uffdio_api, uffdio_register and uffdio_zeropage, whose first words differ.
type Words<const N: usize> = [u64; N];

nix::ioctl_readwrite!(uffdio_api, UFFD_API, 0x3f, Words<3>);
nix::ioctl_readwrite!(uffdio_register, UFFD_API, 0x00, Words<4>);
nix::ioctl_readwrite!(uffdio_zeropage, UFFD_API, 0x04, Words<4>);

impl Trap {
    fn new() -> Self {
        const MODE_MISSING: u64 = 1;
        // SAFETY: the call touches no memory, and returns a new descriptor.
        let uffd = unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            OwnedFd::from_raw_fd(Errno::result(fd).unwrap() as i32)
        };
        let page = GuestMemory::anonymous(PAGE as usize).unwrap();
        let trap = Self { uffd, page };
        let mut api = [UFFD_API, 0, 0];
        let mut register = [trap.address(), PAGE, MODE_MISSING, 0];
        // SAFETY: the requests pass these structures.
        unsafe {
            uffdio_api(trap.uffd.as_raw_fd(), &raw mut api).unwrap();
            uffdio_register(trap.uffd.as_raw_fd(), &raw mut register).unwrap();
        }
        trap
    }

    fn address(&self) -> u64 {
        self.page.as_ptr().expose_provenance() as u64
    }

    /// Waits for somebody to touch the page.
    fn wait(&self) {
        let mut fds = [PollFd::new(self.uffd.as_fd(), PollFlags::POLLIN)];
        let limit = u16::try_from(LIMIT.as_millis()).unwrap();
        assert_eq!(poll(&mut fds, limit), Ok(1), "nobody touches the page");
    }

    /// Lets go.
    fn release(&self) {
        let mut zero = [self.address(), PAGE, 0, 0];
        // SAFETY: the request passes this structure, and nothing refers to the page.
        unsafe { uffdio_zeropage(self.uffd.as_raw_fd(), &raw mut zero) }.unwrap();
    }
}

/// For what takes no time.
const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_micros(20);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        thread::sleep(PAUSE);
    }
}

/// Kills a child, and waits for its end.
fn kill_and_wait(child: Pid) -> WaitStatus {
    kill(child, Signal::SIGKILL).unwrap();
    let begin = Instant::now();
    let mut status = WaitStatus::StillAlive;
    while status == WaitStatus::StillAlive && begin.elapsed() < LIMIT {
        thread::sleep(PAUSE);
        status = waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap();
    }
    status
}

/// Whether a process sleeps in a way that only a fatal signal can interrupt.
fn is_waiting(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let state = stat.rsplit(')').next().unwrap_or_default();
    state.trim_start().starts_with('D')
}

/// A call that unmaps a range, and whether a child makes it already.
struct Unmapping {
    vm: RawFd,
    at: u64,
    size: u64,
    begun: AtomicBool,
}

/// A child with the memory and the files of this process, which makes the call.
fn child(call: &'static Unmapping) -> Pid {
    extern "C" fn unmap(call: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the parent passes a pointer to it that is valid forever.
        let call = unsafe { &*call.cast::<Unmapping>() };
        call.begun.store(true, Ordering::SeqCst);
        let (number, space) = (__NR_kvm_unmap_range, 0);
        // SAFETY: the call touches no memory.
        let result = unsafe { libc::syscall(number, call.vm, space, call.at, call.size) };
        (result != 0).into()
    }
    const STACK: usize = 256 << 10;
    // The child may outlive this function, so its stack is never freed.
    let stack = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: the stack is the child's own. It makes one system call, and allocates nothing.
    let child = unsafe {
        let top = stack.as_mut_ptr().add(STACK);
        let argument = ptr::from_ref(call).cast_mut();
        libc::clone(unmap, top.cast(), flags, argument.cast())
    };
    Pid::from_raw(Errno::result(child).unwrap())
}

fn unmapping(vm: BorrowedFd<'_>, at: u64, size: u64) -> &'static Unmapping {
    Box::leak(Box::new(Unmapping {
        vm: vm.as_raw_fd(),
        at,
        size,
        begun: AtomicBool::new(false),
    }))
}

/// While the log of a range is fetched, no other call can change the slots. Another process
/// waits for that, and is killed.
fn killed(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(0, PAGES, 0, LOG).unwrap();
    let trap = Trap::new();
    let (vm, bitmap) = (guest.machine.vm(), trap.address());
    thread::scope(|scope| {
        let fetch = scope.spawn(|| {
            let (number, vm) = (__NR_kvm_get_dirty_range, vm.as_raw_fd());
            // SAFETY: the page has room for the log.
            let result = unsafe { libc::syscall(number, vm, 0, WINDOW, PAGES * PAGE, bitmap, 0) };
            Errno::result(result)
        });
        trap.wait();
        let child = child(unmapping(vm, WINDOW, PAGES * PAGE));
        until("the child waits", || is_waiting(child));
        let end = kill_and_wait(child);
        trap.release();
        assert_eq!(fetch.join().unwrap(), Ok(0));
        assert_eq!(end, WaitStatus::Signaled(child, Signal::SIGKILL, false));
    });
    // It has changed nothing.
    assert_eq!(guest.write(3), Wrote::To(3));
    assert!(guest.dirty(3, 1).unwrap()[0]);
}

/// Makes this thread run before all others, until the value is dropped.
struct First;

impl First {
    fn new() -> Self {
        // Not children.
        set_scheduler(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1);
        Self
    }
}

impl Drop for First {
    fn drop(&mut self) {
        set_scheduler(libc::SCHED_OTHER, 0);
    }
}

fn set_scheduler(policy: i32, sched_priority: i32) {
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: the call reads the structure.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) }).unwrap();
}

/// Sleeps as short as possible: the machine's timer ticks every few milliseconds, and wakes
/// nobody in between.
fn next_tick() -> Instant {
    thread::sleep(Duration::from_nanos(1));
    Instant::now()
}

/// Starts something, and lets it run on this processor for about `time`.
fn start_for<T>(time: Duration, start: impl FnOnce() -> T) -> T {
    let tick = next_tick();
    let period = next_tick() - tick;
    // It does not run before this thread sleeps.
    let started = start();
    if period < time {
        // This timer does not tick.
        thread::sleep(time);
        return started;
    }
    let periods = tick.elapsed().div_duration_f64(period).ceil() as u32 + 1;
    let begin = tick + periods * period - time;
    while Instant::now() < begin {
        hint::spin_loop();
    }
    next_tick();
    started
}

/// Another process that removes many slots is killed soon after it has begun.
fn killed_inside(stage: &Stage) {
    let guest = Guest::new(stage);
    let slots = Slots::new(&guest);
    let _first = First::new();
    let mut begun = 0;
    for time in (1..40).map(|n| n * Duration::from_micros(100)) {
        let call = unmapping(guest.machine.vm(), FAR, SLOTS * PAGE);
        let child = start_for(time, || child(call));
        begun += u32::from(call.begun.load(Ordering::SeqCst));
        let end = kill_and_wait(child);
        assert_eq!(end, WaitStatus::Signaled(child, Signal::SIGKILL, false));
        // It has changed nothing.
        assert_eq!(slots.log(SLOTS), Ok(()), "after {time:?}");
        // The first may not have got to the system call.
        if begun == 2 {
            return;
        }
    }
    panic!("the child does not begin");
}
