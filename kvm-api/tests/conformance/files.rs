//! The files of a vCPU, as a program finds them: the entries of the directory, and the
//! data of each file.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use kvm_api::files::{File, FileVcpu};
use kvm_api::kvm_sys::*;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Result, Vcpu};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::Needs::AnyVcpu;
use crate::{Stage, Test};
use guests::TestVm;
use guests::programs::{self, OUT_PORT};
use kvm_api::Form::{self, Files as Here};

pub const TESTS: &[(Form, Test)] = &[
    (Here, ("directory::lists_the_files", AnyVcpu, listing)),
    (Here, ("directory::is_still_a_vcpu", AnyVcpu, still_a_vcpu)),
    (Here, ("directory::cannot_be_changed", AnyVcpu, unchanging)),
    (
        Here,
        ("directory::opened_anew_is_no_vcpu", AnyVcpu, opened_anew),
    ),
    (Here, ("file::passes_whole_or_not", AnyVcpu, whole)),
    (Here, ("file::stays_at_its_beginning", AnyVcpu, position)),
    (
        Here,
        ("file::is_open_for_what_it_was", AnyVcpu, access_mode),
    ),
    (Here, ("file::shows_what_the_calls_do", AnyVcpu, mixed)),
    (Here, ("file::is_the_owners_alone", AnyVcpu, forked)),
    (Here, ("file::keeps_the_vcpu", AnyVcpu, closing)),
    (
        Here,
        ("file::a_reused_number_is_another_vcpu", AnyVcpu, reused),
    ),
    (Here, ("msrs::are_those_of_the_list", AnyVcpu, msrs)),
    (Here, ("cpuid::is_read_back", AnyVcpu, cpuid)),
    (Here, ("sigmask::has_one_length_or_none", AnyVcpu, sigmask)),
];

/// The size of a file, if it is the size of its structure.
fn size(file: File) -> Option<usize> {
    Some(match file {
        File::Regs => size_of::<kvm_regs>(),
        File::Sregs => size_of::<kvm_sregs>(),
        File::Fpu => size_of::<kvm_fpu>(),
        File::Msrs | File::Cpuid => return None,
        File::Sigmask => size_of::<kvm_signal_mask_set>(),
        File::Debug => size_of::<kvm_guest_debug>(),
        File::Interrupt => size_of::<u32>(),
    })
}

fn is_read(file: File) -> bool {
    !matches!(file, File::Sigmask | File::Debug | File::Interrupt)
}

