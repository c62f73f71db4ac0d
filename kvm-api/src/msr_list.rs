//! The one list whose length the kernel writes.

use kvm_sys::{MsrList, kvm_msr_list};

use crate::Result;

/// Has `call` fill `list`, whose header is where the pointer points.
///
/// A list that is too short comes back from the kernel saying how long it would
/// have to be. Its length is put back then: safe code trusts it for the bounds
/// of the elements.
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
