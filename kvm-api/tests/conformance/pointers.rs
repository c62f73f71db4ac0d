//! The pointers, counts and sizes that each call refuses, and the errno: below the
//! trait, because safe code cannot pass them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use guests::{SLOT, TestVm};
use kvm_api::files::File;
use kvm_api::kvm_sys::*;
use kvm_api::{Errno, Form, GuestMemory, Result};
use libc::c_ulong;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};

use crate::Needs::AnyVcpu;
use crate::{Stage, Test, raw};

pub const TESTS: &[Test] = &[
    ("misuse::bad_pointers", AnyVcpu, bad_pointers),
    ("misuse::counts_and_sizes", AnyVcpu, counts),
];

/// How a pointer of a call is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Written,
}

/// The arguments of a call by one of the interfaces, with valid pointers, and the
/// positions of the pointers.
struct Arguments {
    words: Vec<usize>,
    pointers: Vec<(usize, Use)>,
}

/// The valid arguments of `call` after its file descriptor, if the backend has the call.
/// `page` is readable and writable memory with the structure in it.
fn arguments(call: FlatCall, form: Form, page: *mut u8) -> Option<Arguments> {
    use Use::{Read, Written};
    if form.lacks(&call) {
        return None;
    }
    let good = page.expose_provenance();
    let is_ioctl = form == Form::Ioctl;
    let one = |usage| {
        Some(Arguments {
            words: vec![good],
            pointers: vec![(0, usage)],
        })
    };
    // SAFETY: the page is this thread's alone, and larger than any structure.
    unsafe {
        page.write_bytes(0, 0x1000);
        match call {
            FlatCall::kvm_get_msr_index_list => {
                page.cast::<u32>().write(KVM_MAX_MSR_ENTRIES as u32);
                one(Written)
            }
            FlatCall::kvm_get_dirty_log if is_ioctl => {
                // The structure contains the pointer to the bitmap.
                let mut log = kvm_dirty_log {
                    slot: SLOT,
                    ..Default::default()
                };
                log.__bindgen_anon_1.dirty_bitmap = ptr::without_provenance_mut(good + 0x800);
                page.cast::<kvm_dirty_log>().write(log);
                one(Read)
            }
            FlatCall::kvm_get_dirty_log => Some(Arguments {
                words: vec![SLOT as usize, good],
                pointers: vec![(1, Written)],
            }),
            FlatCall::kvm_translate if !is_ioctl => Some(Arguments {
                words: vec![0, good, good + 8, good + 9, good + 10],
                pointers: (1..5).map(|index| (index, Written)).collect(),
            }),
            FlatCall::kvm_interrupt if !is_ioctl => None,
            FlatCall::kvm_get_msrs => {
                page.cast::<u32>().write(1);
                one(Written)
            }
            FlatCall::kvm_set_msrs => {
                page.cast::<u32>().write(1);
                one(Read)
            }
            FlatCall::kvm_set_signal_mask => {
                page.cast::<u32>().write(8);
                one(Read)
            }
            FlatCall::kvm_set_user_memory_region if !is_ioctl => None,
            _ if call.structure.is_none() => None,
            _ if call.name.starts_with("kvm_get_") || call == FlatCall::kvm_translate => {
                one(Written)
            }
            _ => one(Read),
        }
    }
}

/// Makes a call below the trait. Returns `None` if the interface lacks it.
///
/// # Safety
///
/// The arguments have to point to valid memory, or to unmapped memory.
unsafe fn raw_call(
    form: Form,
    call: FlatCall,
    fd: BorrowedFd<'_>,
    words: &[usize],
) -> Option<Result<i64>> {
    if form == Form::Files
        && let Some(file) = File::of(&call)
    {
        // SAFETY: the caller answers for the argument.
        return Some(unsafe { file_call(file, call, fd, words[0]) });
    }
    let fd = fd.as_raw_fd();
    let word = |index: usize| words.get(index).copied().unwrap_or(0) as c_ulong;
    // SAFETY: the caller answers for the arguments.
    let answer = unsafe {
        match form {
            Form::Ioctl => libc::ioctl(fd, call.request?, word(0)).into(),
            Form::Bound if call.bound.is_some() => {
                let number = call.bound?;
                libc::syscall(__NR_kvm_bind, fd);
                let answer = libc::syscall(number, word(0), word(1), word(2), word(3), word(4));
                libc::syscall(__NR_kvm_unbind);
                answer
            }
            _ => libc::syscall(call.number, fd, word(0), word(1), word(2), word(3), word(4)),
        }
    };
    Some(Errno::result(answer))
}

