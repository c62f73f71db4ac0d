//! The raw calls with valid arguments, by either interface.

use std::fmt;
use std::os::fd::RawFd;
use std::ptr;

use anyhow::Result;
use guests::SLOT;
use kvm_api::kvm_sys::*;
use kvm_api::{Errno, GuestMemory};
use serde::{Deserialize, Serialize};

/// The result of a call: a number, or a negated errno. A new file descriptor is
/// closed and reported as 0.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallResult(i64);

impl CallResult {
    /// The success of most calls.
    pub const DONE: Self = Self(0);

    /// A failure.
    pub const fn refused(errno: Errno) -> Self {
        Self(-(errno as i64))
    }

    /// The errno, if it is one.
    pub fn errno(self) -> Option<Errno> {
        (self.0 < 0).then(|| Errno::from_raw(-self.0 as i32))
    }

    /// The number, unless it is an errno.
    pub fn number(self) -> Option<i64> {
        (self.0 >= 0).then_some(self.0)
    }

    /// Whether it is the result of a successful `call`. A run of a vCPU that
    /// must exit at once succeeds with EINTR.
    pub fn succeeds(self, call: FlatCall) -> bool {
        let exits = call == FlatCall::kvm_run && self.errno() == Some(Errno::EINTR);
        exits || self.number().is_some()
    }

    /// The result from the return value of the C library.
    fn of(answer: i64) -> Self {
        match Errno::result(answer) {
            Ok(number) => Self(number),
            Err(errno) => Self::refused(errno),
        }
    }
}

impl fmt::Debug for CallResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno() {
            Some(errno) => write!(f, "{errno:?}"),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Valid structures for the arguments of calls, for a `guests::TestVm` with a
/// dirty log. The guest must not run, because the calls set arbitrary
/// registers.
pub struct Arguments {
    page: GuestMemory,
    memory: GuestMemory,
}

const PAGE: usize = 0x1000;
/// The offset in the page of the room behind the structure.
const ROOM: usize = 0x800;
/// A guest physical address above the memory of the machines.
const FAR: usize = 0x100_0000;

impl Arguments {
    pub fn new() -> Result<Self> {
        Ok(Self {
            page: GuestMemory::anonymous(PAGE)?,
            memory: GuestMemory::anonymous(PAGE)?,
        })
    }

    /// Makes the system call.
    pub fn flat(&mut self, call: FlatCall, fd: RawFd) -> CallResult {
        let ([a, b, c, d, e], _) = self.words(call);
        // SAFETY: the structures are this value's own and as large as the call
        // takes them; the memory that a guest gets is never run on.
        let answer = unsafe { libc::syscall(call.number, fd, a, b, c, d, e) };
        closed(call, answer)
    }

    /// Makes the ioctl that the call replaces, if Linux still has it. On a
    /// virtual machine, the call that creates a vCPU uses `id`.
    pub fn ioctl(&mut self, call: FlatCall, fd: RawFd, id: usize) -> Option<CallResult> {
        let request = call.request?;
        let (_, word) = self.words(call);
        let word = if request == KVM_CREATE_VCPU { id } else { word };
        // SAFETY: as for the system call.
        let answer = unsafe { libc::ioctl(fd, request, word) };
        Some(closed(call, answer.into()))
    }

    /// Fills the page, and returns the arguments after the file descriptor:
    /// those of the system call, and that of the ioctl.
    fn words(&mut self, call: FlatCall) -> ([usize; 5], usize) {
        let page = self.page.as_ptr();
        let at = page.expose_provenance();
        let memory = self.memory.as_ptr().expose_provenance();
        let put = |bytes: &[u32]| {
            // SAFETY: the page is this value's own, and longer.
            unsafe { page.cast::<u32>().copy_from(bytes.as_ptr(), bytes.len()) }
        };
        // SAFETY: the page is this value's own.
        unsafe { page.write_bytes(0, PAGE) };
        match call {
            FlatCall::kvm_set_memory_region => ([5, 0, FAR, PAGE, 0], 0),
            FlatCall::kvm_get_dirty_log => {
                let mut log = kvm_dirty_log {
                    slot: SLOT,
                    ..Default::default()
                };
                log.__bindgen_anon_1.dirty_bitmap = ptr::without_provenance_mut(at + ROOM);
                // SAFETY: the page is this value's own, aligned and longer.
                unsafe { page.cast::<kvm_dirty_log>().write(log) };
                ([SLOT as usize, at + ROOM, 0, 0, 0], at)
            }
            FlatCall::kvm_translate => ([0, at, at + 8, at + 9, at + 10], at),
            FlatCall::kvm_interrupt => {
                put(&[32]);
                ([32, 0, 0, 0, 0], at)
            }
            FlatCall::kvm_check_extension => ([0; 5], 0),
            FlatCall::kvm_set_user_memory_region => {
                let region = kvm_userspace_memory_region {
                    slot: 6,
                    flags: 0,
                    guest_phys_addr: 2 * FAR as u64,
                    memory_size: PAGE as u64,
                    userspace_addr: memory as u64,
                };
                // SAFETY: the page is this value's own, aligned and longer.
                unsafe { page.cast::<kvm_userspace_memory_region>().write(region) };
                ([6, 0, 2 * FAR, PAGE, memory], at)
            }
            FlatCall::kvm_get_memory_alias | FlatCall::kvm_set_memory_alias => {
                let alias = kvm_memory_alias {
                    guest_phys_addr: 3 * FAR as u64,
                    memory_size: PAGE as u64,
                    ..Default::default()
                };
                // SAFETY: the page is this value's own, aligned and longer.
                unsafe { page.cast::<kvm_memory_alias>().write(alias) };
                ([at, 0, 0, 0, 0], at)
            }
            _ if call.structure.is_none() => ([0; 5], 0),
            _ => {
                match call {
                    FlatCall::kvm_get_msr_index_list => put(&[KVM_MAX_MSR_ENTRIES as u32]),
                    FlatCall::kvm_get_msrs | FlatCall::kvm_set_msrs => put(&[1]),
                    FlatCall::kvm_set_signal_mask => put(&[8]),
                    _ => {}
                }
                ([at, 0, 0, 0, 0], at)
            }
        }
    }
}

/// Closes the new file descriptor of a call.
fn closed(call: FlatCall, answer: i64) -> CallResult {
    let answer = CallResult::of(answer);
    let makes = matches!(call, FlatCall::kvm_create_vm | FlatCall::kvm_create_vcpu);
    match answer.number() {
        Some(fd) if makes => {
            // SAFETY: it is new, and told to nobody.
            unsafe { libc::close(fd as RawFd) };
            CallResult::DONE
        }
        _ => answer,
    }
}
