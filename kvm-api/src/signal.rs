//! The signal set of the kernel.

use kvm_sys::{kernel_sigset, kvm_signal_mask_set};
use nix::sys::signal::SigSet;

/// Makes the mask for KVM from a set of the C library.
#[inline]
pub(crate) fn signal_mask(set: &SigSet) -> kvm_signal_mask_set {
    let set: *const libc::sigset_t = set.as_ref();
    kvm_signal_mask_set {
        len: size_of::<kernel_sigset>() as u32,
        // SAFETY: the C library's set is longer than the kernel's, whose
        // signals are in its first word.
        sigset: unsafe { set.cast::<kernel_sigset>().read() },
    }
}