/// Reads or writes a file of the vCPU, as `call` would.
///
/// # Safety
///
/// As for [`raw_call`].
unsafe fn file_call(
    file: File,
    call: FlatCall,
    vcpu: BorrowedFd<'_>,
    address: usize,
) -> Result<i64> {
    let fd = file.open(vcpu)?;
    if file == File::ChosenMsrs {
        let one = [1_u32, 0x174].map(u32::to_ne_bytes).concat();
        nix::unistd::write(&fd, &one)?;
    }
    let (fd, address) = (fd.as_raw_fd(), ptr::without_provenance_mut(address));
    let header = call.structure.map_or(0, |structure| structure.size);
    let size = header
        + match file {
            File::Msrs | File::ChosenMsrs => size_of::<kvm_msr_entry>(),
            File::Sigmask => size_of::<kernel_sigset>(),
            _ => 0,
        };
    // SAFETY: the caller answers for the memory.
    let answer = unsafe {
        if call.name.starts_with("kvm_get_") {
            libc::read(fd, address, size)
        } else {
            libc::write(fd, address, size)
        }
    };
    Errno::result(answer as i64)
}

fn bad_pointers(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, slot::KVM_MEM_LOG_DIRTY_PAGES);
    let device = raw::device();
    let page = GuestMemory::anonymous(0x1000).unwrap();
    let none = Page::new(ProtFlags::PROT_NONE);
    let readonly = Page::new(ProtFlags::PROT_READ);
    let mut tried = 0;
    for call in FlatCall::ALL {
        let Some(good) = arguments(call, stage.form, page.as_ptr()) else {
            continue;
        };
        let fd = match call.fd {
            Fd::Vcpu | Fd::VcpuOrTask => machine.vcpu(),
            Fd::Vm => machine.vm(),
            Fd::None | Fd::System => device.as_fd(),
        };
        readonly.fill_from(&page);
        for &(index, usage) in &good.pointers {
            let mut bad = vec![
                ("NULL", 0),
                ("no access", none.address()),
                ("the kernel's", 1 << 63),
            ];
            if usage == Use::Written {
                bad.push(("read-only", readonly.address()));
            }
            for (what, address) in bad {
                if what == "NULL" && call == FlatCall::kvm_set_signal_mask {
                    continue; // where it has a meaning
                }
                let mut words = good.words.clone();
                words[index] = address;
                // SAFETY: the pointer under test is one that cannot be written
                // to, and the others are good.
                let result = unsafe { raw_call(stage.form, call, fd, &words) };
                let Some(result) = result else { continue };
                assert_eq!(
                    result,
                    Err(Errno::EFAULT),
                    "{}: {what} at {index}",
                    call.name
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 40, "{tried}");
}

/// A page with limited access.
struct Page {
    start: ptr::NonNull<u8>,
    protection: ProtFlags,
}

impl Page {
    fn new(protection: ProtFlags) -> Self {
        let length = 0x1000.try_into().unwrap();
        // SAFETY: no address is given, so no memory in use is replaced.
        let start = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) };
        Self {
            start: start.unwrap().cast(),
            protection,
        }
    }

    fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// Copies the contents of another.
    fn fill_from(&self, page: &GuestMemory) {
        let protect = |protection| {
            // SAFETY: the page belongs to this value, and nothing refers to it.
            unsafe { mprotect(self.start.cast(), page.len(), protection) }.unwrap();
        };
        protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
        // SAFETY: both are pages, this one writable now.
        unsafe {
            self.start
                .as_ptr()
                .copy_from_nonoverlapping(page.as_ptr(), page.len())
        };
        protect(self.protection);
    }
}

fn counts(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let mut page = GuestMemory::anonymous(0x10000).unwrap();
    let address = page.as_ptr().expose_provenance();
    for (call, first_word, errno) in [
        (FlatCall::kvm_get_msrs, 256_u32, Errno::E2BIG),
        (FlatCall::kvm_get_msrs, u32::MAX, Errno::E2BIG),
        (FlatCall::kvm_set_msrs, 256, Errno::E2BIG),
        (FlatCall::kvm_set_msrs, u32::MAX, Errno::E2BIG),
        (FlatCall::kvm_set_cpuid, 257, Errno::E2BIG),
        (FlatCall::kvm_set_cpuid, u32::MAX, Errno::E2BIG),
        (FlatCall::kvm_set_signal_mask, 4, Errno::EINVAL),
        (FlatCall::kvm_set_signal_mask, 128, Errno::EINVAL),
    ] {
        if stage.form == Form::Files && call == FlatCall::kvm_get_msrs {
            continue; // a read takes no count but that of its bytes
        }
        page.write(0, &first_word.to_le_bytes()).unwrap();
        // SAFETY: the memory is longer than any list that KVM takes.
        let result = unsafe { raw_call(stage.form, call, machine.vcpu(), &[address]) };
        assert_eq!(result, Some(Err(errno)), "{call:?} of {first_word}");
    }
}
