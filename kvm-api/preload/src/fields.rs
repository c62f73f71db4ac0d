//! The structures of ioctls whose calls take the fields as arguments.

use std::arch::asm;
use std::mem::offset_of;

use kvm_sys::instruction::{syscall2, syscall3, syscall4, syscall6};
use kvm_sys::slot::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use kvm_sys::{
    kvm_dirty_log, kvm_interrupt, kvm_translation, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};
use libc::c_long;

const PAGE: usize = 0x1000;

/// A structure of numbers that is smaller than a page.
pub(crate) trait Fields: Copy {
    /// Whether the call can express them.
    fn fit(&self) -> bool {
        true
    }

    /// Makes the call with this number on a descriptor. `at` is the address of the
    /// structure.
    ///
    /// # Safety
    ///
    /// As for the ioctl.
    unsafe fn call(&self, number: c_long, fd: usize, at: usize) -> isize;
}

impl Fields for kvm_interrupt {
    #[inline(always)]
    unsafe fn call(&self, number: c_long, fd: usize, _: usize) -> isize {
        // SAFETY: the caller vouches for the call.
        unsafe { syscall2(number, fd, self.irq as usize) }
    }
}

impl Fields for kvm_dirty_log {
    #[inline(always)]
    unsafe fn call(&self, number: c_long, fd: usize, _: usize) -> isize {
        // SAFETY: the caller vouches for the call. One member of the union is a number, and
        // the other, a pointer, can be read as a number.
        unsafe {
            let bitmap = self.__bindgen_anon_1.padding2 as usize;
            syscall3(number, fd, self.slot as usize, bitmap)
        }
    }
}

impl Fields for kvm_translation {
    #[inline(always)]
    unsafe fn call(&self, number: c_long, fd: usize, at: usize) -> isize {
        // The call writes to the fields of the program, not to those of the copy.
        let physical_address = at.wrapping_add(offset_of!(Self, physical_address));
        let valid = at.wrapping_add(offset_of!(Self, valid));
        let writeable = at.wrapping_add(offset_of!(Self, writeable));
        let usermode = at.wrapping_add(offset_of!(Self, usermode));
        let linear = self.linear_address as usize;
        // SAFETY: the caller vouches for the call.
        unsafe {
            syscall6(
                number,
                fd,
                linear,
                physical_address,
                valid,
                writeable,
                usermode,
            )
        }
    }
}

impl Fields for kvm_userspace_memory_region {
    #[inline(always)]
    unsafe fn call(&self, number: c_long, fd: usize, _: usize) -> isize {
        let (slot, flags) = (self.slot as usize, self.flags as usize);
        let (start, size) = (self.guest_phys_addr as usize, self.memory_size as usize);
        let memory = self.userspace_addr as usize;
        // SAFETY: the caller vouches for the call.
        unsafe { syscall6(number, fd, slot, flags, start, size, memory) }
    }
}

impl Fields for kvm_userspace_memory_region2 {
    /// The fields for a `guest_memfd` count only with a flag that the call does not take.
    #[inline(always)]
    fn fit(&self) -> bool {
        self.flags & !(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY) == 0
    }

    #[inline(always)]
    unsafe fn call(&self, number: c_long, fd: usize, at: usize) -> isize {
        let region = kvm_userspace_memory_region {
            slot: self.slot,
            flags: self.flags,
            guest_phys_addr: self.guest_phys_addr,
            memory_size: self.memory_size,
            userspace_addr: self.userspace_addr,
        };
        // SAFETY: the caller vouches for the call.
        unsafe { region.call(number, fd, at) }
    }
}

/// Whether a structure is in the page at which the stack ends now. This page can be read.
/// Most programs have the structure there.
#[inline(always)]
pub(crate) fn is_in_page_of_stack<T: Fields>(start: usize) -> bool {
    let end: usize;
    // SAFETY: the instruction copies a register.
    unsafe { asm!("mov {}, rsp", out(reg) end, options(nomem, nostack, preserves_flags)) };
    start.wrapping_sub(end & !(PAGE - 1)) <= PAGE - size_of::<T>()
}

/// Whether all of a structure can be read.
pub(crate) fn can_be_read<T: Fields>(start: usize) -> bool {
    let Some(last) = start.checked_add(size_of::<T>() - 1) else {
        return false;
    };
    let one_page = start / PAGE == last / PAGE;
    is_readable(start) && (one_page || is_readable(last))
}

/// Whether a byte can be read, without a read of it: the kernel copies the eight bytes
/// around it for a call that then fails with any value.
fn is_readable(at: usize) -> bool {
    const NO_SUCH_CHANGE: usize = usize::MAX;
    const NO_RESULT: usize = 0;
    let around = at & !7;
    // Address 0 stands for no set.
    if around == 0 {
        return false;
    }
    let (number, size) = (libc::SYS_rt_sigprocmask, size_of::<u64>());
    // SAFETY: the kernel refuses the change of the signal mask, which is not valid, after
    // it has read the mask.
    let answer = unsafe { syscall4(number, NO_SUCH_CHANGE, around, NO_RESULT, size) };
    answer == -(libc::EINVAL as isize)
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    use super::*;

    #[test]
    fn a_region_with_more_than_the_call_takes_does_not_fit() {
        let region = |flags| kvm_userspace_memory_region2 {
            flags,
            ..Default::default()
        };
        assert!(region(0).fit());
        assert!(region(3).fit());
        for bit in 2..u32::BITS {
            assert!(!region(1 << bit).fit());
        }
    }

    #[test]
    fn the_page_of_the_stack_is_told_from_others() {
        let here = 0_u8;
        let page = (&raw const here).addr() & !(PAGE - 1);
        let size = size_of::<kvm_dirty_log>();
        let is_in = is_in_page_of_stack::<kvm_dirty_log>;
        assert!(is_in(page));
        assert!(is_in(page + PAGE - size));
        assert!(!is_in(page - 1));
        assert!(!is_in(page + PAGE - size + 1));
        assert!(!is_in(0));
        assert!(!is_in(usize::MAX));
    }

    #[test]
    fn what_cannot_be_read_is_told_from_what_can() {
        let two = NonZero::new(2 * PAGE).unwrap();
        let flags = MapFlags::MAP_PRIVATE;
        // SAFETY: new memory, wherever there is room.
        let pages = unsafe { mmap_anonymous(None, two, ProtFlags::PROT_READ, flags) }.unwrap();
        // SAFETY: the second of the pages, which nobody uses.
        unsafe { munmap(pages.add(PAGE), PAGE) }.unwrap();
        let start = pages.addr().get();
        let end = start + PAGE;

        let size = size_of::<kvm_userspace_memory_region>();
        let can_be_read = can_be_read::<kvm_userspace_memory_region>;
        assert!(can_be_read(start));
        assert!(can_be_read(end - size));
        for at in [end - size + 1, end, 0, usize::MAX] {
            assert!(!can_be_read(at), "{at:#x}");
        }
        // SAFETY: the first page, which nobody uses any more.
        unsafe { munmap(pages, PAGE) }.unwrap();
    }
}
