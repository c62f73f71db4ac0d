//! A call before it is made: its registers and its structure, which are valid
//! until they are changed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use guests::SLOT;
use kvm_api::Kvm;
use kvm_api::ioctl::Ioctl;
use kvm_sys::*;
use nix::errno::Errno;

use super::expected::Route;
use super::signature::{Argument, Kind, Place, arguments};
use super::testbed::*;
use crate::arguments::makes_file;
use crate::tested_call::TestedCall;
use crate::vcpu_state::{self, MSR};

/// The number of entries behind the header of a list: more than KVM takes.
const ENTRIES: usize = 300;

#[derive(Clone)]
pub struct Invocation {
    pub call: TestedCall,
    pub route: Route,
    /// The values of the registers. The first is the file descriptor.
    pub words: [u64; 6],
    /// The structure, at the start of the arena.
    object: Vec<u8>,
    /// The number of its bytes that the kernel reads or writes.
    pub used: usize,
    pub arguments: Vec<Argument>,
}

impl Invocation {
    /// A call with valid arguments.
    pub fn good(call: TestedCall, testbed: &Testbed<'_>) -> Self {
        let route = testbed.route;
        let arguments = arguments(call, route);
        let mut this = Self {
            call,
            route,
            words: [0; 6],
            object: Vec::new(),
            used: call.structure.map_or(0, |structure| structure.size),
            arguments,
        };
        this.fill(testbed);
        this
    }

    fn fill(&mut self, testbed: &Testbed<'_>) {
        use FlatCall::*;
        use TestedCall::*;

        let at = |memory: *mut u8| memory.expose_provenance() as u64;
        let arena = at(testbed.arena.as_ptr());
        let room = arena + ROOM;
        let host = at(testbed.host.as_ptr());
        let current = |request| {
            let still = testbed.still.as_fd();
            vcpu_state::read(still, request).expect("the vCPU can be read")
        };
        let (mut header, mut entry) = (vec![0; self.used], Vec::new());
        let mut set: Vec<(&str, u64)> = Vec::new();
        match self.call {
            Flat(kvm_get_msr_index_list) => {
                set.push(("nmsrs", testbed.facts.listed_msrs));
                self.used += testbed.facts.listed_msrs as usize * 4;
                entry = vec![0; 4];
            }
            Flat(kvm_set_memory_region) => set.extend([
                ("slot", FREE_SLOT.into()),
                ("guest_phys_addr", FREE),
                ("size", PAGE),
            ]),
            Flat(kvm_create_vcpu) => set.push(("argument", testbed.next_id())),
            Flat(kvm_get_dirty_log) => {
                set.extend([("slot", SLOT.into()), ("dirty_bitmap", room)]);
            }
            Flat(kvm_translate) => set.extend([
                ("physical_address", room),
                ("valid", room + 8),
                ("writeable", room + 9),
                ("usermode", room + 10),
            ]),
            Flat(FlatCall::kvm_interrupt) => set.push(("irq", 32)),
            Flat(kvm_get_msrs | kvm_set_msrs) => {
                set.push(("nmsrs", 1));
                entry = [u64::from(MSR), 0].map(u64::to_le_bytes).concat();
                self.used += entry.len();
            }
            Flat(kvm_set_cpuid) => entry = vec![0; size_of::<kvm_cpuid_entry2>()],
            Flat(kvm_set_signal_mask) => {
                set.push(("len", 8));
                self.used += 8;
                entry = vec![0; 8];
            }
            Flat(kvm_set_regs) => header = current(KVM_GET_REGS),
            Flat(kvm_set_sregs) => header = current(KVM_GET_SREGS),
            Flat(kvm_set_fpu) => header = current(KVM_GET_FPU),
            Flat(kvm_set_user_memory_region) => set.extend([
                ("slot", FREE_SLOT.into()),
                ("guest_phys_addr", FREE),
                ("size", PAGE),
                ("userspace_addr", host),
            ]),
            Flat(kvm_set_memory_alias) => set.extend([
                ("guest_phys_addr", FREE),
                ("memory_size", PAGE),
                ("target_phys_addr", KERNEL_MEMORY),
            ]),
            Merged(MergedCall::kvm_get_state | MergedCall::kvm_set_state) => {
                set.extend([
                    (
                        "parts",
                        state::KVM_STATE_REGS
                            | state::KVM_STATE_SREGS2
                            | state::KVM_STATE_MP_STATE
                            | state::KVM_STATE_TSC_KHZ
                            | state::KVM_STATE_TSC_OFFSET,
                    ),
                    ("state->regs", arena + REGISTERS),
                    ("state->sregs2", arena + SREGS2),
                    ("state->mp_state", arena + MP_STATE),
                    ("state->tsc_khz", arena + TSC_KHZ),
                    ("state->tsc_offset", arena + TSC_OFFSET),
                    ("size", self.used as u64),
                ]);
                // No parts that a later kernel might know.
                entry = vec![0; 16];
            }
            Range(RangeCall::kvm_map_range) => set.extend([
                ("guest_phys_addr", FREE),
                ("size", PAGE),
                ("userspace_addr", host),
            ]),
            Range(RangeCall::kvm_unmap_range) => {
                set.extend([("guest_phys_addr", FREE), ("size", PAGE)]);
            }
            Range(RangeCall::kvm_protect_range) => {
                set.extend([("guest_phys_addr", RANGE), ("size", PAGE)]);
            }
            Range(RangeCall::kvm_set_memory_attributes) => set.push(("size", PAGE)),
            Range(RangeCall::kvm_get_dirty_range | RangeCall::kvm_clear_dirty_range) => {
                set.extend([("size", PAGE), ("bitmap", room)]);
            }
            Process(ProcessCall::kvm_map_memory) => {
                set.extend([("guest_phys_addr", KERNEL_MEMORY), ("size", PAGE)]);
            }
            // These calls need an existing binding.
            Binding(BindingCall::kvm_unbind | BindingCall::kvm_kick)
            | Process(ProcessCall::kvm_bound_mmap) => testbed.bind(),
            Process(ProcessCall::kvm_unbind_vm | ProcessCall::kvm_create_bound_vcpu) => {
                testbed.unbind();
                testbed.bind_vm();
            }
            // These need the place.
            Process(ProcessCall::kvm_bind_vm | ProcessCall::kvm_create_bound_vm) => {
                testbed.unbind_vm();
            }
            // Zeroes are good arguments beside the descriptor.
            Flat(
                kvm_create_vm
                | kvm_get_vcpu_mmap_size
                | kvm_get_memory_alias
                | FlatCall::kvm_run
                | kvm_get_regs
                | kvm_get_sregs
                | kvm_debug_guest
                | kvm_get_fpu
                | kvm_check_extension,
            )
            | Binding(BindingCall::kvm_bind) => {}
        }
        header.extend(entry.repeat(ENTRIES));
        self.object = header;
        self.words[0] = testbed.fd(self.call).as_raw_fd() as u64;
        // The remaining pointer points to the structure.
        for argument in &self.arguments {
            if let (Kind::Pointer(_), Place::Word(word)) = (argument.kind, argument.place) {
                self.words[word] = arena;
            }
        }
        for (name, value) in set {
            self.set(name, value);
        }
    }

