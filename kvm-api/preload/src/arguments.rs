//! The arguments of a call, from the argument of its ioctl.

use std::mem::offset_of;

use kvm_sys::{
    Call, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_GET_DIRTY_LOG, KVM_GET_VCPU_MMAP_SIZE, KVM_INTERRUPT,
    KVM_RUN, KVM_SET_USER_MEMORY_REGION, KVM_TRANSLATE, kvm_dirty_log, kvm_interrupt,
    kvm_translation, kvm_userspace_memory_region,
};
use libc::{c_int, c_long, c_ulong};

/// The registers of a call. Those that it does not use are 0.
pub(crate) type Arguments = [c_ulong; 6];

/// The arguments of `call` in place of its ioctl on `fd` with `arg`. Some calls take the
/// fields of the structure to which the ioctl points. `None` if the structure is not
/// readable: then the ioctl reports the error. Changes `errno`.
pub(crate) fn arguments(call: &Call, fd: c_int, arg: c_ulong) -> Option<Arguments> {
    // The kernel reads the lower half.
    let fd = fd as c_ulong;
    Some(match call.request? {
        KVM_CREATE_VM => [0; 6],
        KVM_GET_VCPU_MMAP_SIZE | KVM_CREATE_VCPU | KVM_RUN => [fd, 0, 0, 0, 0, 0],
        KVM_GET_DIRTY_LOG => {
            let log: kvm_dirty_log = copy(arg)?;
            // SAFETY: one member of the union is a number, and the other, a pointer, can
            // be read as a number.
            let bitmap = unsafe { log.__bindgen_anon_1.padding2 };
            [fd, log.slot.into(), bitmap, 0, 0, 0]
        }
        KVM_TRANSLATE => {
            let translation: kvm_translation = copy(arg)?;
            let field = |offset: usize| arg.wrapping_add(offset as c_ulong);
            [
                fd,
                translation.linear_address,
                field(offset_of!(kvm_translation, physical_address)),
                field(offset_of!(kvm_translation, valid)),
                field(offset_of!(kvm_translation, writeable)),
                field(offset_of!(kvm_translation, usermode)),
            ]
        }
        KVM_INTERRUPT => {
            let interrupt: kvm_interrupt = copy(arg)?;
            [fd, interrupt.irq.into(), 0, 0, 0, 0]
        }
        KVM_SET_USER_MEMORY_REGION => {
            let region: kvm_userspace_memory_region = copy(arg)?;
            [
                fd,
                region.slot.into(),
                region.flags.into(),
                region.guest_phys_addr,
                region.memory_size,
                region.userspace_addr,
            ]
        }
        _ => [fd, arg, 0, 0, 0, 0],
    })
}

/// A copy of the structure at an address, if all of it can be read.
fn copy<T: Plain>(address: c_ulong) -> Option<T> {
    let last = address.checked_add(size_of::<T>() as c_ulong - 1)?;
    if !is_readable(address) || !is_readable(last) {
        return None;
    }
    let pointer = std::ptr::with_exposed_provenance::<T>(usize::try_from(address).ok()?);
    // SAFETY: the structure is smaller than a page, has numbers only, and both its ends
    // can be read. A program whose other thread unmaps it meanwhile has a race of its own.
    Some(unsafe { pointer.read_unaligned() })
}

/// A structure of numbers that is smaller than a page.
trait Plain: Copy {}
impl Plain for kvm_dirty_log {}
impl Plain for kvm_translation {}
impl Plain for kvm_interrupt {}
impl Plain for kvm_userspace_memory_region {}

/// Whether a byte can be read, without a read of it: the kernel copies the eight bytes
/// around it for a call that then fails with any value.
fn is_readable(address: c_ulong) -> bool {
    const NO_SUCH_CHANGE: c_long = -1;
    const NO_RESULT: c_long = 0;
    let around = address & !7;
    // Address 0 stands for no set.
    if around == 0 {
        return false;
    }
    // SAFETY: the kernel refuses the change of the signal mask, which is not valid, after
    // it has read the mask.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            NO_SUCH_CHANGE,
            around,
            NO_RESULT,
            size_of::<u64>(),
        );
        *libc::__errno_location() == libc::EINVAL
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use kvm_sys::FlatCall;
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    use super::*;

    fn address<T>(value: &T) -> c_ulong {
        std::ptr::from_ref(value).expose_provenance() as c_ulong
    }

    #[test]
    fn a_pointer_passes_as_it_is() {
        let arguments = arguments(&FlatCall::kvm_get_regs, 7, 0xdead);
        assert_eq!(arguments, Some([7, 0xdead, 0, 0, 0, 0]));
    }

    #[test]
    fn a_call_without_arguments_gets_none() {
        assert_eq!(arguments(&FlatCall::kvm_create_vm, 7, 0), Some([0; 6]));
        let vcpu = arguments(&FlatCall::kvm_create_vcpu, 7, 2);
        assert_eq!(vcpu, Some([7, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn structures_are_taken_apart() {
        let region = kvm_userspace_memory_region {
            slot: 0x1_0002,
            flags: 3,
            guest_phys_addr: 4,
            memory_size: 5,
            userspace_addr: 6,
        };
        let call_of = |call: FlatCall, value| arguments(&call, 7, value).unwrap();
        assert_eq!(
            call_of(FlatCall::kvm_set_user_memory_region, address(&region)),
            [7, 0x1_0002, 3, 4, 5, 6]
        );
        let mut log = kvm_dirty_log {
            slot: 1,
            padding1: 2,
            ..Default::default()
        };
        log.__bindgen_anon_1.padding2 = 3;
        assert_eq!(
            call_of(FlatCall::kvm_get_dirty_log, address(&log)),
            [7, 1, 3, 0, 0, 0]
        );
        let interrupt = kvm_interrupt { irq: 32 };
        assert_eq!(
            call_of(FlatCall::kvm_interrupt, address(&interrupt)),
            [7, 32, 0, 0, 0, 0]
        );
        let translation = kvm_translation {
            linear_address: 0x1234,
            ..Default::default()
        };
        assert_eq!(
            call_of(FlatCall::kvm_translate, address(&translation)),
            [
                7,
                0x1234,
                address(&translation.physical_address),
                address(&translation.valid),
                address(&translation.writeable),
                address(&translation.usermode),
            ]
        );
    }

    #[test]
    fn an_unreadable_structure_is_left_to_the_kernel() {
        const PAGE: usize = 4096;
        let two = NonZero::new(2 * PAGE).unwrap();
        let flags = MapFlags::MAP_PRIVATE;
        // SAFETY: new memory, wherever there is room.
        let pages = unsafe { mmap_anonymous(None, two, ProtFlags::PROT_READ, flags) }.unwrap();
        // SAFETY: the second of the pages, which nobody uses.
        unsafe { munmap(pages.add(PAGE), PAGE) }.unwrap();
        let start = pages.as_ptr().expose_provenance() as c_ulong;
        let end = start + PAGE as c_ulong;

        let size = size_of::<kvm_userspace_memory_region>() as c_ulong;
        let region = |at| arguments(&FlatCall::kvm_set_user_memory_region, 7, at);
        assert_eq!(region(end - size), Some([7, 0, 0, 0, 0, 0]));
        assert_eq!(region(end - size + 1), None);
        assert_eq!(region(end), None);
        assert_eq!(region(0), None);
        assert_eq!(region(c_ulong::MAX), None);
        // SAFETY: the first page, which nobody uses any more.
        unsafe { munmap(pages, PAGE) }.unwrap();
    }
}
