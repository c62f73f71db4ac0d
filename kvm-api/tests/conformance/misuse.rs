//! What each call refuses, and with which errno: one row for each of
//! `kvm_sys::CALLS`, through the trait where safe code can say it, below it
//! where it cannot.

use std::io::pipe;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use kvm_api::files::File;
use kvm_api::kvm_sys::*;
use kvm_api::{Backend, Errno, GuestMemory, Result, RunMapping};
use libc::c_ulong;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::Needs::AnyVcpu;
use crate::{Stage, Test, raw};
use guests::{MEMORY, SLOT, TestVm};
use kvm_api::Form;

pub const TESTS: &[Test] = &[
    ("misuse::closed_fd", AnyVcpu, closed_fd),
    ("misuse::fd_of_a_pipe", AnyVcpu, pipe_fd),
    ("misuse::fd_of_the_device", AnyVcpu, device_fd),
    ("misuse::fd_of_a_vm", AnyVcpu, vm_fd),
    ("misuse::fd_of_a_vcpu", AnyVcpu, vcpu_fd),
    ("misuse::fd_of_another_process", AnyVcpu, other_process),
    ("misuse::bad_pointers", AnyVcpu, bad_pointers),
    ("misuse::counts_and_sizes", AnyVcpu, counts),
    (
        "misuse::every_call_succeeds_with_good_arguments",
        AnyVcpu,
        good_arguments,
    ),
];

/// Makes a call through the trait, with good arguments but for its `fd`.
pub fn invoke(
    kvm: &Backend,
    call: FlatCall,
    fd: BorrowedFd<'_>,
    run: &mut RunMapping,
) -> Result<()> {
    let mut word = 0;
    let (mut a, mut b, mut c) = (0, 0, 0);
    // Out of the way of the memory that machines have.
    let far = 0x100_0000;
    let memory = GuestMemory::anonymous(0x1000).unwrap();
    let address = memory.as_ptr().expose_provenance() as u64;
    let alias = |size| kvm_memory_alias {
        guest_phys_addr: 2 * far,
        memory_size: size,
        ..Default::default()
    };
    let vcpu = || kvm.vcpu(fd);
    match call {
        FlatCall::kvm_create_vm => kvm.kvm_create_vm().map(drop),
        FlatCall::kvm_get_msr_index_list => {
            kvm.kvm_get_msr_index_list(fd, &mut MsrList::new(KVM_MAX_MSR_ENTRIES).unwrap())
        }
        FlatCall::kvm_get_vcpu_mmap_size => kvm.kvm_get_vcpu_mmap_size(fd).map(drop),
        FlatCall::kvm_set_memory_region => kvm.kvm_set_memory_region(fd, 5, 0, far, 0x1000),
        FlatCall::kvm_create_vcpu => kvm.kvm_create_vcpu(fd).map(drop),
        FlatCall::kvm_get_dirty_log => {
            let mut bitmap = [0; MEMORY / 0x1000 / 64 + 1];
            // SAFETY: the bitmap has a bit for each page of a machine's memory.
            unsafe { kvm.kvm_get_dirty_log(fd, SLOT, &mut bitmap) }
        }
        FlatCall::kvm_get_memory_alias => kvm.kvm_get_memory_alias(fd, &mut alias(0)),
        FlatCall::kvm_run => {
            run.set_immediate_exit(true);
            match vcpu()?.kvm_run(run).map(drop) {
                // That is how it succeeds without a guest.
                Err(Errno::EINTR) => Ok(()),
                other => other,
            }
        }
        FlatCall::kvm_get_regs => vcpu()?.kvm_get_regs(&mut kvm_regs::default()),
        FlatCall::kvm_set_regs => vcpu()?.kvm_set_regs(&kvm_regs {
            rflags: 2,
            ..Default::default()
        }),
        FlatCall::kvm_get_sregs => vcpu()?.kvm_get_sregs(&mut kvm_sregs::default()),
        FlatCall::kvm_set_sregs => vcpu()?.kvm_set_sregs(&kvm_sregs::default()),
        FlatCall::kvm_translate => vcpu()?.kvm_translate(0, &mut word, &mut a, &mut b, &mut c),
        FlatCall::kvm_interrupt => vcpu()?.kvm_interrupt(32),
        FlatCall::kvm_debug_guest => vcpu()?.kvm_debug_guest(&kvm_guest_debug::default()),
        FlatCall::kvm_get_msrs => vcpu()?.kvm_get_msrs(&mut Msrs::new(1).unwrap()).map(drop),
        FlatCall::kvm_set_msrs => vcpu()?.kvm_set_msrs(&Msrs::new(1).unwrap()).map(drop),
        FlatCall::kvm_set_cpuid => vcpu()?.kvm_set_cpuid(&CpuId::new(0).unwrap()),
        FlatCall::kvm_set_signal_mask => vcpu()?.kvm_set_signal_mask(None),
        FlatCall::kvm_get_fpu => vcpu()?.kvm_get_fpu(&mut kvm_fpu::default()),
        FlatCall::kvm_set_fpu => vcpu()?.kvm_set_fpu(&kvm_fpu::default()),
        FlatCall::kvm_check_extension => kvm.kvm_check_extension(fd, 0).map(drop),
        FlatCall::kvm_set_user_memory_region => {
            // SAFETY: if it is set, it is deleted before the memory goes.
            unsafe {
                kvm.kvm_set_user_memory_region(fd, 6, 0, 3 * far, 0x1000, address)?;
                kvm.kvm_set_user_memory_region(fd, 6, 0, 3 * far, 0, 0)
            }
        }
        FlatCall::kvm_set_memory_alias => kvm.kvm_set_memory_alias(fd, &alias(0x1000)),
    }
}