fn path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn openat(at: BorrowedFd<'_>, name: &CStr, flags: i32) -> Result<OwnedFd> {
    // SAFETY: the name ends with a zero.
    let fd = unsafe { libc::openat(at.as_raw_fd(), name.as_ptr(), flags, 0o600) };
    // SAFETY: it is a new file descriptor.
    Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn read(fd: &OwnedFd, buffer: &mut [u8]) -> Result<usize> {
    nix::unistd::read(fd, buffer)
}

fn write(fd: &OwnedFd, buffer: &[u8]) -> Result<usize> {
    nix::unistd::write(fd, buffer)
}

fn pread(fd: &OwnedFd, buffer: &mut [u8], offset: i64) -> Result<usize> {
    let (to, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: the buffer is that long.
    let n = unsafe { libc::pread(fd.as_raw_fd(), to, len, offset) };
    Errno::result(n).map(|n| n as usize)
}

fn pwrite(fd: &OwnedFd, buffer: &[u8], offset: i64) -> Result<usize> {
    let (from, len) = (buffer.as_ptr().cast(), buffer.len());
    // SAFETY: the buffer is that long.
    let n = unsafe { libc::pwrite(fd.as_raw_fd(), from, len, offset) };
    Errno::result(n).map(|n| n as usize)
}

/// The files of a vCPU, opened a second time.
fn files(machine: &TestVm<'_>) -> FileVcpu<OwnedFd> {
    FileVcpu::open(Syscall::open().unwrap(), machine.vcpu_fd()).unwrap()
}

fn listing(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let list = || -> BTreeMap<String, u64> {
        let entries = fs::read_dir(path(machine.vcpu())).unwrap();
        let name = |entry: fs::DirEntry| {
            let ino = std::os::unix::fs::DirEntryExt::ino(&entry);
            (entry.file_name().into_string().unwrap(), ino)
        };
        entries.map(|entry| name(entry.unwrap())).collect()
    };
    let names = list();
    assert_eq!(names.len(), File::ALL.len());
    for file in File::ALL {
        let name = file.name().to_str().unwrap();
        let stat = fs::metadata(format!("{}/{name}", path(machine.vcpu()))).unwrap();
        let mode = if is_read(file) { 0o600 } else { 0o200 };
        assert_eq!(stat.mode(), libc::S_IFREG | mode, "{name}");
        assert_eq!((stat.ino(), stat.uid()), (names[name], 0), "{name}");
        if let Some(size) = size(file) {
            assert_eq!(stat.size(), size as u64, "{name}");
        }
        let opened = file.open(machine.vcpu()).unwrap();
        let link = fs::read_link(path(opened.as_fd())).unwrap();
        assert_eq!(
            link.to_str(),
            Some(&*format!("anon_inode:kvm-vcpu:0/{name}"))
        );
    }
    assert_eq!(list(), names);
}

fn still_a_vcpu(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let link = fs::read_link(path(machine.vcpu())).unwrap();
    assert_eq!(link.to_str(), Some("anon_inode:kvm-vcpu:0"));
    let stat = nix::sys::stat::fstat(machine.vcpu()).unwrap();
    assert_eq!(stat.st_mode, libc::S_IFDIR | 0o500);
    let vcpu = machine.vcpu.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(read(&vcpu, &mut [0; 8]), Err(Errno::EINVAL));
    // The witness makes ioctls, and `run` is a mapping of the directory.
    machine.load(programs::OUT);
    let regs = kvm_regs {
        rip: guests::ENTRY,
        rflags: 2,
        ..Default::default()
    };
    stage.witness.kvm_set_regs(machine.vcpu(), &regs).unwrap();
    machine.run_to_out(OUT_PORT);
    machine.run_to_hlt();
}

fn unchanging(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let vcpu = machine.vcpu();
    let at = vcpu.as_raw_fd();
    let raw = |answer: i32| Errno::result(answer).map(drop);
    for flags in [libc::O_RDWR, libc::O_RDWR | libc::O_CREAT] {
        assert_eq!(openat(vcpu, c"xcrs", flags).err(), Some(Errno::ENOENT));
    }
    let exclusive = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    assert_eq!(openat(vcpu, c"regs", exclusive).err(), Some(Errno::EEXIST));
    assert_eq!(
        openat(vcpu, c"regs/x", libc::O_RDWR).err(),
        Some(Errno::ENOTDIR)
    );
    let (regs, new) = (c"regs".as_ptr(), c"new".as_ptr());
    // SAFETY: the names end with a zero.
    unsafe {
        assert_eq!(raw(libc::unlinkat(at, regs, 0)), Err(Errno::EPERM));
        assert_eq!(raw(libc::mkdirat(at, new, 0o700)), Err(Errno::ENOENT));
        assert_eq!(raw(libc::renameat(at, regs, at, new)), Err(Errno::ENOENT));
        let sregs = c"sregs".as_ptr();
        assert_eq!(raw(libc::renameat(at, regs, at, sregs)), Err(Errno::EPERM));
        assert_eq!(raw(libc::fchmodat(at, regs, 0o644, 0)), Err(Errno::EPERM));
        assert_eq!(raw(libc::fchown(at, 1, 1)), Err(Errno::EPERM));
    }
    // The flags of a redirection by > in a shell.
    let file = openat(vcpu, c"interrupt", libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(write(&file, &33_u32.to_ne_bytes()), Ok(4));
    assert_eq!(nix::unistd::ftruncate(&file, 0), Err(Errno::EPERM));
}

fn opened_anew(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let anew = fs::File::open(path(machine.vcpu())).unwrap();
    let mut regs = kvm_regs::default();
    let by_ioctl = stage.witness.kvm_get_regs(anew.as_fd(), &mut regs);
    assert_eq!(by_ioctl, Err(Errno::ENOTTY));
    assert!(openat(anew.as_fd(), c"regs", libc::O_RDWR).is_ok());
    assert!(openat(anew.as_fd(), c"../sregs", libc::O_RDWR).is_ok());
}

fn whole(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    for file in File::ALL {
        let opened = file.open(machine.vcpu()).unwrap();
        let Some(size) = size(file) else { continue };
        let mut buffer = vec![0; 2 * size];
        for wrong in [0, size - 1, size + 1, 2 * size] {
            // A length of 0 reaches the file, too.
            assert_eq!(
                write(&opened, &buffer[..wrong]),
                Err(Errno::EINVAL),
                "{file:?}"
            );
            if is_read(file) {
                assert_eq!(
                    read(&opened, &mut buffer[..wrong]),
                    Err(Errno::EINVAL),
                    "{file:?}"
                );
            }
        }
        for offset in [1, size as i64] {
            assert_eq!(pwrite(&opened, &buffer[..size], offset), Err(Errno::EINVAL));
            if is_read(file) {
                let answer = pread(&opened, &mut buffer[..size], offset);
                assert_eq!(answer, Err(Errno::EINVAL));
            }
        }
    }
}

fn position(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let file = File::Sregs.open(machine.vcpu()).unwrap();
    let mut first = [0; size_of::<kvm_sregs>()];
    let mut again = first;
    assert_eq!(read(&file, &mut first), Ok(first.len()));
    for _ in 0..3 {
        assert_eq!(read(&file, &mut again), Ok(again.len()));
        assert_eq!(pread(&file, &mut again, 0), Ok(again.len()));
        assert_eq!(again, first);
        assert_eq!(write(&file, &again), Ok(again.len()));
        assert_eq!(pwrite(&file, &again, 0), Ok(again.len()));
    }
    let seek = |offset, whence| {
        // SAFETY: the call touches no memory.
        Errno::result(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })
    };
    for whence in [libc::SEEK_SET, libc::SEEK_CUR, libc::SEEK_END] {
        assert_eq!(seek(0, whence), Ok(0));
        assert_eq!(seek(1, whence), Err(Errno::EINVAL));
    }
}

fn access_mode(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let mut regs = [0; size_of::<kvm_regs>()];
    let reader = openat(machine.vcpu(), c"regs", libc::O_RDONLY).unwrap();
    assert_eq!(read(&reader, &mut regs), Ok(regs.len()));
    assert_eq!(write(&reader, &regs), Err(Errno::EBADF));
    let writer = openat(machine.vcpu(), c"regs", libc::O_WRONLY).unwrap();
    assert_eq!(write(&writer, &regs), Ok(regs.len()));
    assert_eq!(read(&writer, &mut regs), Err(Errno::EBADF));
    // Root may open the file, but cannot read it.
    let debug = openat(machine.vcpu(), c"debug", libc::O_RDWR).unwrap();
    let mut buffer = [0; size_of::<kvm_guest_debug>()];
    assert_eq!(read(&debug, &mut buffer), Err(Errno::EINVAL));
}

fn mixed(stage: &Stage) {
    let mut machine = TestVm::of_form(&stage.kvm, 0);
    let files = files(&machine);
    machine.load(programs::ADD);
    let mut regs = kvm_regs::default();
    stage
        .witness
        .kvm_get_regs(machine.vcpu(), &mut regs)
        .unwrap();
    (regs.rbx, regs.rcx) = (30, 12);
    files.kvm_set_regs(&regs).unwrap();
    machine.run_to_hlt();
    let mut by_ioctl = regs;
    files.kvm_get_regs(&mut regs).unwrap();
    stage
        .witness
        .kvm_get_regs(machine.vcpu(), &mut by_ioctl)
        .unwrap();
    assert_eq!((regs.rbx, by_ioctl), (42, regs));
    let mut fpu = kvm_fpu::default();
    files.kvm_get_fpu(&mut fpu).unwrap();
    fpu.fcw = 0x027f;
    files.kvm_set_fpu(&fpu).unwrap();
    stage.witness.kvm_get_fpu(machine.vcpu(), &mut fpu).unwrap();
    assert_eq!(fpu.fcw, 0x027f);
}

fn forked(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let file = File::Regs.open(machine.vcpu()).unwrap();
    let mut regs = [0; size_of::<kvm_regs>()];
    // SAFETY: the child makes system calls, and leaves without unwinding.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let wrong = read(&file, &mut regs) != Err(Errno::EIO)
                || write(&file, &regs) != Err(Errno::EIO)
                || File::Regs.open(machine.vcpu()).err() != Some(Errno::EIO);
            // SAFETY: nothing of the parent's is touched on the way out.
            unsafe { libc::_exit(wrong.into()) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).unwrap();
            assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
        }
    }
    assert_eq!(read(&file, &mut regs), Ok(regs.len()));
}

