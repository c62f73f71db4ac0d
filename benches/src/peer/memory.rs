//! Guest memory by slots.

use std::ops::Range;

use kvm_api::ioctl::Ioctl;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

use crate::backend::{PAGE, PAGES, Slots, Window};

impl Slots<Ioctl> for VmFd {
    #[inline(always)]
    fn set(&self, window: &Window<'_, Ioctl>, slot: u32, pages: Range<u64>, host: u64, flags: u32) {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: window.guest(pages.start),
            memory_size: (pages.end - pages.start) * PAGE,
            userspace_addr: window.host(host),
        };
        // SAFETY: the window has the memory, and goes last.
        unsafe { self.set_user_memory_region(region) }.unwrap();
    }

    fn written(&self, _window: &Window<'_, Ioctl>, slot: u32) -> u64 {
        self.get_dirty_log(slot, (PAGES * PAGE) as usize).unwrap()[0]
    }
}