/// The file that the backend goes through for `call`, if it does.
fn file_of(form: Form, call: FlatCall) -> Option<File> {
    File::of(&call).filter(|_| form == Form::Files)
}

/// The errno of a call on a file descriptor that is not a vcpu's: where the form opens
/// the files of the vcpu, that of openat(2), else `errno`.
fn no_vcpu(stage: &Stage, errno: Errno) -> Errno {
    match stage.form {
        Form::Files => Errno::ENOTDIR,
        _ => errno,
    }
}

/// The VM, the vcpu, the run mapping and the memory of a machine. The vcpu is not bound.
fn parts(machine: TestVm<'_>) -> (OwnedFd, OwnedFd, RunMapping, GuestMemory) {
    let vcpu = machine.vcpu_fd();
    let TestVm {
        vm, run, memory, ..
    } = machine;
    (vm, vcpu, run, memory)
}

/// Asserts that calls refuse `fd` with the `errno` that is given for each, if one is.
fn refuse(stage: &Stage, fd: BorrowedFd<'_>, errno: impl Fn(FlatCall) -> Option<Errno>) {
    let (_vm, _vcpu, mut run, _memory) = parts(TestVm::of_form(&stage.kvm, 0));
    for call in calls(stage) {
        if let Some(errno) = errno(call) {
            let result = invoke(&stage.kvm, call, fd, &mut run);
            assert_eq!(result, Err(errno), "{}", call.name);
        }
    }
}

/// The flat calls that the form under test has.
fn calls(stage: &Stage) -> impl Iterator<Item = FlatCall> {
    let form = stage.form;
    FlatCall::ALL
        .into_iter()
        .filter(move |call| !form.lacks(call))
}

fn good_arguments(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, slot::KVM_MEM_LOG_DIRTY_PAGES);
    let (vm, vcpu, mut run, _memory) = parts(machine);
    for call in calls(stage) {
        let fd = if call.fd == Fd::Vcpu { &vcpu } else { &vm };
        let result = invoke(&stage.kvm, call, fd.as_fd(), &mut run);
        assert_eq!(result, Ok(()), "{}", call.name);
    }
}

fn closed_fd(stage: &Stage) {
    // SAFETY: it is open nowhere, as limits do not go that high; nor is it
    // closed here.
    let fd = unsafe { BorrowedFd::borrow_raw(i32::MAX) };
    refuse(stage, fd, |call| {
        (call.fd != Fd::None).then_some(Errno::EBADF)
    });
    assert_eq!(
        stage.kvm.kvm_map_memory(fd, 0, 0x1000).err(),
        Some(Errno::EBADF)
    );
}

fn pipe_fd(stage: &Stage) {
    let (reader, _writer) = pipe().unwrap();
    let fd = reader.as_fd();
    refuse(stage, fd, |call| match call.fd {
        Fd::None => None,
        Fd::Vcpu => Some(no_vcpu(stage, Errno::ENOTTY)),
        Fd::System | Fd::Vm => Some(Errno::ENOTTY),
    });
    assert_eq!(
        stage.kvm.kvm_map_memory(fd, 0, 0x1000).err(),
        Some(Errno::ENOTTY)
    );
}

