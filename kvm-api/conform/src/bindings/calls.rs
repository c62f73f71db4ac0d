//! The calls that tasks make on their vCPUs.

use std::os::fd::{BorrowedFd, RawFd};
use std::ptr;

use kvm_api::kvm_sys::slot::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_api::kvm_sys::*;
use kvm_api::ranges::{RangeMemory, range};
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, GuestMemory, Kvm, Result};
use libc::{SYS_ioctl, c_long};
use nix::sched::{CloneFlags, clone};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::host_state::HostState;
use super::steps::PAGES;

/// The value of the guests' vector registers.
pub const GUEST_VECTOR: [u8; 16] = [0xa5; 16];

#[derive(Clone, Copy)]
pub enum Call {
    Bound(c_long),
    Flat(RawFd, c_long),
    Ioctl(RawFd, libc::c_ulong),
}

impl Call {
    /// Makes the call, which reads a structure.
    pub fn get<T: Default>(self, state: &HostState) -> Result<T> {
        let mut value = T::default();
        self.make(state, (&raw mut value).expose_provenance())?;
        Ok(value)
    }

    /// Makes the call, which sets a structure.
    fn set<T>(self, state: &HostState, value: &T) -> Result<()> {
        self.make(state, ptr::from_ref(value).expose_provenance())
    }

    pub fn make(self, state: &HostState, argument: usize) -> Result<()> {
        let (number, words) = match self {
            Self::Bound(number) => (number, [argument, 0, 0]),
            Self::Flat(fd, number) => (number, [fd as usize, argument, 0]),
            Self::Ioctl(fd, request) => (SYS_ioctl, [fd as usize, request as usize, argument]),
        };
        syscall(state, number, words).map(drop)
    }
}

/// Makes a call with this state of the task.
pub fn syscall(state: &HostState, number: c_long, [a, b, c]: [usize; 3]) -> Result<isize> {
    // SAFETY: the calls that are made here read and write no more than a
    // structure of their own, which lives during the call, the vCPU's run
    // mapping, and the guest's memory.
    unsafe { state.call3(number, a, b, c) }
}

/// Runs the vCPU that is bound to the task.
pub fn run_bound(state: &HostState) -> Result<()> {
    syscall(state, __NR_kvm_bound_run, [0; 3]).map(drop)
}

/// Changes some of the general registers.
pub fn change_regs(
    state: &HostState,
    [get, set]: [Call; 2],
    change: impl FnOnce(&mut kvm_regs),
) -> Result<()> {
    let mut regs = get.get(state)?;
    change(&mut regs);
    set.set(state, &regs)
}

/// Reads the special registers and the floating point registers, and writes them back.
pub fn accessors(
    state: &HostState,
    [get_sregs, set_sregs, get_fpu, set_fpu]: [Call; 4],
) -> Result<()> {
    let sregs: kvm_sregs = get_sregs.get(state)?;
    let bases = (sregs.fs.base, sregs.gs.base);
    assert_eq!(bases, (0xf000, 0xe000), "the guest's");
    set_sregs.set(state, &sregs)?;
    let fpu: kvm_fpu = get_fpu.get(state)?;
    assert_eq!(fpu.xmm, [GUEST_VECTOR; 16], "the guest's");
    set_fpu.set(state, &fpu)
}

/// Kicks a vCPU, by its descriptor or by the pidfd of a thread.
pub fn kick(state: &HostState, fd: RawFd) -> Result<()> {
    syscall(state, __NR_kvm_kick, [fd as usize, 0, 0]).map(drop)
}

/// Kicks the vCPU that is bound to the thread.
pub fn kick_thread(state: &HostState, thread: Pid) -> Result<()> {
    const PIDFD_THREAD: usize = libc::O_EXCL as usize;
    let words = [thread.as_raw() as usize, PIDFD_THREAD, 0];
    let pidfd = syscall(state, libc::SYS_pidfd_open, words)? as RawFd;
    let answer = kick(state, pidfd);
    // SAFETY: the descriptor is this function's.
    unsafe { libc::close(pidfd) };
    answer
}

/// Adds a vCPU to a VM. Its descriptor is closed, and it lives as long as the
/// VM.
pub fn create(state: &HostState, vm: RawFd) -> Result<()> {
    let vcpu = syscall(state, __NR_kvm_create_vcpu, [vm as usize, 0, 0])?;
    // SAFETY: the descriptor is this function's.
    unsafe { libc::close(vcpu as RawFd) };
    Ok(())
}

/// Adds a vCPU to the VM of the address space, which is bound to the task until it has
/// read the registers.
pub fn create_bound(state: &HostState) -> Result<()> {
    syscall(state, __NR_kvm_create_bound_vcpu, [0; 3])?;
    let regs: kvm_regs = Call::Bound(__NR_kvm_bound_get_regs).get(state)?;
    assert_eq!(regs.rip, 0xfff0, "of a new vCPU");
    syscall(state, __NR_kvm_unbind, [0; 3]).map(drop)
}

