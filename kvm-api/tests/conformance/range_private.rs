//! Ranges with private memory, from a guest_memfd: kvm_map_range, kvm_unmap_range,
//! kvm_protect_range and kvm_set_memory_attributes on a virtual machine whose memory KVM
//! protects from the host in software.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use guests::{ENTRY, TestVm};
use kvm_api::kvm_sys::slot::{
    KVM_MEM_GUEST_MEMFD as PRIVATE, KVM_MEM_LOG_DIRTY_PAGES as LOG, KVM_MEM_READONLY as READONLY,
};
use kvm_api::kvm_sys::{
    KVM_CREATE_GUEST_MEMFD, KVM_CREATE_VM, KVM_DIRTY_RANGE_PEEK, kvm_create_guest_memfd,
    kvm_userspace_memory_region2,
};
use kvm_api::ranges::{RangeMemory, range};
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, GuestMemory, Reason, Result};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::Needs::PrivateMemory;
use crate::range_guest::{PAGE, WINDOW};
use crate::{Stage, Test};
use kvm_api::Form;

const fn of(name: &'static str, test: fn(&Stage)) -> (Form, Test) {
    (Form::Ranges, (name, PrivateMemory, test))
}

pub const TESTS: &[(Form, Test)] = &[
    of("kvm_map_range::private_memory_stays_where_it_is_cut", cut),
    of("kvm_map_range::private_memory_is_bound_once", bound_once),
    of("kvm_map_range::private_memory_follows_its_file", follows),
    of(
        "kvm_map_range::private_memory_joins_as_its_file_continues",
        continues,
    ),
    of("kvm_map_range::private_memory_beside_a_log", beside_log),
    of("kvm_map_range::bad_files", bad_files),
    of(
        "kvm_map_range::the_guest_sees_no_gap_in_private_memory",
        no_gap,
    ),
    of("kvm_set_memory_attributes::private_and_shared", attributes),
    of("kvm_set_memory_attributes::bad_arguments", bad_attributes),
];

/// The number of pages of the window, of the file, and of the host's memory.
const PAGES: u64 = 16;
/// A type of virtual machine, and an attribute of memory.
const KVM_X86_SW_PROTECTED_VM: u64 = 1;
const KVM_MEMORY_ATTRIBUTE_PRIVATE: u64 = 1 << 3;

/// mov (%bx),%ah; mov %al,(%bx); mov %ah,%al; out %al,$0x10: it swaps %al and the byte.
const SWAP: &[u8] = &[0x8a, 0x27, 0x88, 0x07, 0x88, 0xe0, 0xe6, 0x10];

/// A guest whose window shows private memory. The pages of the window, of the file and of
/// the host's memory are counted from 0.
struct Guest<'k> {
    machine: TestVm<'k>,
    file: Option<OwnedFd>,
    shared: GuestMemory,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = self.unmap(0, PAGES);
    }
}

