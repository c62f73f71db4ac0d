//! Raw calls with invalid pointers, by any interface.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use kvm_api::files::File;
use kvm_api::kvm_sys::*;
use kvm_api::{Errno, Form, GuestMemory};
use nix::sys::mman::{ProtFlags, mprotect};

use crate::sequences::model::memory::PAGE;
use crate::sequences::steps::{Pointer, Registers};

const PAGE_SIZE: usize = PAGE as usize;

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
    let mut memory = GuestMemory::anonymous(2 * PAGE_SIZE)?;
    let offset = match pointer {
        Pointer::Straddling | Pointer::HalfMapped => PAGE_SIZE - size / 2,
        Pointer::Odd => 1,
        Pointer::Null | Pointer::Unmapped | Pointer::ReadOnly => 0,
    };
    let start = memory.as_ptr().expose_provenance();
    let current = PAGE_SIZE + PAGE_SIZE / 2;
    make(registers.getter(), vcpu, start + current, by)?;
    let (mut expected, mut found) = (vec![0; size], vec![0; size]);
    memory.read(current, &mut expected)?;
    if pointer != Pointer::Null {
        memory.write(offset, &expected)?;
    }
    match pointer {
        Pointer::Unmapped => protect(&memory, 0, ProtFlags::PROT_NONE)?,
        Pointer::ReadOnly => protect(&memory, 0, ProtFlags::PROT_READ)?,
        Pointer::HalfMapped => protect(&memory, 1, ProtFlags::PROT_NONE)?,
        _ => {}
    }
    let at = match pointer {
        Pointer::Null => 0,
        _ => start + offset,
    };
    make(registers, vcpu, at, by)?;
    if pointer != Pointer::ReadOnly {
        memory.read(offset, &mut found)?;
        assert_eq!(found, expected, "the call delivers other registers");
    }
    Ok(())
}

fn make(registers: Registers, vcpu: BorrowedFd<'_>, at: usize, by: Form) -> Result<(), Errno> {
    let (call, fd) = (registers.call(), vcpu.as_raw_fd());
    let sets = usize::from(registers.sets());
    // SAFETY: the kernel writes to the pages of `point` at most.
    let answer = unsafe {
        match by {
            Form::Ioctl => {
                let request = call.request.expect("Linux has the ioctls of registers");
                libc::ioctl(fd, request, at).into()
            }
            Form::Syscall | Form::Ranges => libc::syscall(call.number, fd, at),
            Form::Merged => {
                let number = [__NR_kvm_get_state, __NR_kvm_set_state][sets];
                let state = state(registers, at);
                libc::syscall(number, fd, &raw const state, size_of_val(&state))
            }
            Form::Files => {
                let file = File::of(&call).expect("registers have a file");
                let file = file.open(vcpu)?;
                let number = [libc::SYS_read, libc::SYS_write][sets];
                libc::syscall(number, file.as_raw_fd(), at, size_of_registers(registers))
            }
            Form::Bound | Form::Process => {
                libc::syscall(call.bound.expect("registers belong to a vCPU"), at)
            }
        }
    };
    Errno::result(answer).map(drop)
}

fn size_of_registers(registers: Registers) -> usize {
    let structure = registers.call().structure;
    structure.expect("registers are a structure").size
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
    let part = registers.call().merged;
    state.parts = part.expect("they are a part of the state");
    state
}

/// Changes the access to a page of the memory.
fn protect(memory: &GuestMemory, page: usize, access: ProtFlags) -> Result<(), Errno> {
    let start = NonNull::new(memory.as_ptr()).expect("memory is not at 0");
    // SAFETY: the page is part of the memory, and nothing refers to it.
    unsafe { mprotect(start.byte_add(page * PAGE_SIZE).cast(), PAGE_SIZE, access) }
}