fn device_fd(stage: &Stage) {
    let device = raw::device();
    refuse(stage, device.as_fd(), |call| match call.fd {
        // Of the device the ioctl asks for the MSRs that tell features: a
        // request of its own, which only shares the code.
        Fd::Vcpu if call.request == Some(KVM_GET_MSRS) && stage.form == Form::Ioctl => None,
        Fd::Vcpu => Some(no_vcpu(stage, Errno::EINVAL)),
        Fd::Vm => Some(Errno::EINVAL),
        Fd::None | Fd::System => None,
    });
    let result = stage.kvm.kvm_map_memory(device.as_fd(), 0, 0x1000);
    assert_eq!(result.err(), Some(Errno::ENODEV));
}

fn vm_fd(stage: &Stage) {
    let vm = stage.kvm.kvm_create_vm().unwrap();
    refuse(stage, vm.as_fd(), |call| {
        (call.fd == Fd::Vcpu).then(|| no_vcpu(stage, Errno::ENOTTY))
    });
}

fn vcpu_fd(stage: &Stage) {
    let (_vm, vcpu, _run, _memory) = parts(TestVm::of_form(&stage.kvm, 0));
    refuse(stage, vcpu.as_fd(), |call| match call.fd {
        Fd::Vm | Fd::System => Some(Errno::EINVAL),
        Fd::None | Fd::Vcpu => None,
    });
    let result = stage.kvm.kvm_map_memory(vcpu.as_fd(), 0, 0x1000);
    assert_eq!(result.err(), Some(Errno::EINVAL));
}

fn other_process(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, slot::KVM_MEM_LOG_DIRTY_PAGES);
    // SAFETY: the child makes system calls, takes memory from an allocator that
    // survives a fork, and leaves without unwinding.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let (vm, vcpu, mut run, _memory) = parts(machine);
            let wrong = FlatCall::ALL.into_iter().position(|call| {
                let fd = if call.fd == Fd::Vcpu { &vcpu } else { &vm };
                call.fd != Fd::None
                    && !stage.form.lacks(&call)
                    && invoke(&stage.kvm, call, fd.as_fd(), &mut run) != Err(Errno::EIO)
            });
            let code = wrong.map_or(0, |index| 1 + index as i32);
            // SAFETY: nothing of the parent's is touched on the way out.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, 0) => {}
            WaitStatus::Exited(_, code) => {
                panic!(
                    "{} is not refused with EIO",
                    FlatCall::ALL[code as usize - 1].name
                )
            }
            other => panic!("{other:?}"),
        },
    }
}

/// How a pointer of a call is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Written,
}

/// A call's arguments in one of the interfaces, with pointers to good memory,
/// and which of them are pointers.
struct Arguments {
    words: Vec<usize>,
    pointers: Vec<(usize, Use)>,
}

/// The good arguments of `call`, behind its file descriptor, if the backend has it.
/// `page` is memory with the structure in it, which may be read and written.
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
                // The pointer to the bitmap is within the structure.
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
/// What the arguments point to has to be good, or not be there at all.
unsafe fn raw_call(
    form: Form,
    call: FlatCall,
    fd: BorrowedFd<'_>,
    words: &[usize],
) -> Option<Result<i64>> {
    if let Some(file) = file_of(form, call) {
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

/// Reads or writes a file of the vcpu, as `call` would.
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
    let (fd, address) = (fd.as_raw_fd(), ptr::without_provenance_mut(address));
    let header = call.structure.map_or(0, |structure| structure.size);
    let size = header
        + match file {
            File::Msrs if call == FlatCall::kvm_get_msrs => {
                KVM_MAX_MSR_ENTRIES * size_of::<kvm_msr_entry>()
            }
            File::Msrs => size_of::<kvm_msr_entry>(),
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
            Fd::Vcpu => machine.vcpu(),
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

/// A page that allows only what it was made with.
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

    /// Gives it the contents of another.
    fn fill_from(&self, page: &GuestMemory) {
        let protect = |protection| {
            // SAFETY: the page is this value's own, and nothing refers to it.
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