/// Where the pages begin that ranges add to the memory of a VM.
const ADDED: u64 = 1 << 29;
const PAGE: u64 = 0x1000;

fn ranges(vm: BorrowedFd<'_>) -> RangeMemory<BorrowedFd<'_>> {
    RangeMemory::new(flat(), vm)
}

/// Grows or shrinks the memory of a VM to `pages` added pages, which show `memory` again.
pub fn resize(vm: BorrowedFd<'_>, memory: &GuestMemory, pages: u64) -> Result<()> {
    let address = memory.as_ptr().expose_provenance() as u64;
    if pages > 0 {
        let range = range(ADDED, pages * PAGE, address, KVM_MEM_LOG_DIRTY_PAGES);
        // SAFETY: the guest uses the memory already.
        unsafe { ranges(vm).kvm_map_range(&range) }?;
    }
    if pages < PAGES {
        let at = ADDED + pages * PAGE;
        ranges(vm).kvm_unmap_range(0, at, (PAGES - pages) * PAGE)?;
    }
    Ok(())
}

/// How many pages ranges have added to the memory of a VM.
pub fn added(vm: BorrowedFd<'_>) -> u64 {
    let has = |page| {
        let (at, flags) = (ADDED + page * PAGE, KVM_DIRTY_RANGE_PEEK);
        // SAFETY: the log has a bit for the page.
        unsafe { ranges(vm).kvm_get_dirty_range(0, at, PAGE, &mut [0], flags) }.is_ok()
    };
    (0..PAGES).filter(|&page| has(page)).count() as u64
}

/// The alias of VM `vm`, by which it is told from the other.
pub fn alias_of(vm: usize) -> kvm_memory_alias {
    kvm_memory_alias {
        guest_phys_addr: (vm as u64 + 1) << 30,
        memory_size: 0x1000,
        ..Default::default()
    }
}

/// The VM of the address space.
pub fn bound_vm() -> Result<usize> {
    let mut alias = kvm_memory_alias::default();
    // SAFETY: the number is no descriptor, so nothing closes it.
    let vm = unsafe { BorrowedFd::borrow_raw(KVM_BOUND_VM) };
    flat().kvm_get_memory_alias(vm, &mut alias)?;
    Ok((alias.guest_phys_addr >> 30) as usize - 1)
}

pub fn flat() -> Syscall {
    Syscall::open().expect("the kernel has the calls")
}

fn raw(number: c_long, a: c_long) -> Result<()> {
    // SAFETY: as in `syscall`.
    Errno::result(unsafe { libc::syscall(number, a) }).map(drop)
}

/// A child with memory of its own has no vCPU and no VM, and cannot bind the vCPU.
pub fn forked(fd: RawFd) -> Result<()> {
    // SAFETY: the child makes system calls and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let expected = [Err(Errno::ENXIO), Err(Errno::EIO), Err(Errno::EBADF)];
        let found = [
            raw(__NR_kvm_bound_run, 0),
            raw(__NR_kvm_bind, fd.into()),
            bound_vm().map(drop),
        ];
        // SAFETY: the call ends the child.
        unsafe { libc::_exit(i32::from(found != expected)) }
    }
    reap(Errno::result(child).map(Pid::from_raw)?)
}

/// A child with the same memory can bind one, and has the same VM. The vCPU is free when
/// the child is gone.
pub fn child(fd: RawFd, exec: bool) -> Result<()> {
    let vm = bound_vm();
    let mut vm_of_child = vm;
    let mut answer = Ok(());
    let mut stack = vec![0; 64 << 10];
    let body = || {
        vm_of_child = bound_vm();
        answer = raw(__NR_kvm_bind, fd.into()).and_then(|()| raw(__NR_kvm_bound_run, 0));
        if exec {
            let args = [c"conform".as_ptr(), c"--version".as_ptr(), ptr::null()];
            // SAFETY: the strings and the array live during the call.
            unsafe { libc::execv(c"/proc/self/exe".as_ptr(), args.as_ptr()) };
            return 1;
        }
        0
    };
    // The parent waits until the child executes a program or ends.
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: the child has a stack, makes system calls, and writes one word.
    let child = unsafe { clone(Box::new(body), &mut stack, flags, Some(libc::SIGCHLD)) };
    reap(child?)?;
    assert_eq!(vm_of_child, vm, "the VM of the child");
    answer
}

fn reap(child: Pid) -> Result<()> {
    let status = waitpid(child, Some(WaitPidFlag::__WALL))?;
    assert_eq!(status, WaitStatus::Exited(child, 0));
    Ok(())
}
