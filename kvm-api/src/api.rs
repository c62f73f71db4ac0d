//! The trait: the proposal's functions, in its order and under its names.

use std::os::fd::{BorrowedFd, OwnedFd};

use kvm_sys::{
    CpuId, MsrList, Msrs, kvm_fpu, kvm_guest_debug, kvm_memory_alias, kvm_regs, kvm_sregs,
};
use nix::sys::signal::SigSet;

use crate::{Exit, GuestMemory, Result, RunMapping};

/// KVM as a flat set of calls.
///
/// The methods are the 21 functions of the proposal of 17 July 2007, then
/// what the answer to it adds, then [`kvm_map_memory`](Self::kvm_map_memory).
/// Each names the line of the proposal that it comes from, and the ioctl that
/// it replaces. All backends work on the same kernel objects: a file
/// descriptor made through one is good for the other.
///
/// # Errors
///
/// An error is the kernel's errno, untranslated. Beside what each method
/// names, all that take a file descriptor fail with
///
/// * `EBADF`: it is closed,
/// * `ENOTTY`: it is not KVM's, or a virtual machine's where another kind is
///   wanted,
/// * `EINVAL`: it is a vcpu's or `/dev/kvm` where another kind is wanted,
/// * `EIO`: its virtual machine was made by another process (after `fork`, the
///   child is one), or is dead;
///
/// and with `ENOMEM` when the kernel runs out of memory.
pub trait Kvm {
    /// Makes a virtual machine, with neither memory nor vcpus.
    ///
    /// The file descriptor is close-on-exec. The machine lives until it and
    /// those of its vcpus are closed.
    ///
    /// The system call opens `/dev/kvm` as open(2) would, so it is for those who
    /// may do that.
    ///
    /// Errors: `EMFILE`, `ENFILE`; the system call fails as open(2) does, with
    /// `EACCES`, `ENODEV`, `ENOENT` or `EPERM` for example.
    ///
    /// Replaces KVM_CREATE_VM. Proposal: `int kvm_create_vm(void);`
    fn kvm_create_vm(&self) -> Result<OwnedFd>;