/// Makes a virtual machine that can have private memory.
pub fn protected_vm() -> io::Result<OwnedFd> {
    let dev = File::options().read(true).write(true).open("/dev/kvm")?;
    // SAFETY: the request returns a new descriptor.
    unsafe {
        let vm = libc::ioctl(dev.as_raw_fd(), KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
        Ok(OwnedFd::from_raw_fd(Errno::result(vm)?))
    }
}

fn new_file(vm: BorrowedFd<'_>) -> OwnedFd {
    let create = kvm_create_guest_memfd {
        size: PAGES * PAGE,
        ..Default::default()
    };
    // SAFETY: the request reads the structure, and returns a new descriptor.
    unsafe {
        let fd = libc::ioctl(vm.as_raw_fd(), KVM_CREATE_GUEST_MEMFD, &raw const create);
        OwnedFd::from_raw_fd(Errno::result(fd).unwrap())
    }
}

impl<'k> Guest<'k> {
    fn new(stage: &'k Stage) -> Self {
        let mut machine = TestVm::of_vm(&*stage.kvm, protected_vm().unwrap(), 0);
        machine.load(SWAP);
        let file = new_file(machine.vm());
        Self {
            machine,
            file: Some(file),
            shared: GuestMemory::anonymous((PAGES * PAGE) as usize).unwrap(),
        }
    }

    fn ranges(&self) -> RangeMemory<BorrowedFd<'_>> {
        RangeMemory::new(Syscall::open().unwrap(), self.machine.vm())
    }

    /// The range that shows pages from `page` of the file and of the host's memory on.
    fn range(&self, page: u64, pages: u64, from: u64) -> kvm_userspace_memory_region2 {
        let file = self.file.as_ref().expect("it is open").as_raw_fd();
        let address = self.shared.as_ptr().expose_provenance() as u64;
        kvm_userspace_memory_region2 {
            guest_memfd: file as u32,
            guest_memfd_offset: from * PAGE,
            ..range(
                WINDOW + page * PAGE,
                pages * PAGE,
                address + from * PAGE,
                PRIVATE,
            )
        }
    }

    fn map(&self, page: u64, pages: u64, from: u64) -> Result<()> {
        // SAFETY: the memory stays until it is unmapped from the guest.
        unsafe { self.ranges().kvm_map_range(&self.range(page, pages, from)) }
    }

    /// Maps pages of the host's memory, without private memory.
    fn map_shared(&self, page: u64, pages: u64, flags: u32) -> Result<()> {
        let range = kvm_userspace_memory_region2 {
            flags,
            guest_memfd: 0,
            guest_memfd_offset: 0,
            ..self.range(page, pages, page)
        };
        // SAFETY: as in `map`.
        unsafe { self.ranges().kvm_map_range(&range) }
    }

    /// The log of pages, a bit for each.
    fn peek(&self, page: u64, pages: u64) -> Result<u64> {
        let (at, mut log) = (WINDOW + page * PAGE, [0]);
        // SAFETY: there are no more pages than bits.
        unsafe {
            let flags = KVM_DIRTY_RANGE_PEEK;
            self.ranges()
                .kvm_get_dirty_range(0, at, pages * PAGE, &mut log, flags)
        }?;
        Ok(log[0])
    }

    /// Clears the log of all these pages.
    fn clear(&self, page: u64, pages: u64) -> Result<()> {
        let at = WINDOW + page * PAGE;
        // SAFETY: there are no more pages than bits.
        unsafe {
            self.ranges()
                .kvm_clear_dirty_range(0, at, pages * PAGE, &[!0])
        }
    }

    fn unmap(&self, page: u64, pages: u64) -> Result<()> {
        self.ranges()
            .kvm_unmap_range(0, WINDOW + page * PAGE, pages * PAGE)
    }

    fn protect(&self, page: u64, pages: u64, flags: u32) -> Result<()> {
        let at = WINDOW + page * PAGE;
        // SAFETY: the guest may write to the memory anyway.
        unsafe { self.ranges().kvm_protect_range(0, at, pages * PAGE, flags) }
    }

    fn set_private(&self, page: u64, pages: u64, private: bool) -> Result<()> {
        let attributes = if private {
            KVM_MEMORY_ATTRIBUTE_PRIVATE
        } else {
            0
        };
        self.ranges()
            .kvm_set_memory_attributes(WINDOW + page * PAGE, pages * PAGE, attributes)
    }

    /// Frees the memory of a page of the file.
    fn punch(&self, page: u64) {
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE | FallocateFlags::FALLOC_FL_PUNCH_HOLE;
        let file = self.file.as_ref().expect("it is open");
        fallocate(file, flags, (page * PAGE) as i64, PAGE as i64).unwrap();
    }

    /// Has the guest replace the first byte of a page, and returns the byte before. A page
    /// that is private, and has no memory, is an error.
    fn swap(&mut self, page: u64, byte: u8) -> Result<u8> {
        self.machine.start_at(ENTRY);
        self.machine.change_regs(|regs| regs.rax = byte.into());
        self.machine
            .change_sregs(|sregs| sregs.ds.base = WINDOW + page * PAGE);
        let exit = self.machine.vcpu.kvm_run(&mut self.machine.run)?;
        let (reason, mut data) = (exit.reason(), [0]);
        assert!(
            matches!(reason, Reason::Io { port: 0x10, .. }),
            "{reason:?}"
        );
        exit.read_data(&mut data);
        Ok(data[0])
    }

    /// The first byte of a page of the host's memory.
    fn shared(&self, page: u64) -> u8 {
        let mut byte = [0];
        self.shared.read((page * PAGE) as usize, &mut byte).unwrap();
        byte[0]
    }
}

/// A guest with a private page in each page of the window, and the number of the page,
/// plus 1, in each.
fn numbered(stage: &Stage) -> Guest<'_> {
    let mut guest = Guest::new(stage);
    guest.map(0, PAGES, 0).unwrap();
    guest.set_private(0, PAGES, true).unwrap();
    for page in 0..PAGES {
        assert_eq!(guest.swap(page, page as u8 + 1), Ok(0));
        assert_eq!(guest.shared(page), 0, "the host sees private memory");
    }
    guest
}