fn closing(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    machine
        .vcpu
        .kvm_set_regs(&kvm_regs {
            rbx: 7,
            rflags: 2,
            ..Default::default()
        })
        .unwrap();
    let file = File::Regs.open(machine.vcpu()).unwrap();
    let mut before = [0; size_of::<kvm_regs>()];
    assert_eq!(read(&file, &mut before), Ok(before.len()));
    // Drops the file descriptors of the vCPU and of the machine, and everything else.
    drop(machine);
    let mut after = [0; size_of::<kvm_regs>()];
    assert_eq!(read(&file, &mut after), Ok(after.len()));
    assert_eq!((after, after[8]), (before, 7));
    let users = || fs::read_to_string("/sys/module/kvm_amd/refcnt").map(|n| n.trim() == "0");
    if let Ok(unused) = users() {
        assert!(!unused, "a file does not keep the module");
    }
}

fn reused(stage: &Stage) {
    let vm = stage.kvm.kvm_create_vm().unwrap();
    let numbers = [1, 2, 3].map(|round| {
        let fd = stage.kvm.kvm_create_vcpu(vm.as_fd()).unwrap();
        let number = fd.as_raw_fd();
        let vcpu = stage.kvm.vcpu(fd).unwrap();
        let mut regs = kvm_regs::default();
        vcpu.kvm_get_regs(&mut regs).unwrap();
        assert_eq!(regs.rbx, 0, "the registers of a vCPU that is closed");
        regs.rbx = round;
        vcpu.kvm_set_regs(&regs).unwrap();
        number
    });
    assert_eq!(numbers[0], numbers[1]);
}

