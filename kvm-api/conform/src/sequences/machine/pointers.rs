//! Raw calls with invalid pointers, by any interface.

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use kvm_api::files::File;
use kvm_api::kvm_sys::*;
use kvm_api::{Errno, Form};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::sequences::model::memory::PAGE;
use crate::sequences::steps::{Pointer, Registers};

/// Makes the call with such a pointer, by a form. For `bound`, the vCPU must be
/// bound. A call that sets registers sets the current values. A call that gets
/// registers must deliver them.
pub fn point(
    registers: Registers,
    pointer: Pointer,
    vcpu: BorrowedFd<'_>,
    by: Form,
) -> Result<(), Errno> {
    let size = size_of_registers(registers);
    let pages = Pages::new()?;
    let page = PAGE as usize;
    let at = match pointer {
        Pointer::Null => 0,
        Pointer::Straddling | Pointer::HalfMapped => pages.address() + page - size / 2,
        Pointer::Odd => pages.address() + 1,
        Pointer::Unmapped | Pointer::ReadOnly => pages.address(),
    };
    let now = pages.address() + page + page / 2;
    make(registers.getter(), vcpu, now, by)?;
    if at != 0 {
        pages.copy(now, at, size);
    }
    match pointer {
        Pointer::Unmapped => pages.protect(0, ProtFlags::PROT_NONE)?,
        Pointer::ReadOnly => pages.protect(0, ProtFlags::PROT_READ)?,
        Pointer::HalfMapped => pages.protect(1, ProtFlags::PROT_NONE)?,
        _ => {}
    }
    make(registers, vcpu, at, by)?;
    if pointer == Pointer::ReadOnly {
        return Ok(());
    }
    assert!(
        pages.same(now, at, size),
        "what arrives is not what there is"
    );
    Ok(())
}

fn make(registers: Registers, vcpu: BorrowedFd<'_>, at: usize, by: Form) -> Result<(), Errno> {
    let (call, fd) = (registers.call(), vcpu.as_raw_fd());
    // SAFETY: what is pointed to is not what Rust takes to be its own.
    let answer = unsafe {
        match by {
            Form::Ioctl => {
                let request = call.request.expect("Linux has the ioctls of registers");
                libc::ioctl(fd, request, at).into()
            }
            Form::Syscall | Form::Ranges => libc::syscall(call.number, fd, at),
            Form::Merged => {
                let number = if registers.sets() {
                    __NR_kvm_set_state
                } else {
                    __NR_kvm_get_state
                };
                let state = state(registers, at);
                libc::syscall(number, fd, &raw const state, size_of_val(&state))
            }
            Form::Files => {
                let file = File::of(&call).expect("registers have a file");
                let file = file.open(vcpu)?;
                let number = if registers.sets() {
                    libc::SYS_write
                } else {
                    libc::SYS_read
                };
                libc::syscall(number, file.as_raw_fd(), at, size_of_registers(registers))
            }
            Form::Bound => libc::syscall(call.bound.expect("registers are a vcpu's"), at),
        }
    };
    Errno::result(answer).map(drop)
}

fn size_of_registers(registers: Registers) -> usize {
    registers
        .call()
        .structure
        .expect("registers are a structure")
        .size
}

/// The argument of the merged call that transfers the same part.
fn state(registers: Registers, at: usize) -> kvm_vcpu_state {
    let mut state = kvm_vcpu_state::default();
    let pointer = match registers.getter() {
        Registers::GetRegs => &mut state.regs,
        Registers::GetSregs => &mut state.sregs,
        _ => &mut state.fpu,
    };
    *pointer = at as u64;
    state.parts = registers
        .call()
        .merged
        .expect("they are a part of the state");
    state
}

/// Two pages of memory, one of which may be inaccessible.
struct Pages(NonNull<u8>);

const SIZE: NonZeroUsize = NonZeroUsize::new(2 * PAGE as usize).expect("two pages are some");

impl Pages {
    fn new() -> Result<Self, Errno> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: no address is given, so no memory in use is replaced.
        let start = unsafe { mmap_anonymous(None, SIZE, access, MapFlags::MAP_PRIVATE) }?;
        Ok(Self(start.cast()))
    }

    fn address(&self) -> usize {
        self.0.as_ptr().expose_provenance()
    }

    fn at(&self, address: usize) -> *mut u8 {
        self.0.as_ptr().with_addr(address)
    }

    fn copy(&self, from: usize, to: usize, size: usize) {
        // SAFETY: both are within the pages, which can be read and written yet.
        unsafe { self.at(from).copy_to(self.at(to), size) };
    }

    fn same(&self, a: usize, b: usize, size: usize) -> bool {
        // SAFETY: both are within the pages, nothing of which is written now.
        let [a, b] = [a, b].map(|at| unsafe { std::slice::from_raw_parts(self.at(at), size) });
        a == b
    }

    fn protect(&self, page: usize, access: ProtFlags) -> Result<(), Errno> {
        let size = PAGE as usize;
        // SAFETY: the page is this value's own, and nothing refers to it.
        unsafe { mprotect(self.0.byte_add(page * size).cast(), size, access) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the pages are this value's own, and nothing refers to them.
        let _ = unsafe { munmap(self.0.cast(), SIZE.get()) };
    }
}
