//! The trait: the proposal's functions, in its order and under its names.

use std::os::fd::{BorrowedFd, OwnedFd};

use kvm_sys::{
    CpuId, MsrList, Msrs, kvm_fpu, kvm_guest_debug, kvm_memory_alias, kvm_regs, kvm_sregs,
};
use nix::sys::signal::SigSet;

use crate::{Exit, GuestMemory, Result, RunMapping};

/// KVM as a flat set of calls.
///
/// The methods are the 21 functions of the proposal of 17 July 2007, the functions that
/// the answer to it adds, and [`kvm_map_memory`](Self::kvm_map_memory). Each names its
/// line of the proposal and the ioctl that it replaces. All backends use the same
/// objects of the kernel, so a file descriptor of one backend is good for the others.
///
/// # Errors
///
/// An error is the errno of the kernel. Each method names its own errors. A method that
/// takes a file descriptor also fails with
///
/// * `EBADF` if the descriptor is closed;
/// * `ENOTTY` if it is not a descriptor of KVM, or if it belongs to a VM and the method
///   takes another kind;
/// * `EINVAL` if it belongs to a vCPU or to `/dev/kvm` and the method takes another kind;
/// * `EIO` if another process has made the VM (after fork(2), the child is another
///   process), or if the VM is dead.
///
/// Any method can fail with `ENOMEM`.
pub trait Kvm {
    /// Makes a VM without memory and vCPUs.
    ///
    /// The file descriptor is close-on-exec. The VM lives until its descriptor and the
    /// descriptors of its vCPUs are closed.
    ///
    /// The system call opens `/dev/kvm` as open(2) does, so the caller needs access to
    /// that file.
    ///
    /// Replaces KVM_CREATE_VM. Proposal: `int kvm_create_vm(void);`
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`. The system call also has the errors of open(2), for example
    /// `EACCES`, `ENODEV`, `ENOENT` or `EPERM`.
    fn kvm_create_vm(&self) -> Result<OwnedFd>;

    /// Lists the MSRs of this host that KVM saves and restores.
    ///
    /// `fd` is the descriptor of a VM or of `/dev/kvm`. The length of `list` is its room
    /// before the call, and the number of MSRs after it.
    ///
    /// Replaces KVM_GET_MSR_INDEX_LIST. Proposal:
    /// `int kvm_get_msr_index_list(int fd, sttuct kvm_msr_list);`
    ///
    /// # Errors
    ///
    /// `E2BIG` if `list` is too short. The call leaves it unchanged then.
    /// [`kvm_bindings::KVM_MAX_MSR_ENTRIES`] elements are enough for any host.
    ///
    /// [`kvm_bindings::KVM_MAX_MSR_ENTRIES`]: kvm_sys::KVM_MAX_MSR_ENTRIES
    fn kvm_get_msr_index_list(&self, fd: BorrowedFd<'_>, list: &mut MsrList) -> Result<()>;

    /// Gets the size in bytes of the mapping that [`RunMapping::new`] makes.
    ///
    /// `fd` is the descriptor of a VM or of `/dev/kvm`.
    ///
    /// Replaces KVM_GET_VCPU_MMAP_SIZE. Proposal:
    /// `size_t kvm_get_vcpu_mmap_size(int fd);`
    fn kvm_get_vcpu_mmap_size(&self, fd: BorrowedFd<'_>) -> Result<usize>;

    /// Gives the guest `size` bytes of memory at `guest_phys_addr`. The kernel allocates
    /// the memory, which is zero.
    ///
    /// `slot` is the number of the region. It is less than KVM_CAP_NR_MEMSLOTS; aliases
    /// use the last [`KVM_ALIAS_SLOTS`](kvm_sys::KVM_ALIAS_SLOTS) numbers. `flags` are
    /// KVM_MEM_LOG_DIRTY_PAGES and KVM_MEM_READONLY. The address and the size are
    /// multiples of the page size. A second call with the same size moves the slot with
    /// its memory, or changes its flags. A size of 0 deletes the slot.
    /// [`kvm_map_memory`](Self::kvm_map_memory) maps the memory.
    ///
    /// Replaces KVM_SET_MEMORY_REGION, which Linux has removed. Proposal: `int
    /// kvm_set_memory_region(int fd, unsigned slot, unsigned flags, __u64
    /// guest_phys_addr, __u64 size);`
    ///
    /// # Errors
    ///
    /// `EINVAL` for a slot, flags, an address or a size that KVM does not take, for a
    /// size that differs from the slot's, and for the deletion of a slot that is not set;
    /// `EEXIST` if another slot covers a part of the range; `EBUSY` for the deletion of
    /// memory that an alias shows.
    fn kvm_set_memory_region(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
    ) -> Result<()>;

