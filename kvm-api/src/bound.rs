//! The backend on vcpus that are bound to the task that uses them.

use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use kvm_sys::*;
use nix::sys::signal::SigSet;

use crate::delegate::delegate;
use crate::signal::signal_mask;
use crate::syscall::arch::*;
use crate::syscall::conv::{done, fd, input, number, output};
use crate::syscall::{OpenError, Syscall};
use crate::{Errno, Exit, GetState, GuestMemory, Kvm, Result, RunMapping, SetState};

/// KVM over the calls on the vcpu that is bound to the calling task.
///
/// A thread's first call on a vcpu binds that vcpu to it, and unbinds the one
/// that it used before. From then on, other threads' calls on the vcpu fail with
/// `EBUSY`. What is not about a vcpu is done by the [flat calls](Syscall).
///
/// # Descriptors
///
/// Which vcpu is bound is known by the number of its file descriptor, so that a
/// call need not look one up. A binding keeps its vcpu alive when that is closed:
/// [`unbind`](Self::unbind) before another backend makes a vcpu that could get
/// the same number.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    flat: Syscall,
}

thread_local! {
    /// The file descriptor of the vcpu that this thread has bound, or -1. After
    /// fork(2), which inherits no binding, it is the parent's.
    static BOUND: Cell<RawFd> = const { Cell::new(-1) };
}

impl Bound {
    /// Asks the running kernel, once, whether it has the calls.
    ///
    /// # Errors
    ///
    /// Those of [`Syscall::open`].
    pub fn open() -> std::result::Result<Self, OpenError> {
        let flat = Syscall::open()?;
        Ok(Self { flat })
    }

    /// Unbinds the vcpu of this thread, if it has one.
    pub fn unbind(&self) {
        BOUND.set(-1);
        // SAFETY: the call touches no memory. That it fails where there is no
        // vcpu is just as well.
        unsafe { syscall0(__NR_kvm_unbind) };
    }

    /// Makes the thread that a pidfd is of, see pidfd_open(2), return from
    /// [`kvm_run`](Kvm::kvm_run) with `EINTR`: now or, if it does not run its
    /// vcpu, as soon as it is to.
    ///
    /// Errors: `EBADF` when it is no pidfd; `ESRCH` when the thread is gone or
    /// has no bound vcpu; `EIO` when the vcpu is another process'.
    pub fn kick(&self, thread: BorrowedFd<'_>) -> Result<()> {
        // SAFETY: the call touches no memory.
        done(unsafe { syscall1(__NR_kvm_kick, fd(thread)) })
    }

    /// Binds `vcpu` to this thread, in place of the one that it has.
    #[cold]
    fn bind(&self, vcpu: BorrowedFd<'_>) -> Result<()> {
        self.unbind();
        // SAFETY: the call touches no memory.
        done(unsafe { syscall1(__NR_kvm_bind, fd(vcpu)) })?;
        BOUND.set(vcpu.as_raw_fd());
        Ok(())
    }

    /// Makes a call on `vcpu`.
    #[inline(always)]
    fn on(&self, vcpu: BorrowedFd<'_>, mut call: impl FnMut() -> isize) -> Result<usize> {
        if BOUND.get() != vcpu.as_raw_fd() {
            self.bind(vcpu)?;
        }
        match number(call()) {
            Err(Errno::ENXIO) => self.again(vcpu, call),
            answer => answer,
        }
    }

    /// After the error for a thread that has no vcpu, which some calls have for
    /// another reason, too: makes the call again if it was that.
    #[cold]
    fn again(&self, vcpu: BorrowedFd<'_>, mut call: impl FnMut() -> isize) -> Result<usize> {
        // SAFETY: the call touches no memory.
        match done(unsafe { syscall1(__NR_kvm_bind, fd(vcpu)) }) {
            Ok(()) => number(call()),
            Err(Errno::EEXIST) => Err(Errno::ENXIO),
            Err(error) => {
                BOUND.set(-1);
                Err(error)
            }
        }
    }
}

impl Kvm for Bound {
    delegate! { flat:
        kvm_create_vm kvm_get_msr_index_list kvm_get_vcpu_mmap_size kvm_set_memory_region
        kvm_get_dirty_log kvm_get_memory_alias kvm_check_extension kvm_set_user_memory_region
        kvm_set_memory_alias kvm_map_range kvm_unmap_range kvm_get_dirty_range kvm_clear_dirty_range
        kvm_map_memory
    }
    fn kvm_create_vcpu(&self, vm: BorrowedFd<'_>) -> Result<OwnedFd> {
        let vcpu = self.flat.kvm_create_vcpu(vm)?;
        // The number may be that of one that was bound, and is closed.
        if BOUND.get() == vcpu.as_raw_fd() {
            self.unbind();
        }
        Ok(vcpu)
    }

    #[inline]
    fn kvm_run<'r>(&self, vcpu: BorrowedFd<'_>, run: &'r mut RunMapping) -> Result<Exit<'r>> {
        self.on(vcpu, || {
            // SAFETY: the kernel writes the vcpu's run mapping, which is only ever
            // copied from, and memory that the guest was given.
            unsafe { syscall0(__NR_kvm_bound_run) }
        })
        .map(|_| run.exit())
    }

