//! The raw calls with valid arguments, by either interface.

use std::fmt;
use std::os::fd::RawFd;

use guests::{SLOT, TestVm};
use kvm_api::kvm_sys::*;
use kvm_api::{Errno, GuestMemory, Kvm};
use serde::{Deserialize, Serialize};

/// The result of a call: a number, or a negated errno. A new file descriptor is
/// closed and reported as 0.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallResult(i64);

impl CallResult {
    /// The success of most calls.
    pub const DONE: Self = Self(0);

    pub const fn refused(errno: Errno) -> Self {
        Self(-(errno as i64))
    }

    pub fn errno(self) -> Option<Errno> {
        (self.0 < 0).then(|| Errno::from_raw(-self.0 as i32))
    }

    pub fn number(self) -> Option<i64> {
        (self.0 >= 0).then_some(self.0)
    }

    /// Whether it is the result of a successful `call`. A run of a vCPU that
    /// must exit at once succeeds with EINTR.
    pub fn succeeds(self, call: FlatCall) -> bool {
        let exits = call == FlatCall::kvm_run && self.errno() == Some(Errno::EINTR);
        exits || self.number().is_some()
    }
}

impl From<Result<i64, Errno>> for CallResult {
    fn from(answer: Result<i64, Errno>) -> Self {
        answer.map_or_else(Self::refused, Self)
    }
}

impl From<CallResult> for Result<i64, Errno> {
    fn from(answer: CallResult) -> Self {
        answer.errno().map_or(Ok(answer.0), Err)
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

/// A machine for [`Arguments`], whose runs end at once.
pub fn machine(kvm: &dyn Kvm) -> TestVm<'_> {
    let mut machine = TestVm::with_flags(kvm, slot::KVM_MEM_LOG_DIRTY_PAGES);
    machine.run.set_immediate_exit(true);
    machine
}

/// Valid structures for the arguments of calls, for a [`machine`]. The guest must not
/// run, because the calls set arbitrary registers.
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
    pub fn new() -> anyhow::Result<Self> {
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
        let at = self.page.as_ptr().expose_provenance();
        let memory = self.memory.as_ptr().expose_provenance();
        let slot = SLOT as usize;
        // The words of the structure. Two numbers of four bytes share a word; where one
        // of them is not 0, it comes first.
        let (structure, flat): (&[usize], [usize; 5]) = match call {
            FlatCall::kvm_set_memory_region => (&[], [5, 0, FAR, PAGE, 0]),
            FlatCall::kvm_get_dirty_log => (&[slot, at + ROOM], [slot, at + ROOM, 0, 0, 0]),
            FlatCall::kvm_translate => (&[], [0, at, at + 8, at + 9, at + 10]),
            FlatCall::kvm_interrupt => (&[32], [32, 0, 0, 0, 0]),
            FlatCall::kvm_set_user_memory_region => {
                (&[6, 2 * FAR, PAGE, memory], [6, 0, 2 * FAR, PAGE, memory])
            }
            FlatCall::kvm_get_memory_alias | FlatCall::kvm_set_memory_alias => {
                (&[0, 3 * FAR, PAGE], [at, 0, 0, 0, 0])
            }
            FlatCall::kvm_get_msr_index_list => (&[KVM_MAX_MSR_ENTRIES], [at, 0, 0, 0, 0]),
            FlatCall::kvm_get_msrs | FlatCall::kvm_set_msrs => (&[1], [at, 0, 0, 0, 0]),
            FlatCall::kvm_set_signal_mask => (&[8], [at, 0, 0, 0, 0]),
            _ if call.structure.is_some() => (&[], [at, 0, 0, 0, 0]),
            _ => (&[], [0; 5]),
        };
        let mut page = structure.to_vec();
        page.resize(PAGE / size_of::<usize>(), 0);
        let page: Vec<u8> = page.into_iter().flat_map(usize::to_ne_bytes).collect();
        self.page
            .write(0, &page)
            .expect("it is as long as the page");
        (flat, if call.structure.is_some() { at } else { 0 })
    }
}

/// Whether a call returns a new file descriptor.
pub fn makes_file(call: FlatCall) -> bool {
    matches!(call, FlatCall::kvm_create_vm | FlatCall::kvm_create_vcpu)
}

/// Closes the new file descriptor of a call.
fn closed(call: FlatCall, answer: i64) -> CallResult {
    let answer = CallResult::from(Errno::result(answer));
    match answer.number() {
        Some(fd) if makes_file(call) => {
            // SAFETY: it is new, and nothing else has its number.
            unsafe { libc::close(fd as RawFd) };
            CallResult::DONE
        }
        _ => answer,
    }
}