    /// Makes a vCPU with the lowest free id.
    ///
    /// Replaces KVM_CREATE_VCPU, which takes the id. Proposal:
    /// `int kvm_create_vcpu(int fd);`
    ///
    /// # Errors
    ///
    /// `EINVAL` if the VM cannot have more vCPUs; `EMFILE`, `ENFILE`.
    fn kvm_create_vcpu(&self, vm: BorrowedFd<'_>) -> Result<OwnedFd>;

    /// Fetches the bitmap of the pages of a slot that were written since the last fetch.
    /// Bit n of word n / 64 is for page n of the slot.
    ///
    /// Replaces KVM_GET_DIRTY_LOG. Proposal:
    /// `int kvm_get_dirty_log(int fd, unsigned slot, void *dirty_bitmap);`
    ///
    /// # Errors
    ///
    /// `ENOENT` if the slot is not set or lacks KVM_MEM_LOG_DIRTY_PAGES; `EINVAL` for a
    /// slot out of range; `ENXIO` if the VM has a dirty ring.
    ///
    /// # Safety
    ///
    /// The kernel does not know the length of `dirty_bitmap`, which must have a bit for
    /// each page of the slot: at least `pages.div_ceil(64)` words.
    unsafe fn kvm_get_dirty_log(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        dirty_bitmap: &mut [u64],
    ) -> Result<()>;

    /// Reads back the alias whose number is in `alias.slot`.
    ///
    /// If the alias is not set, all other fields are 0. The target is the address of the
    /// memory in the lowest slot that shows it now. It is all ones if no slot does.
    ///
    /// Replaces nothing: 2007 had only KVM_SET_MEMORY_ALIAS, see
    /// [`kvm_set_memory_alias`](Self::kvm_set_memory_alias). Proposal: `int
    /// kvm_get_memory_alias(int fd, struct kvm_memory_region *region);`
    ///
    /// # Errors
    ///
    /// `EINVAL` for a number out of range.
    fn kvm_get_memory_alias(&self, vm: BorrowedFd<'_>, alias: &mut kvm_memory_alias) -> Result<()>;

    /// Runs the guest until it exits to user space. `run` is the run mapping of the vCPU,
    /// from which [`Exit`] reads the exit.
    ///
    /// Replaces KVM_RUN. Proposal: `int kvm_run(int fd);`
    ///
    /// # Errors
    ///
    /// `EINTR` if a signal is pending or `immediate_exit` is set; `EAGAIN` if the vCPU
    /// waits to be started; `EFAULT` if the guest accesses memory whose host address is
    /// bad.
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
    /// Replaces KVM_SET_SREGS. Proposal:
    /// `int kvm_set_sregs(int fd, const struct kvm_sregs *sregs);`
    ///
    /// # Errors
    ///
    /// `EINVAL` for a state that is not valid for the processor.
    fn kvm_set_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &kvm_sregs) -> Result<()>;

    /// Walks the page tables of the guest from `linear_address` to the guest physical
    /// address.
    ///
    /// `valid` is 1 if there is one. Otherwise it is 0, and `physical_address` has no
    /// meaning. KVM always sets `writeable` to 1 and `usermode` to 0.
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

    /// Queues the interrupt with vector `irq`. The guest takes it in the next
    /// [`kvm_run`](Self::kvm_run), if its interrupts are enabled.
    ///
    /// Replaces KVM_INTERRUPT. Proposal:
    /// `int kvm_interrupt(int fd, __u32 irq);`
    ///
    /// # Errors
    ///
    /// `EINVAL` for a vector of 256 or more; `ENXIO` if the interrupt controller is in
    /// the kernel; `EEXIST` if it is split and a vector is pending.
    fn kvm_interrupt(&self, vcpu: BorrowedFd<'_>, irq: u32) -> Result<()>;

    /// Sets breakpoints and single-stepping, whose exits are
    /// [`Reason::Debug`](crate::Reason::Debug).
    ///
    /// Replaces KVM_SET_GUEST_DEBUG, once KVM_DEBUG_GUEST. Proposal:
    /// `int kvm_debug_guest(...);`
    ///
    /// # Errors
    ///
    /// `EBUSY` if the call injects an exception while one is pending; `EINVAL` if the
    /// state of the guest is hidden from the host.
    fn kvm_debug_guest(&self, vcpu: BorrowedFd<'_>, debug: &kvm_guest_debug) -> Result<()>;

    /// Reads the MSRs whose indices `msrs` holds. Returns the number of MSRs
    /// that were read: KVM stops at the first that it cannot read.
    ///
    /// Replaces KVM_GET_MSRS. Proposal: `int kvm_get_msrs(...);`
    ///
    /// # Errors
    ///
    /// `E2BIG` for 256 or more MSRs. Over ioctl, the descriptor of `/dev/kvm` is no
    /// error: that file has a request of the same code, for MSRs with features.
    fn kvm_get_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &mut Msrs) -> Result<usize>;

    /// Sets the MSRs that `msrs` holds. Returns the number of MSRs that were
    /// set: KVM stops at the first that it cannot set.
    ///
    /// Replaces KVM_SET_MSRS. Proposal: `int kvm_set_msrs(...);`
    ///
    /// # Errors
    ///
    /// `E2BIG` for 256 or more MSRs.
    fn kvm_set_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &Msrs) -> Result<usize>;

    /// Sets the results of the CPUID instruction of the guest.
    ///
    /// Replaces KVM_SET_CPUID2, once KVM_SET_CPUID. Proposal:
    /// `int kvm_set_cpuid(...);`
    ///
    /// # Errors
    ///
    /// `E2BIG` for more than 256 entries; `EINVAL` for features that KVM cannot offer,
    /// and for a change after the vCPU has run.
    fn kvm_set_cpuid(&self, vcpu: BorrowedFd<'_>, cpuid: &CpuId) -> Result<()>;

    /// Sets the signals that are blocked while the guest runs, in place of the signal
    /// mask of the thread. `None` returns to the mask of the thread.
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

    /// Asks for a capability. The result is 0 if KVM lacks it, and otherwise 1, or the
    /// number that the capability stands for.
    ///
    /// `fd` is the descriptor of a VM or of `/dev/kvm`; `extension` is a `KVM_CAP_` number.
    ///
    /// Replaces KVM_CHECK_EXTENSION. The proposal drops it; the answer keeps it: "We will
    /// need CHECK_EXTENSION as long as we are unable to predict the future".
    fn kvm_check_extension(&self, fd: BorrowedFd<'_>, extension: u32) -> Result<i32>;

    /// Gives the guest `size` bytes of the memory of the caller, at `userspace_addr`, as
    /// its memory at `guest_phys_addr`. The slot and the flags are as for
    /// [`kvm_set_memory_region`](Self::kvm_set_memory_region).
    ///
    /// Replaces KVM_SET_USER_MEMORY_REGION. The proposal leaves it for later ("a region
    /// of the host process address instead of a separate address range"), and so does the
    /// answer.
    ///
    /// # Errors
    ///
    /// Those of [`kvm_set_memory_region`](Self::kvm_set_memory_region) except `EBUSY`;
    /// `EINVAL` also for an address that differs from the slot's.
    ///
    /// # Safety
    ///
    /// The guest, and KVM on its behalf, reads and writes the memory while the slot or an
    /// alias of it is set. Until then the memory has to stay mapped in the process, and
    /// Rust must not own any of it. Delete the slot before the memory goes: to close the
    /// VM is not enough, because a later alias could show the memory.
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
    /// The target has to be within one slot that is not an alias. The alias of a
    /// read-only slot is read-only. A call can move an alias. To show other memory, the
    /// caller first deletes the alias by a size of 0.
    ///
    /// Replaces KVM_SET_MEMORY_ALIAS, which Linux has removed. It sets what
    /// kvm_get_memory_alias of the proposal gets.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a number, flags, addresses, a size or a target that is not valid, and
    /// for the deletion of an alias that is not set; `EEXIST` if a slot covers a part of
    /// the range.
    fn kvm_set_memory_alias(&self, vm: BorrowedFd<'_>, alias: &kvm_memory_alias) -> Result<()>;

    /// Maps guest memory that [`kvm_set_memory_region`](Self::kvm_set_memory_region)
    /// made. The range has to be within one such slot. The mapping outlives the slot and
    /// the VM.
    ///
    /// With ioctls a program maps the descriptor of the VM by mmap(2) at the guest physical
    /// address, as in 2007. The system call does the same.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no such memory, or `vm` is `/dev/kvm`; `EINVAL` for a size of
    /// 0, and for an address that is no multiple of the page size.
    fn kvm_map_memory(
        &self,
        vm: BorrowedFd<'_>,
        guest_phys_addr: u64,
        size: usize,
    ) -> Result<GuestMemory>;
}