/// Expects the numbers of [`numbered`] in pages of the window.
fn expect_numbers(guest: &mut Guest<'_>, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        let number = page as u8 + 1;
        assert_eq!(guest.swap(page, number), Ok(number), "page {page}");
    }
}

fn cut(stage: &Stage) {
    let mut guest = numbered(stage);
    guest.unmap(3, 2).unwrap();
    assert_eq!(guest.swap(3, 0), Err(Errno::EFAULT));
    expect_numbers(&mut guest, (0..3).chain(5..PAGES));
    // The parts are bound to their parts of the file: a hole in it is one in the guest.
    guest.punch(6);
    guest.punch(2);
    assert_eq!(guest.swap(6, 7), Ok(0));
    assert_eq!(guest.swap(2, 3), Ok(0));
    // What is mapped again has kept its contents, and is bound again.
    guest.map(3, 2, 3).unwrap();
    expect_numbers(&mut guest, 0..PAGES);
    guest.punch(4);
    assert_eq!(guest.swap(4, 5), Ok(0));
    // Other pages of the file, in the middle of a range.
    guest.unmap(8, 4).unwrap();
    guest.map(2, 1, 10).unwrap();
    assert_eq!(guest.swap(2, 11), Ok(11));
    expect_numbers(&mut guest, [0, 1, 3, 7, 12, 15]);
    guest.punch(10);
    assert_eq!(guest.swap(2, 0), Ok(0));
}

fn bound_once(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(0, 4, 0).unwrap();
    guest.map(8, 4, 8).unwrap();
    guest.set_private(0, PAGES, true).unwrap();
    for page in [0, 1, 2, 3, 8, 9, 10, 11] {
        guest.swap(page, page as u8 + 1).unwrap();
    }
    // A part of the file that another range shows, and one that the same range shows.
    assert_eq!(guest.map(1, 1, 9), Err(Errno::EEXIST));
    assert_eq!(guest.map(4, 4, 8), Err(Errno::EEXIST));
    assert_eq!(guest.map(4, 1, 2), Err(Errno::EEXIST));
    assert_eq!(guest.map(1, 1, 0), Err(Errno::EEXIST));
    // The refused calls have changed nothing: what was bound is bound.
    expect_numbers(&mut guest, [0, 1, 2, 3, 8, 9, 10, 11]);
    guest.punch(1);
    guest.punch(9);
    assert_eq!(guest.swap(1, 2), Ok(0));
    assert_eq!(guest.swap(9, 10), Ok(0));
    // The flags of other memory.
    for flags in [LOG, READONLY] {
        assert_eq!(guest.protect(0, 2, flags), Err(Errno::EINVAL));
        let with = kvm_userspace_memory_region2 {
            flags: PRIVATE | flags,
            ..guest.range(0, 2, 0)
        };
        // SAFETY: the kernel refuses the flags.
        let result = unsafe { guest.ranges().kvm_map_range(&with) };
        assert_eq!(result, Err(Errno::EINVAL));
    }
    guest.protect(0, 4, 0).unwrap();
    expect_numbers(&mut guest, [0, 1, 2, 3]);
    // Ranges that join where the files, and not only the addresses, continue.
    guest.map(4, 4, 4).unwrap();
    guest.unmap(2, 8).unwrap();
    expect_numbers(&mut guest, [0, 1, 10, 11]);
}

fn follows(stage: &Stage) {
    let mut guest = numbered(stage);
    guest.unmap(4, 1).unwrap();
    drop(guest.file.take());
    // The memory is gone. The ranges can be cut and unmapped without it.
    assert_eq!(guest.swap(1, 0), Err(Errno::EFAULT));
    guest.unmap(1, 1).unwrap();
    guest.unmap(8, 2).unwrap();
    assert_eq!(guest.swap(0, 0), Err(Errno::EFAULT));
    assert_eq!(guest.swap(9, 0), Err(Errno::EFAULT));
    let other = new_file(guest.machine.vm());
    guest.file = Some(other);
    guest.map(8, 2, 8).unwrap();
    assert_eq!(guest.swap(9, 1), Ok(0));
    assert_eq!(guest.swap(7, 0), Err(Errno::EFAULT));
    guest.map(0, PAGES, 0).unwrap();
    assert_eq!(guest.swap(9, 2), Ok(1));
}