    /// The argument of that name, if the call has it by this route.
    pub fn argument(&self, name: &str) -> Option<Argument> {
        self.arguments.iter().find(|it| it.name == name).copied()
    }

    /// Changes an argument, if this route has it.
    pub fn set(&mut self, name: &str, value: u64) {
        let Some(argument) = self.argument(name) else {
            return;
        };
        match argument.place {
            Place::Word(word) => self.words[word] = value,
            Place::Field(offset) => self.put(offset, &value.to_le_bytes()[..argument.bytes()]),
        }
    }

    pub fn get(&self, name: &str) -> Option<u64> {
        let argument = self.argument(name)?;
        Some(match argument.place {
            Place::Word(word) => self.words[word],
            Place::Field(offset) => {
                let (mut value, bytes) = ([0; 8], argument.bytes());
                value[..bytes].copy_from_slice(&self.object[offset..offset + bytes]);
                u64::from_le_bytes(value)
            }
        })
    }

    /// The memory slot that the call sets, if any.
    pub fn slot(&self, testbed: &Testbed<'_>) -> Option<u32> {
        use FlatCall::*;

        let slot = self.get("slot")? as u32;
        match self.call {
            TestedCall::Flat(kvm_set_memory_region | kvm_set_user_memory_region) => Some(slot),
            TestedCall::Flat(kvm_set_memory_alias) => {
                (testbed.facts.slots as u32 - 1).checked_sub(slot)
            }
            _ => None,
        }
    }

    /// The part of the structure that the kernel reads.
    pub fn object(&self) -> &[u8] {
        &self.object[..self.used]
    }

    /// Changes bytes of the structure.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.object[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Copies the structure to its place in the arena.
    pub fn place(&self, testbed: &mut Testbed<'_>) {
        let placed = testbed.arena.write(0, &self.object);
        placed.expect("the arena has room");
    }

    /// Makes the call. A new descriptor is closed and reported as 0.
    pub fn make(&self, testbed: &mut Testbed<'_>) -> Result<i64, Errno> {
        self.place(testbed);
        self.placed(testbed.both)()
    }

