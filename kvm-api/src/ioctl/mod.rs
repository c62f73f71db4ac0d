//! The backend that makes the ioctls of `/dev/kvm`.
//!
//! Most calls are one ioctl. The replacement of the two ioctls that Linux has removed is
//! in `memory.rs`.

mod memory;
mod request;

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;

use kvm_sys::*;
use nix::sys::signal::SigSet;

use self::memory::Memory;
use self::request::{request, request_fd, request_pointer};
use crate::signal::signal_mask;
use crate::{Errno, Exit, GuestMemory, Kvm, Result, RunMapping, msr_list};

/// KVM over the ioctls of `/dev/kvm`.
///
/// It owns the memory that [`kvm_set_memory_region`](Kvm::kvm_set_memory_region) gives
/// to a guest, and remembers the slots that were set through it, for aliases. Keep this
/// value and the descriptor of the VM for as long as the guest uses that memory.
///
/// It knows a VM by the number of its descriptor, from
/// [`kvm_create_vm`](Kvm::kvm_create_vm) or the first slot on. If it knew another VM by
/// that number, use a new `Ioctl` for a VM that was made by other means.
#[derive(Debug)]
pub struct Ioctl {
    kvm: OwnedFd,
    memory: Memory,
}

/// The reason why `/dev/kvm` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened.
    #[error("/dev/kvm cannot be opened: {0}")]
    Device(#[from] std::io::Error),
    /// The file is not KVM's.
    #[error("cannot get the API version of /dev/kvm: {0}")]
    Foreign(#[from] Errno),
    /// KVM's interface is not the one that has been stable since 2007.
    #[error("/dev/kvm has API version {0}, not {KVM_API_VERSION}")]
    Version(i32),
}

impl Ioctl {
    /// Opens `/dev/kvm`, close-on-exec, and checks its version.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened, or is not KVM's, or has another version.
    pub fn open() -> std::result::Result<Self, OpenError> {
        // The standard library adds O_CLOEXEC.
        let kvm = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")?
            .into();
        let ioctl = Self {
            kvm,
            memory: Memory::default(),
        };
        match ioctl.api_version(ioctl.as_fd())? {
            KVM_API_VERSION => Ok(ioctl),
            version => Err(OpenError::Version(version)),
        }
    }

    /// The version of the interface, which only `/dev/kvm` gives.
    fn api_version(&self, kvm: BorrowedFd<'_>) -> Result<i32> {
        // SAFETY: the request touches no memory.
        unsafe { request(kvm, KVM_GET_API_VERSION, 0) }
    }

    /// The lowest slot of the aliases. Fails if the descriptor is not a VM's.
    fn first_alias(&self, vm: BorrowedFd<'_>) -> Result<u32> {
        let slots = self.kvm_check_extension(vm, KVM_CAP_NR_MEMSLOTS)?;
        // `/dev/kvm` has that capability, too.
        if self.api_version(vm).is_ok() {
            return Err(Errno::EINVAL);
        }
        Ok(slots as u32 - KVM_ALIAS_SLOTS)
    }

    /// Makes a request that only `/dev/kvm` has, for a caller whose descriptor may be a
    /// VM's.
    ///
    /// The request fails with `ENOTTY` on a VM, and on a file that is not KVM's. On the
    /// latter KVM_CHECK_EXTENSION fails, too.
    #[inline]
    fn on_system<T>(
        &self,
        fd: BorrowedFd<'_>,
        mut request: impl FnMut(BorrowedFd<'_>) -> Result<T>,
    ) -> Result<T> {
        match request(fd) {
            Err(Errno::ENOTTY) => {
                self.kvm_check_extension(fd, 0)?;
                request(self.kvm.as_fd())
            }
            answer => answer,
        }
    }
}

impl AsFd for Ioctl {
    /// The file descriptor of `/dev/kvm`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kvm.as_fd()
    }
}

impl Kvm for Ioctl {
    fn kvm_create_vm(&self) -> Result<OwnedFd> {
        // SAFETY: the request touches no memory, and gives a new file
        // descriptor; the argument is the type of an ordinary machine.
        let vm = unsafe { request_fd(self.as_fd(), KVM_CREATE_VM, 0) }?;
        self.memory.begin(vm.as_fd());
        Ok(vm)
    }

    #[inline]
    fn kvm_get_msr_index_list(&self, kvm: BorrowedFd<'_>, list: &mut MsrList) -> Result<()> {
        msr_list::fill(list, |list| {
            self.on_system(kvm, |kvm| {
                // SAFETY: the kernel writes the header, and no more elements
                // than it says that there are.
                unsafe { request_pointer(kvm, KVM_GET_MSR_INDEX_LIST, list) }.map(drop)
            })
        })
    }

    #[inline]
    fn kvm_get_vcpu_mmap_size(&self, kvm: BorrowedFd<'_>) -> Result<usize> {
        // SAFETY: the request touches no memory.
        self.on_system(kvm, |kvm| unsafe {
            request(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
        })
        .map(|size| size as usize)
    }

    fn kvm_set_memory_region(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
    ) -> Result<()> {
        let first_alias = self.first_alias(vm)?;
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr,
            memory_size: size,
            userspace_addr: 0,
        };
        self.memory
            .change(vm, |slots| slots.set_region(vm, first_alias, region))
    }

    /// The ioctl takes the id of the vCPU, so this method tries ids from 0 on. The n-th
    /// vCPU of a VM takes n requests. The kernel refuses all but the last, each after
    /// most of the work.
    fn kvm_create_vcpu(&self, vm: BorrowedFd<'_>) -> Result<OwnedFd> {
        let mut id = 0;
        loop {
            // SAFETY: the request touches no memory, and gives a new file
            // descriptor.
            match unsafe { request_fd(vm, KVM_CREATE_VCPU, id) } {
                Err(Errno::EEXIST) => id += 1,
                vcpu => return vcpu,
            }
        }
    }

    #[inline]
    unsafe fn kvm_get_dirty_log(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        dirty_bitmap: &mut [u64],
    ) -> Result<()> {
        let mut log = kvm_dirty_log {
            slot,
            ..Default::default()
        };
        log.__bindgen_anon_1.dirty_bitmap = dirty_bitmap.as_mut_ptr().cast();
        // SAFETY: the caller says that the bitmap is as long as the slot's.
        unsafe { request_pointer(vm, KVM_GET_DIRTY_LOG, &raw const log) }.map(drop)
    }

    fn kvm_get_memory_alias(&self, vm: BorrowedFd<'_>, alias: &mut kvm_memory_alias) -> Result<()> {
        let first_alias = self.first_alias(vm)?;
        self.memory
            .read(vm, |slots| slots.get_alias(first_alias, alias))
    }

    #[inline]
    fn kvm_run<'r>(&self, vcpu: BorrowedFd<'_>, run: &'r mut RunMapping) -> Result<Exit<'r>> {
        // SAFETY: the kernel writes the vCPU's run mapping, which is only ever
        // copied from, and memory that the guest was given.
        unsafe { request(vcpu, KVM_RUN, 0) }.map(|_| run.exit())
    }

    #[inline]
    fn kvm_get_regs(&self, vcpu: BorrowedFd<'_>, regs: &mut kvm_regs) -> Result<()> {
        // SAFETY: the kernel writes one such structure.
        unsafe { request_pointer(vcpu, KVM_GET_REGS, regs) }.map(drop)
    }

    #[inline]
    fn kvm_set_regs(&self, vcpu: BorrowedFd<'_>, regs: &kvm_regs) -> Result<()> {
        // SAFETY: the kernel reads one such structure.
        unsafe { request_pointer(vcpu, KVM_SET_REGS, regs) }.map(drop)
    }

    #[inline]
    fn kvm_get_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &mut kvm_sregs) -> Result<()> {
        // SAFETY: the kernel writes one such structure.
        unsafe { request_pointer(vcpu, KVM_GET_SREGS, sregs) }.map(drop)
    }

    #[inline]
    fn kvm_set_sregs(&self, vcpu: BorrowedFd<'_>, sregs: &kvm_sregs) -> Result<()> {
        // SAFETY: the kernel reads one such structure.
        unsafe { request_pointer(vcpu, KVM_SET_SREGS, sregs) }.map(drop)
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
        let mut translation = kvm_translation {
            linear_address,
            ..Default::default()
        };
        // SAFETY: the kernel reads and writes one such structure.
        unsafe { request_pointer(vcpu, KVM_TRANSLATE, &raw mut translation) }?;
        *physical_address = translation.physical_address;
        *valid = translation.valid;
        *writeable = translation.writeable;
        *usermode = translation.usermode;
        Ok(())
    }

    #[inline]
    fn kvm_interrupt(&self, vcpu: BorrowedFd<'_>, irq: u32) -> Result<()> {
        let interrupt = kvm_interrupt { irq };
        // SAFETY: the kernel reads one such structure.
        unsafe { request_pointer(vcpu, KVM_INTERRUPT, &raw const interrupt) }.map(drop)
    }

    #[inline]
    fn kvm_debug_guest(&self, vcpu: BorrowedFd<'_>, debug: &kvm_guest_debug) -> Result<()> {
        // SAFETY: the kernel reads one such structure.
        unsafe { request_pointer(vcpu, KVM_SET_GUEST_DEBUG, debug) }.map(drop)
    }

    #[inline]
    fn kvm_get_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &mut Msrs) -> Result<usize> {
        let msrs = msrs.as_mut_fam_struct_ptr();
        // SAFETY: the kernel reads the header, and reads and writes as many
        // elements as it says that there are.
        unsafe { request_pointer(vcpu, KVM_GET_MSRS, msrs) }.map(|count| count as usize)
    }

    #[inline]
    fn kvm_set_msrs(&self, vcpu: BorrowedFd<'_>, msrs: &Msrs) -> Result<usize> {
        let msrs = msrs.as_fam_struct_ptr();
        // SAFETY: the kernel reads the header, and as many elements as it says
        // that there are.
        unsafe { request_pointer(vcpu, KVM_SET_MSRS, msrs) }.map(|count| count as usize)
    }

    #[inline]
    fn kvm_set_cpuid(&self, vcpu: BorrowedFd<'_>, cpuid: &CpuId) -> Result<()> {
        let cpuid = cpuid.as_fam_struct_ptr();
        // SAFETY: the kernel reads the header, and as many elements as it says
        // that there are.
        unsafe { request_pointer(vcpu, KVM_SET_CPUID2, cpuid) }.map(drop)
    }

    #[inline]
    fn kvm_set_signal_mask(&self, vcpu: BorrowedFd<'_>, mask: Option<&SigSet>) -> Result<()> {
        let mask = mask.map(signal_mask);
        let mask = mask.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the kernel reads one such structure, or takes NULL for none.
        unsafe { request_pointer(vcpu, KVM_SET_SIGNAL_MASK, mask) }.map(drop)
    }

    #[inline]
    fn kvm_get_fpu(&self, vcpu: BorrowedFd<'_>, fpu: &mut kvm_fpu) -> Result<()> {
        // SAFETY: the kernel writes one such structure.
        unsafe { request_pointer(vcpu, KVM_GET_FPU, fpu) }.map(drop)
    }

    #[inline]
    fn kvm_set_fpu(&self, vcpu: BorrowedFd<'_>, fpu: &kvm_fpu) -> Result<()> {
        // SAFETY: the kernel reads one such structure.
        unsafe { request_pointer(vcpu, KVM_SET_FPU, fpu) }.map(drop)
    }

    #[inline]
    fn kvm_check_extension(&self, kvm: BorrowedFd<'_>, extension: u32) -> Result<i32> {
        // SAFETY: the request touches no memory.
        unsafe { request(kvm, KVM_CHECK_EXTENSION, extension.into()) }
    }

    /// This call is more than its ioctl: it also records the slot, for aliases of it.
    unsafe fn kvm_set_user_memory_region(
        &self,
        vm: BorrowedFd<'_>,
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        size: u64,
        userspace_addr: u64,
    ) -> Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr,
            memory_size: size,
            userspace_addr,
        };
        // SAFETY: the caller answers for the memory.
        self.memory
            .change(vm, |slots| unsafe { slots.set(vm, &region, None) })
    }

    fn kvm_set_memory_alias(&self, vm: BorrowedFd<'_>, alias: &kvm_memory_alias) -> Result<()> {
        let first_alias = self.first_alias(vm)?;
        self.memory
            .change(vm, |slots| slots.set_alias(vm, first_alias, alias))
    }

    fn kvm_map_memory(
        &self,
        vm: BorrowedFd<'_>,
        guest_phys_addr: u64,
        size: usize,
    ) -> Result<GuestMemory> {
        self.kvm_check_extension(vm, 0)?;
        self.memory
            .read(vm, |slots| slots.map(guest_phys_addr, size))
    }
}