/// The addresses of both sides continue, and the file does not.
fn continues(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.set_private(0, PAGES, true).unwrap();
    guest.map(8, 1, 5).unwrap();
    assert_eq!(guest.swap(8, 0x55), Ok(0));
    guest.unmap(8, 1).unwrap();
    guest.map(0, 2, 0).unwrap();
    let next = kvm_userspace_memory_region2 {
        guest_memfd_offset: 5 * PAGE,
        ..guest.range(2, 1, 2)
    };
    // SAFETY: the memory stays until it is unmapped from the guest.
    unsafe { guest.ranges().kvm_map_range(&next) }.unwrap();
    assert_eq!(guest.swap(2, 0x22), Ok(0x55));
    guest.punch(2);
    assert_eq!(guest.swap(2, 0x22), Ok(0x22));
    guest.punch(5);
    assert_eq!(guest.swap(2, 0x22), Ok(0));
}

/// Private memory takes the place of the middle of a logged range, and gives it back. The
/// logs of what is on both sides, which private memory has not, stay.
fn beside_log(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map_shared(0, 8, LOG).unwrap();
    for page in [1, 4, 6] {
        assert_eq!(guest.swap(page, 0x5a), Ok(0));
    }
    guest.map(3, 2, 3).unwrap();
    guest.set_private(3, 2, true).unwrap();
    assert_eq!(guest.swap(4, 0x44), Ok(0));
    for (page, pages) in [(0, 8), (2, 2), (3, 1), (4, 2)] {
        assert_eq!(guest.peek(page, pages), Err(Errno::ENOENT), "{page}");
        assert_eq!(guest.clear(page, pages), Err(Errno::ENOENT), "{page}");
    }
    assert_eq!(guest.peek(0, 3), Ok(0b10));
    assert_eq!(guest.peek(5, 3), Ok(0b10));
    // A log begins and ends on one side only. Neither change reaches the private memory.
    for flags in [0, LOG] {
        assert_eq!(guest.protect(5, 3, flags), Ok(()));
        assert_eq!(guest.protect(0, 8, LOG), Err(Errno::EINVAL));
    }
    assert_eq!(guest.peek(0, 3), Ok(0b10));
    assert_eq!(guest.peek(5, 3), Ok(0));
    assert_eq!(guest.swap(4, 0x45), Ok(0x44));
    // The attribute decides what a write reaches, and so where it is logged.
    guest.set_private(2, 1, true).unwrap();
    assert_eq!(guest.swap(2, 0), Err(Errno::EFAULT));
    guest.set_private(2, 1, false).unwrap();
    assert_eq!(guest.swap(2, 0x22), Ok(0));
    assert_eq!(guest.peek(0, 3), Ok(0b110));
    // Shared memory comes back, and with it one log of the whole range.
    guest.set_private(3, 2, false).unwrap();
    guest.map_shared(3, 2, LOG).unwrap();
    assert_eq!(guest.swap(4, 0), Ok(0x5a));
    assert_eq!(guest.peek(0, 8), Ok(0b1_0110));
    guest.clear(0, 8).unwrap();
    assert_eq!(guest.peek(0, 8), Ok(0));
}

fn bad_files(stage: &Stage) {
    let (guest, other) = (Guest::new(stage), Guest::new(stage));
    let null = File::open("/dev/null").unwrap();
    let good = guest.range(0, 4, 0);
    let file = |fd: i32| kvm_userspace_memory_region2 {
        guest_memfd: fd as u32,
        ..good
    };
    let offset = |guest_memfd_offset| kvm_userspace_memory_region2 {
        guest_memfd_offset,
        ..good
    };
    let others = other.file.as_ref().expect("it is open").as_raw_fd();
    for (bad, errno) in [
        (file(-1), Errno::EBADF),
        (file(null.as_raw_fd()), Errno::EINVAL),
        (file(others), Errno::EINVAL),
        (offset(1), Errno::EINVAL),
        (offset((PAGES - 3) * PAGE), Errno::EINVAL),
        (offset(0_u64.wrapping_sub(PAGE)), Errno::EINVAL),
    ] {
        // SAFETY: the kernel refuses each of them.
        let result = unsafe { guest.ranges().kvm_map_range(&bad) };
        assert_eq!(result, Err(errno), "{bad:?}");
    }
    // Without the flag, the file is not used.
    let unused = kvm_userspace_memory_region2 {
        flags: 0,
        ..file(-1)
    };
    // SAFETY: the memory stays until it is unmapped from the guest.
    unsafe { guest.ranges().kvm_map_range(&unused) }.unwrap();
}

