//! The list of MSRs, whose length the kernel writes.

use kvm_sys::{MsrList, kvm_msr_list};

use crate::Result;

/// Fills `list` by `call`, which takes a pointer to the header.
///
/// If the list is too short, the kernel writes the length that it needs into the header.
/// This function then restores the length, which bounds the access to the elements.
#[inline]
pub(crate) fn fill(
    list: &mut MsrList,
    call: impl FnOnce(*mut kvm_msr_list) -> Result<()>,
) -> Result<()> {
    let room = list.as_fam_struct_ref().nmsrs;
    let result = call(list.as_mut_fam_struct_ptr());
    if result.is_err() {
        // SAFETY: it is the length that the list had.
        unsafe { list.as_mut_fam_struct() }.nmsrs = room;
    }
    result
}