    /// Lists the MSRs that KVM saves and restores, of this host.
    ///
    /// `fd` is a virtual machine's or that of `/dev/kvm`. `list` comes with as
    /// many elements as it has room for and leaves with those there are.
    ///
    /// Errors: `E2BIG` when `list` is too short; it is unchanged then.
    /// [`kvm_bindings::KVM_MAX_MSR_ENTRIES`] elements are enough for any host.
    ///
    /// Replaces KVM_GET_MSR_INDEX_LIST. Proposal:
    /// `int kvm_get_msr_index_list(int fd, sttuct kvm_msr_list);`
    ///
    /// [`kvm_bindings::KVM_MAX_MSR_ENTRIES`]: kvm_sys::KVM_MAX_MSR_ENTRIES
    fn kvm_get_msr_index_list(&self, fd: BorrowedFd<'_>, list: &mut MsrList) -> Result<()>;

    /// The size in bytes of what [`RunMapping::new`] maps.
    ///
    /// `fd` is a virtual machine's or that of `/dev/kvm`.
    ///
    /// Replaces KVM_GET_VCPU_MMAP_SIZE. Proposal:
    /// `size_t kvm_get_vcpu_mmap_size(int fd);`
    fn kvm_get_vcpu_mmap_size(&self, fd: BorrowedFd<'_>) -> Result<usize>;

    /// Gives the guest `size` bytes of memory at `guest_phys_addr`, which the
    /// kernel allocates and which read as zero.
    ///
    /// `slot` is the number by which the region is known: below
    /// KVM_CAP_NR_MEMSLOTS, of which aliases use the last
    /// [`KVM_ALIAS_SLOTS`](kvm_sys::KVM_ALIAS_SLOTS). `flags` are
    /// KVM_MEM_LOG_DIRTY_PAGES and KVM_MEM_READONLY. The address and the size
    /// are multiples of the page size. Given again with the same size, the
    /// slot keeps its memory and moves, or changes its flags; a size of 0
    /// deletes it. [`kvm_map_memory`](Self::kvm_map_memory) reaches the memory.
    ///
    /// Errors: `EINVAL` for a slot, flags, an address or a size that KVM does
    /// not take, another size than the slot has, or the deletion of a slot
    /// that is not set; `EEXIST` when another slot covers a part of the range;
    /// `EBUSY` for the deletion of memory that an alias shows.
    ///
    /// Replaces KVM_SET_MEMORY_REGION, which Linux has removed. Proposal: `int
    /// kvm_set_memory_region(int fd, unsigned slot, unsigned flags, __u64
    /// guest_phys_addr, __u64 size);`
    fn kvm_set_memory_region(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
    ) -> Result<()>;

    /// Makes a vcpu, with the lowest id that is not in use.
    ///
    /// Errors: `EINVAL` when the virtual machine has as many as it can;
    /// `EMFILE`, `ENFILE`.
    ///
    /// Replaces KVM_CREATE_VCPU, which takes the id. Proposal:
    /// `int kvm_create_vcpu(int fd);`
    fn kvm_create_vcpu(&self, vm: BorrowedFd<'_>) -> Result<OwnedFd>;

    /// Fetches the bitmap of the pages of a slot that were written since it
    /// was last fetched: bit n of word n / 64 is the slot's page n.
    ///
    /// Errors: `ENOENT` when the slot is not set or does not have
    /// KVM_MEM_LOG_DIRTY_PAGES; `EINVAL` for a slot out of range; `ENXIO` when
    /// the virtual machine logs into a ring instead.
    ///
    /// Replaces KVM_GET_DIRTY_LOG. Proposal:
    /// `int kvm_get_dirty_log(int fd, unsigned slot, void *dirty_bitmap);`
    ///
    /// # Safety
    ///
    /// The kernel is not told how long `dirty_bitmap` is. It must have a bit
    /// for each page of the slot: at least `pages.div_ceil(64)` words.
    unsafe fn kvm_get_dirty_log(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        dirty_bitmap: &mut [u64],
    ) -> Result<()>;

    /// Reads back the alias whose number is in `alias.slot`.
    ///
    /// One that is not set has nothing but its number: the rest is 0. The
    /// target is given as the lowest slot that shows the memory has it now; it
    /// is all ones if there is no such slot any more.
    ///
    /// Errors: `EINVAL` for a number out of range.
    ///
    /// Replaces nothing: 2007 had only KVM_SET_MEMORY_ALIAS, see
    /// [`kvm_set_memory_alias`](Self::kvm_set_memory_alias). Proposal: `int
    /// kvm_get_memory_alias(int fd, struct kvm_memory_region *region);`
    fn kvm_get_memory_alias(&self, vm: BorrowedFd<'_>, alias: &mut kvm_memory_alias) -> Result<()>;

    /// Runs the guest until it exits to user space. `run` is the vcpu's own
    /// run mapping; what it says of the exit is looked at by [`Exit`], not here.
    ///
    /// Errors: `EINTR` when a signal is pending or `immediate_exit` is set;
    /// `EAGAIN` when the vcpu waits to be started; `EFAULT` when the guest
    /// reaches memory whose host address is bad.
    ///
    /// Replaces KVM_RUN. Proposal: `int kvm_run(int fd);`
    fn kvm_run<'r>(&self, vcpu: BorrowedFd<'_>, run: &'r mut RunMapping) -> Result<Exit<'r>>;

    /// Reads the general registers, the instruction pointer and the flags.
    ///
    /// Replaces KVM_GET_REGS. Proposal:
    /// `int kvm_get_regs(int fd, struct kvm_regs *regs);`
    fn kvm_get_regs(&self, vcpu: BorrowedFd<'_>, regs: &mut kvm_regs) -> Result<()>;

    /// Sets the general registers, the instruction pointer and the flags.
    ///
    /// Replaces KVM_SET_REGS. Proposal:
    /// `int kvm_set_regs(int fd, const struct kvm_regs *regs);`
    fn kvm_set_regs(&self, vcpu: BorrowedFd<'_>, regs: &kvm_regs) -> Result<()>;

    /// Reads the segment, descriptor table and control registers.
    ///
    /// Replaces KVM_GET_SREGS. Proposal:
    /// `int kvm_get_sregs(int fd, struct kvm_sregs *sregs);`
    fn kvm_get_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &mut kvm_sregs) -> Result<()>;

    /// Sets the segment, descriptor table and control registers.
    ///
    /// Errors: `EINVAL` for a state that no processor can be in.
    ///
    /// Replaces KVM_SET_SREGS. Proposal:
    /// `int kvm_set_sregs(int fd, const struct kvm_sregs *sregs);`
    fn kvm_set_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &kvm_sregs) -> Result<()>;

    /// Walks the guest's page tables, as they are now, from `linear_address`
    /// to its guest physical address.
    ///
    /// `valid` becomes 1 if there is one, else 0, and `physical_address` then
    /// means nothing. KVM says 1 of `writeable` and 0 of `usermode` always.
    ///
    /// Replaces KVM_TRANSLATE. Proposal: `int kvm_translate(int fd, __u64
    /// linear_address, __u64 *physical_address, __u8 *valid, __u8 *writeable,
    /// __u8 *usemode);`
    fn kvm_translate(
        &self,
        vcpu: BorrowedFd<'_>,
        linear_address: u64,
        physical_address: &mut u64,
        valid: &mut u8,
        writeable: &mut u8,
        usermode: &mut u8,
    ) -> Result<()>;

    /// Queues the interrupt with vector `irq`. The guest takes it at the next
    /// [`kvm_run`](Self::kvm_run), which needs its interrupts to be enabled.
    ///
    /// Errors: `EINVAL` for a vector of 256 or more; `ENXIO` with an interrupt
    /// controller in the kernel; `EEXIST` with a split one, when a vector is
    /// pending.
    ///
    /// Replaces KVM_INTERRUPT. Proposal:
    /// `int kvm_interrupt(int fd, __u32 irq);`
    fn kvm_interrupt(&self, vcpu: BorrowedFd<'_>, irq: u32) -> Result<()>;

    /// Sets breakpoints and single-stepping, whose exits are
    /// [`Reason::Debug`](crate::Reason::Debug).
    ///
    /// Errors: `EBUSY` when an exception is to be injected and one is pending;
    /// `EINVAL` when the guest's state is hidden from the host.
    ///
    /// Replaces KVM_SET_GUEST_DEBUG, once KVM_DEBUG_GUEST. Proposal:
    /// `int kvm_debug_guest(...);`
    fn kvm_debug_guest(&self, vcpu: BorrowedFd<'_>, debug: &kvm_guest_debug) -> Result<()>;

    /// Reads the MSRs whose indices `msrs` holds. Returns how many were read:
    /// KVM stops at the first that it cannot read.
    ///
    /// Errors: `E2BIG` for 256 or more. Over ioctl, `/dev/kvm` in place of a vcpu
    /// is no error: it has a request of the same code, for the MSRs that tell
    /// features.
    ///
    /// Replaces KVM_GET_MSRS. Proposal: `int kvm_get_msrs(...);`
    fn kvm_get_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &mut Msrs) -> Result<usize>;

    /// Sets the MSRs that `msrs` holds. Returns how many were set: KVM stops
    /// at the first that it cannot set.
    ///
    /// Errors: `E2BIG` for 256 or more.
    ///
    /// Replaces KVM_SET_MSRS. Proposal: `int kvm_set_msrs(...);`
    fn kvm_set_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &Msrs) -> Result<usize>;

    /// Sets what the guest's CPUID instruction answers.
    ///
    /// Errors: `E2BIG` for more than 256 entries; `EINVAL` for what KVM cannot
    /// offer, or a change after the vcpu has run.
    ///
    /// Replaces KVM_SET_CPUID2, once KVM_SET_CPUID. Proposal:
    /// `int kvm_set_cpuid(...);`
    fn kvm_set_cpuid(&self, vcpu: BorrowedFd<'_>, cpuid: &CpuId) -> Result<()>;

    /// Sets which signals are blocked while the guest runs, in place of those
    /// that the thread blocks; `None` goes back to the thread's own.
    ///
    /// Replaces KVM_SET_SIGNAL_MASK. Proposal:
    /// `int kvm_set_signal_mask(...);`
    fn kvm_set_signal_mask(&self, vcpu: BorrowedFd<'_>, mask: Option<&SigSet>) -> Result<()>;

    /// Reads the floating point and SSE registers.
    ///
    /// Replaces KVM_GET_FPU. Proposal: `int kvm_get_fpu(...);`
    fn kvm_get_fpu(&self, vcpu: BorrowedFd<'_>, fpu: &mut kvm_fpu) -> Result<()>;

    /// Sets the floating point and SSE registers.
    ///
    /// Replaces KVM_SET_FPU. Proposal: `int kvm_set_fpu(...);`
    fn kvm_set_fpu(&self, vcpu: BorrowedFd<'_>, fpu: &kvm_fpu) -> Result<()>;

    /// Asks for a capability: 0 is no, 1 is yes, and some answer with a
    /// number.
    ///
    /// `fd` is a virtual machine's or that of `/dev/kvm`; `extension` is a
    /// `KVM_CAP_` number.
    ///
    /// Replaces KVM_CHECK_EXTENSION. The proposal lets it go; the answer keeps
    /// it: "We will need CHECK_EXTENSION as long as we are unable to predict
    /// the future".
    fn kvm_check_extension(&self, fd: BorrowedFd<'_>, extension: u32) -> Result<i32>;

    /// Gives the guest `size` bytes of the caller's own memory, at
    /// `userspace_addr`, as its memory at `guest_phys_addr`.
    ///
    /// Slot, flags and errors are those of
    /// [`kvm_set_memory_region`](Self::kvm_set_memory_region), without its
    /// `EBUSY`; another address than the slot has gives `EINVAL` too.
    ///
    /// Replaces KVM_SET_USER_MEMORY_REGION. The proposal would wait for it
    /// ("a region of the host process address instead of a separate address
    /// range"), and so would the answer.
    ///
    /// # Safety
    ///
    /// The guest, and KVM for it, reads and writes the memory for as long as
    /// the slot, or an alias of it, is set: until then it has to stay mapped,
    /// and nothing of it may be what Rust takes to be its own. After that,
    /// nobody may ask for an alias of it: delete the slot rather than just
    /// close the virtual machine.
    unsafe fn kvm_set_user_memory_region(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
        userspace_addr: u64,
    ) -> Result<()>;

    /// Shows the guest a range of its memory a second time.
    ///
    /// The target has to lie within one slot that is not itself an alias;
    /// where that is read-only, so is the alias. A set alias can be moved, but
    /// has to be deleted, by a size of 0, before it can show something else.
    ///
    /// Errors: `EINVAL` for a number, flags, addresses, a size or a target
    /// that cannot be, or the deletion of an alias that is not set; `EEXIST`
    /// when a slot covers a part of the range.
    ///
    /// Replaces KVM_SET_MEMORY_ALIAS, which Linux has removed. It is the
    /// setting side of the proposal's kvm_get_memory_alias.
    fn kvm_set_memory_alias(&self, vm: BorrowedFd<'_>, alias: &kvm_memory_alias) -> Result<()>;

    /// Maps guest memory that [`kvm_set_memory_region`](Self::kvm_set_memory_region)
    /// made. The range has to lie within one such slot. The mapping outlives
    /// the slot and the virtual machine.
    ///
    /// Errors: `ENODEV` when there is no such memory, or `vm` is `/dev/kvm`;
    /// `EINVAL` for a size of 0 or an address that is no multiple of the page
    /// size.
    ///
    /// In the kernel this is mmap(2) of the virtual machine's file descriptor
    /// at the guest physical address, as it was in 2007: no call of its own.
    fn kvm_map_memory(
        &self,
        vm: BorrowedFd<'_>,
        guest_phys_addr: u64,
        size: usize,
    ) -> Result<GuestMemory>;
}