/// While a guest counts in private memory, other calls cut and join it.
fn no_gap(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(0, PAGES, 0).unwrap();
    guest.set_private(0, PAGES, true).unwrap();
    assert_eq!(guest.swap(5, 0x5a), Ok(0));
    // incw 1(%bx); mov %cs:(0x2000),%cx; jcxz to the start; out %al,$0x10.
    guest.machine.load(&[
        0xff, 0x47, 0x01, 0x2e, 0x8b, 0x0e, 0x00, 0x20, 0xe3, 0xf6, 0xe6, 0x10,
    ]);
    guest.machine.start_at(ENTRY);
    guest
        .machine
        .change_sregs(|sregs| sregs.ds.base = WINDOW + 5 * PAGE);
    let vm = guest.machine.vm_fd();
    let rest = [guest.range(0, 4, 0), guest.range(7, 9, 7)];
    let whole = guest.range(0, PAGES, 0);
    let middle = guest.range(5, 1, 5);
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    let stop = guest.machine.memory.as_ptr().expose_provenance() + 0x2000;
    let changes = thread::spawn(move || {
        let ranges = RangeMemory::new(Syscall::open().unwrap(), vm);
        for _ in 0..50 {
            ranges.kvm_unmap_range(0, WINDOW, 4 * PAGE).unwrap();
            ranges
                .kvm_unmap_range(0, WINDOW + 7 * PAGE, 9 * PAGE)
                .unwrap();
            for range in rest.iter().chain([&middle, &whole]) {
                // SAFETY: the memory outlives the guest.
                unsafe { ranges.kvm_map_range(range) }.unwrap();
                thread::yield_now();
            }
        }
        end.store(true, Ordering::SeqCst);
        // SAFETY: the guest reads this word, and nobody else uses it.
        unsafe { std::ptr::with_exposed_provenance_mut::<u16>(stop).write_volatile(1) };
    });
    let end = guest.machine.try_run();
    let ended = ended.load(Ordering::SeqCst);
    changes.join().unwrap();
    assert!(matches!(end, Ok(Reason::Io { port: 0x10, .. })), "{end:?}");
    assert!(ended, "the guest has met a gap");
    // It has lost nothing of its page, and has not written to another.
    guest.machine.load(SWAP);
    assert_eq!(guest.swap(5, 0), Ok(0x5a));
    assert_eq!(guest.swap(4, 0), Ok(0));
}

fn attributes(stage: &Stage) {
    let mut guest = Guest::new(stage);
    guest.map(0, 4, 0).unwrap();
    assert_eq!(guest.swap(1, 0x11), Ok(0));
    assert_eq!(guest.shared(1), 0x11);
    guest.set_private(1, 2, true).unwrap();
    assert_eq!(guest.swap(1, 0x22), Ok(0));
    assert_eq!(guest.shared(1), 0x11);
    assert_eq!(guest.swap(3, 0x33), Ok(0));
    assert_eq!(guest.shared(3), 0x33);
    guest.set_private(1, 1, false).unwrap();
    assert_eq!(guest.swap(1, 0x44), Ok(0x11));
    guest.set_private(1, 1, true).unwrap();
    assert_eq!(guest.swap(1, 0x55), Ok(0x22));
    // The attributes belong to the addresses, whatever is mapped there.
    guest.set_private(8, 1, true).unwrap();
    assert_eq!(guest.swap(8, 1), Err(Errno::EFAULT));
    guest.map(8, 1, 8).unwrap();
    assert_eq!(guest.swap(8, 1), Ok(0));
    assert_eq!(guest.shared(8), 0);
}

fn bad_attributes(stage: &Stage) {
    let guest = Guest::new(stage);
    for (address, size, attributes) in [
        (WINDOW, 0, 0),
        (WINDOW, 1, 0),
        (WINDOW + 1, PAGE, 0),
        (0_u64.wrapping_sub(PAGE), 2 * PAGE, 0),
        (WINDOW, PAGE, 1),
        (WINDOW, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE << 1),
    ] {
        let result = guest
            .ranges()
            .kvm_set_memory_attributes(address, size, attributes);
        let what = format!("{address:#x} {size:#x} {attributes:#x}");
        assert_eq!(result, Err(Errno::EINVAL), "{what}");
    }
    // A virtual machine without private memory.
    let plain = stage.kvm.kvm_create_vm().unwrap();
    let plain = RangeMemory::new(Syscall::open().unwrap(), plain.as_fd());
    let result = plain.kvm_set_memory_attributes(WINDOW, PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE);
    assert_eq!(result, Err(Errno::EINVAL));
}