    /// The call for another thread. The structure must be in its place.
    pub fn placed<'a>(
        &'a self,
        both: &'a BothInterfaces,
    ) -> impl Fn() -> Result<i64, Errno> + Send + Sync + 'a {
        move || {
            if self.route == Route::Ioctl && self.call.by_library() {
                self.by_library(&both.ioctl)
            } else {
                self.raw().make()
            }
        }
    }

    /// The call as register values.
    pub fn raw(&self) -> Raw {
        let [fd, a, b, ..] = self.words;
        let number = self.call.number;
        let (number, words) = match (self.route, self.call.request) {
            (Route::Ioctl, Some(request)) => (libc::SYS_ioctl, [fd, request, a, 0, 0, 0]),
            (Route::Flat, _) => (number, self.words),
            (Route::Ioctl, None) => panic!("{} has no ioctl", self.call.name),
        };
        let makes = match self.call {
            TestedCall::Flat(call) if makes_file(call) => Makes::File,
            TestedCall::Range(RangeCall::kvm_map_range) => {
                let argument = |name| self.get(name).expect("the structure has the field");
                Makes::Range(
                    argument("slot") >> 16,
                    argument("guest_phys_addr"),
                    argument("size"),
                )
            }
            TestedCall::Binding(BindingCall::kvm_bind)
            | TestedCall::Process(ProcessCall::kvm_create_bound_vcpu) => Makes::Binding,
            TestedCall::Process(ProcessCall::kvm_bind_vm | ProcessCall::kvm_create_bound_vm) => {
                Makes::VmBinding
            }
            TestedCall::Process(ProcessCall::kvm_map_memory) => Makes::Mapping(b),
            // The run mapping is that long.
            TestedCall::Process(ProcessCall::kvm_bound_mmap) => Makes::Mapping(3 * PAGE),
            _ => Makes::Nothing,
        };
        Raw {
            number,
            words,
            makes,
        }
    }

    /// The library's substitute, where Linux has no ioctl.
    fn by_library(&self, kvm: &Ioctl) -> Result<i64, Errno> {
        let [fd, a, b, c, d, _] = self.words;
        let fd = fd as RawFd;
        if fd == -1 {
            // The library cannot take this as a descriptor.
            return Err(Errno::EBADF);
        }
        // SAFETY: the test is whether it is open. Nothing closes it meanwhile.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let alias = || {
            let alias = self.object.as_ptr().cast::<kvm_memory_alias>();
            // SAFETY: the object is as long as the structure, which has only integers.
            unsafe { alias.read_unaligned() }
        };
        match self.call {
            TestedCall::Flat(FlatCall::kvm_set_memory_region) => {
                kvm.kvm_set_memory_region(fd, a as u32, b as u32, c, d)
            }
            TestedCall::Flat(FlatCall::kvm_get_memory_alias) => {
                kvm.kvm_get_memory_alias(fd, &mut alias())
            }
            TestedCall::Flat(FlatCall::kvm_set_memory_alias) => {
                kvm.kvm_set_memory_alias(fd, &alias())
            }
            TestedCall::Process(ProcessCall::kvm_map_memory) => {
                kvm.kvm_map_memory(fd, a, b as usize).map(drop)
            }
            other => panic!("{} has an ioctl, or no substitute", other.name),
        }
        .map(|()| 0)
    }
}

/// The result of a call that has to be released.
#[derive(Clone, Copy)]
enum Makes {
    Nothing,
    File,
    Mapping(u64),
    /// A range of an address space, of this size.
    Range(u64, u64, u64),
    Binding,
    VmBinding,
}

/// A call as register values, which any thread can make.
#[derive(Clone, Copy)]
pub struct Raw {
    number: libc::c_long,
    words: [u64; 6],
    makes: Makes,
}

impl Raw {
    /// The call as numbers, without the kind of its result.
    pub fn to_words(self) -> [u64; 7] {
        let [a, b, c, d, e, f] = self.words;
        [self.number as u64, a, b, c, d, e, f]
    }

    /// Whether the call returns a new file descriptor.
    pub fn makes_file(self) -> bool {
        matches!(self.makes, Makes::File)
    }

    /// The call of these numbers, whose result need not be released.
    pub fn of_words(words: &[u64]) -> Option<Self> {
        let (&number, words) = words.split_first()?;
        Some(Self {
            number: number as libc::c_long,
            words: words.try_into().ok()?,
            makes: Makes::Nothing,
        })
    }

    pub fn make(self) -> Result<i64, Errno> {
        let answer = self.make_only()?;
        match self.makes {
            Makes::Nothing => return Ok(answer),
            // SAFETY: it is new, and nothing else has its number.
            Makes::File => unsafe { libc::close(answer as RawFd) },
            // SAFETY: as above.
            Makes::Mapping(size) => unsafe { libc::munmap(answer as *mut _, size as usize) },
            Makes::Range(space, address, size) => {
                let (number, vm) = (__NR_kvm_unmap_range, self.words[0]);
                // SAFETY: the call touches no memory.
                let unmapped = unsafe { libc::syscall(number, vm, space, address, size) };
                Errno::result(unmapped).expect("a mapped range can be unmapped") as i32
            }
            // SAFETY: as above.
            Makes::Binding => unsafe { libc::syscall(__NR_kvm_unbind) as i32 },
            // SAFETY: as above.
            Makes::VmBinding => unsafe { libc::syscall(__NR_kvm_unbind_vm) as i32 },
        };
        Ok(0)
    }

    /// Makes the call, and keeps its result.
    pub fn make_only(self) -> Result<i64, Errno> {
        let [a, b, c, d, e, f] = self.words;
        // SAFETY: the kernel writes to the arena, or to memory that exists to be misused.
        Errno::result(unsafe { libc::syscall(self.number, a, b, c, d, e, f) })
    }
}