    #[inline]
    fn kvm_get_regs(&self, vcpu: BorrowedFd<'_>, regs: &mut kvm_regs) -> Result<()> {
        self.on(vcpu, || {
            // SAFETY: the kernel writes one such structure.
            unsafe { syscall1(__NR_kvm_bound_get_regs, output(regs)) }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_set_regs(&self, vcpu: BorrowedFd<'_>, regs: &kvm_regs) -> Result<()> {
        self.on(vcpu, || {
            // SAFETY: the kernel reads one such structure.
            unsafe { syscall1(__NR_kvm_bound_set_regs, input(regs)) }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_get_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &mut kvm_sregs) -> Result<()> {
        self.on(vcpu, || {
            // SAFETY: the kernel writes one such structure.
            unsafe { syscall1(__NR_kvm_bound_get_sregs, output(sregs)) }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_set_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &kvm_sregs) -> Result<()> {
        self.on(vcpu, || {
            // SAFETY: the kernel reads one such structure.
            unsafe { syscall1(__NR_kvm_bound_set_sregs, input(sregs)) }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_translate(
        &self,
        vcpu: BorrowedFd<'_>,
        linear_address: u64,
        physical_address: &mut u64,
        valid: &mut u8,
        writeable: &mut u8,
        usermode: &mut u8,
    ) -> Result<()> {
        self.on(vcpu, || {
            // SAFETY: the kernel writes one word and three bytes.
            unsafe {
                syscall5(
                    __NR_kvm_bound_translate,
                    linear_address as usize,
                    output(physical_address),
                    output(valid),
                    output(writeable),
                    output(usermode),
                )
            }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_interrupt(&self, vcpu: BorrowedFd<'_>, irq: u32) -> Result<()> {
        self.on(vcpu, || {
            // SAFETY: the call touches no memory.
            unsafe { syscall1(__NR_kvm_bound_interrupt, irq as usize) }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_debug_guest(&self, vcpu: BorrowedFd<'_>, debug: &kvm_guest_debug) -> Result<()> {
        self.on(vcpu, || {
            // SAFETY: the kernel reads one such structure.
            unsafe { syscall1(__NR_kvm_bound_debug_guest, input(debug)) }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_get_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &mut Msrs) -> Result<usize> {
        let msrs = msrs.as_mut_fam_struct_ptr();
        self.on(vcpu, || {
            // SAFETY: the kernel reads the header, and reads and writes as many
            // elements as it says that there are.
            unsafe { syscall1(__NR_kvm_bound_get_msrs, output(msrs)) }
        })
    }

    #[inline]
    fn kvm_set_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &Msrs) -> Result<usize> {
        let msrs = msrs.as_fam_struct_ptr();
        self.on(vcpu, || {
            // SAFETY: the kernel reads the header, and as many elements as it says
            // that there are.
            unsafe { syscall1(__NR_kvm_bound_set_msrs, input(msrs)) }
        })
    }

    #[inline]
    fn kvm_set_cpuid(&self, vcpu: BorrowedFd<'_>, cpuid: &CpuId) -> Result<()> {
        let cpuid = cpuid.as_fam_struct_ptr();
        self.on(vcpu, || {
            // SAFETY: the kernel reads the header, and as many elements as it says
            // that there are.
            unsafe { syscall1(__NR_kvm_bound_set_cpuid, input(cpuid)) }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_set_signal_mask(&self, vcpu: BorrowedFd<'_>, mask: Option<&SigSet>) -> Result<()> {
        let mask = mask.map(signal_mask);
        let mask = mask.as_ref().map_or(ptr::null(), ptr::from_ref);
        self.on(vcpu, || {
            // SAFETY: the kernel reads one such structure, or takes NULL for none.
            unsafe { syscall1(__NR_kvm_bound_set_signal_mask, input(mask)) }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_get_fpu(&self, vcpu: BorrowedFd<'_>, fpu: &mut kvm_fpu) -> Result<()> {
        self.on(vcpu, || {
            // SAFETY: the kernel writes one such structure.
            unsafe { syscall1(__NR_kvm_bound_get_fpu, output(fpu)) }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_set_fpu(&self, vcpu: BorrowedFd<'_>, fpu: &kvm_fpu) -> Result<()> {
        self.on(vcpu, || {
            // SAFETY: the kernel reads one such structure.
            unsafe { syscall1(__NR_kvm_bound_set_fpu, input(fpu)) }
        })
        .map(drop)
    }

    #[inline]
    fn kvm_get_state(&self, vcpu: BorrowedFd<'_>, state: &mut GetState<'_>) -> Result<usize> {
        let (state, size) = (state.raw(), size_of::<kvm_vcpu_state>());
        self.on(vcpu, || {
            // SAFETY: the kernel reads one such structure, and writes the parts
            // that it names, which are borrowed for that.
            unsafe { syscall2(__NR_kvm_bound_get_state, input(state), size) }
        })
    }

    #[inline]
    fn kvm_set_state(&self, vcpu: BorrowedFd<'_>, state: &SetState<'_>) -> Result<usize> {
        let (state, size) = (state.raw(), size_of::<kvm_vcpu_state>());
        self.on(vcpu, || {
            // SAFETY: the kernel reads one such structure, and the parts that it
            // names, which are borrowed for that.
            unsafe { syscall2(__NR_kvm_bound_set_state, input(state), size) }
        })
    }
}
