//! A signal set as the kernel has it.

use kvm_sys::{kernel_sigset, kvm_signal_mask_set};
use nix::sys::signal::SigSet;

/// The mask that KVM takes, of a set as the C library has it.
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