fn msrs(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let files = files(&machine);
    let mut list = MsrList::new(KVM_MAX_MSR_ENTRIES).unwrap();
    stage
        .kvm
        .kvm_get_msr_index_list(machine.vm(), &mut list)
        .unwrap();
    let all = files.kvm_get_all_msrs().unwrap();
    assert!(
        all.as_slice()
            .iter()
            .all(|msr| list.as_slice().contains(&msr.index))
    );
    // The ioctl reads each of them, with the same value.
    for msr in all
        .as_slice()
        .iter()
        .filter(|msr| !CLOCKS.contains(&msr.index))
    {
        let mut one = Msrs::from_entries(&[kvm_msr_entry { data: 0, ..*msr }]).unwrap();
        assert_eq!(stage.witness.kvm_get_msrs(machine.vcpu(), &mut one), Ok(1));
        assert_eq!(one.as_slice()[0].data, msr.data, "{:#x}", msr.index);
    }
    let stat = nix::sys::stat::fstat(files.file(File::Msrs)).unwrap();
    let entries = list.as_slice().len() * size_of::<kvm_msr_entry>();
    assert_eq!(stat.st_size as usize, size_of::<kvm_msrs>() + entries);
}

/// The MSRs that change by themselves: the time stamp counter, Hyper-V's clock, and
/// Hyper-V's run time of the vCPU.
const CLOCKS: [u32; 3] = [0x10, 0x4000_0020, 0x4000_0010];

fn cpuid(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let files = files(&machine);
    assert_eq!(files.kvm_get_cpuid().unwrap().as_slice().len(), 0);
    let entry = kvm_cpuid_entry2 {
        function: 0x4000_0001,
        ebx: 0xcafe,
        ..Default::default()
    };
    let set = CpuId::from_entries(&[kvm_cpuid_entry2::default(), entry]).unwrap();
    files.kvm_set_cpuid(&set).unwrap();
    assert_eq!(files.kvm_get_cpuid().unwrap().as_slice(), set.as_slice());
    let stat = nix::sys::stat::fstat(files.file(File::Cpuid)).unwrap();
    let size = size_of::<kvm_cpuid2>() + size_of_val(set.as_slice());
    assert_eq!(stat.st_size as usize, size);
}

fn sigmask(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let file = File::Sigmask.open(machine.vcpu()).unwrap();
    let mask = |len: u32, bytes: usize| [&len.to_ne_bytes()[..], &vec![0; bytes]].concat();
    for (len, bytes) in [(8, 8), (0, 0)] {
        assert_eq!(write(&file, &mask(len, bytes)), Ok(4 + bytes));
    }
    for (len, bytes) in [(8, 7), (8, 9), (8, 0), (0, 8), (4, 4), (16, 16)] {
        assert_eq!(
            write(&file, &mask(len, bytes)),
            Err(Errno::EINVAL),
            "{len} {bytes}"
        );
    }
}
