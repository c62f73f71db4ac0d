//! The files of a vCPU, as a program finds them: the entries of the directory, and the
//! data of each file.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use kvm_api::files::{File, FileVcpu, Part};
use kvm_api::kvm_sys::*;
use kvm_api::syscall::Syscall;
use kvm_api::{Errno, Result, Vcpu};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::Needs::AnyVcpu;
use crate::state_msrs::with_apic;
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
    (
        Here,
        ("chosen_msrs::are_those_chosen", AnyVcpu, chosen_msrs),
    ),
    (
        Here,
        ("chosen_msrs::end_where_one_fails", AnyVcpu, unreadable),
    ),
    (
        Here,
        (
            "chosen_msrs::belong_to_the_open_file",
            AnyVcpu,
            chosen_by_each,
        ),
    ),
    (Here, ("parts::are_those_of_the_ioctls", AnyVcpu, parts)),
    (
        Here,
        ("parts::need_what_the_ioctls_need", AnyVcpu, refused_parts),
    ),
    (Here, ("xsave::has_the_size_of_the_file", AnyVcpu, xsave)),
    (Here, ("cpuid::is_read_back", AnyVcpu, cpuid)),
    (Here, ("sigmask::has_one_length_or_none", AnyVcpu, sigmask)),
];

/// The size of a file, if it is the size of its structure.
fn size(file: File) -> Option<usize> {
    Some(match file {
        File::Regs => size_of::<kvm_regs>(),
        File::Sregs => size_of::<kvm_sregs>(),
        File::Fpu => size_of::<kvm_fpu>(),
        File::Msrs | File::Cpuid | File::Xsave | File::ChosenMsrs => return None,
        File::Sigmask => size_of::<kvm_signal_mask_set>(),
        File::Debug => size_of::<kvm_guest_debug>(),
        File::Interrupt => size_of::<u32>(),
        File::Xcrs => size_of::<kvm_xcrs>(),
        File::Debugregs => size_of::<kvm_debugregs>(),
        File::Events => size_of::<kvm_vcpu_events>(),
        File::MpState => size_of::<kvm_mp_state>(),
        File::Lapic => size_of::<kvm_lapic_state>(),
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
        assert_eq!(openat(vcpu, c"mce", flags).err(), Some(Errno::ENOENT));
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

/// MSRs that every vCPU has.
const SYSENTER: [u32; 3] = [0x174, 0x175, 0x176];
/// An MSR that no vCPU has.
const NONE: u32 = 0x4000_dead;

/// A value that no MSR has.
const UNREAD: u64 = 0x5a5a;

fn list(indices: &[u32]) -> Msrs {
    let entries = indices.iter().map(|&index| kvm_msr_entry {
        index,
        data: UNREAD,
        ..Default::default()
    });
    Msrs::from_entries(&entries.collect::<Vec<_>>()).unwrap()
}

fn chosen_msrs(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let files = files(&machine);
    let mut set = list(&SYSENTER);
    for (n, entry) in set.as_mut_slice().iter_mut().enumerate() {
        entry.data = n as u64 + 1;
    }
    assert_eq!(stage.witness.kvm_set_msrs(machine.vcpu(), &set), Ok(3));
    // Each choice takes the place of the one before, and an empty one is a choice.
    for indices in [
        &SYSENTER[..],
        &SYSENTER[1..2],
        &[],
        &SYSENTER[..],
        &SYSENTER[..],
    ] {
        let (mut by_file, mut by_ioctl) = (list(indices), list(indices));
        assert_eq!(files.kvm_get_msrs(&mut by_file), Ok(indices.len()));
        let read = stage.witness.kvm_get_msrs(machine.vcpu(), &mut by_ioctl);
        assert_eq!(read, Ok(indices.len()));
        assert_eq!(by_file.as_slice(), by_ioctl.as_slice());
    }
    // What was read can be written.
    let mut read = list(&SYSENTER);
    files.kvm_get_msrs(&mut read).unwrap();
    assert_eq!(files.kvm_set_msrs(&read), Ok(3));
}

fn unreadable(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let files = files(&machine);
    let indices = [SYSENTER[0], NONE, SYSENTER[1]];
    for indices in [&indices[..], &indices[1..]] {
        let (mut by_file, mut by_ioctl) = (list(indices), list(indices));
        let read = stage.witness.kvm_get_msrs(machine.vcpu(), &mut by_ioctl);
        assert_eq!(files.kvm_get_msrs(&mut by_file), read);
        let read = read.unwrap();
        assert_eq!(read, indices.len() - 2);
        assert_eq!(by_file.as_slice()[..read], by_ioctl.as_slice()[..read]);
        // The rest is as it was.
        assert!(
            by_file.as_slice()[read..]
                .iter()
                .all(|it| it.data == UNREAD)
        );
    }
}

fn chosen_by_each(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let open = || File::ChosenMsrs.open(machine.vcpu()).unwrap();
    let (one, other) = (open(), open());
    let choice = |indices: &[u32]| -> Vec<u8> {
        let words = [&[indices.len() as u32], indices].concat();
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    };
    let mut buffer = [0; size_of::<kvm_msrs>() + 2 * size_of::<kvm_msr_entry>()];
    let one_entry = buffer.len() - size_of::<kvm_msr_entry>();
    assert_eq!(read(&one, &mut buffer), Err(Errno::EINVAL), "no choice");
    assert_eq!(write(&one, &choice(&SYSENTER[..2])), Ok(12));
    assert_eq!(write(&other, &choice(&SYSENTER[2..])), Ok(8));
    assert_eq!(read(&one, &mut buffer), Ok(buffer.len()));
    assert_eq!(read(&other, &mut buffer), Err(Errno::EINVAL), "too long");
    assert_eq!(read(&other, &mut buffer[..one_entry]), Ok(one_entry));
    let index = size_of::<kvm_msrs>();
    assert_eq!(buffer[index..index + 4], SYSENTER[2].to_ne_bytes());
    // A choice that is refused leaves the one before.
    for (wrong, errno) in [
        (&choice(&SYSENTER)[..15], Errno::EINVAL),
        (&choice(&[])[..3], Errno::EINVAL),
        (&choice(&[0; 256]), Errno::E2BIG),
    ] {
        assert_eq!(write(&other, wrong), Err(errno));
    }
    assert_eq!(pwrite(&other, &choice(&[]), 1), Err(Errno::EINVAL));
    assert_eq!(read(&other, &mut buffer[..one_entry]), Ok(one_entry));
}

/// The ioctl that reads or sets a structure.
fn ioctl<T>(machine: &TestVm<'_>, request: libc::c_ulong, structure: &mut T) -> Result<()> {
    let fd = machine.vcpu().as_raw_fd();
    // SAFETY: the request is for a structure of that type.
    Errno::result(unsafe { libc::ioctl(fd, request, &raw mut *structure) }).map(drop)
}

fn parts(stage: &Stage) {
    /// Changes a part by its file, and looks at it by the ioctl, and the other way round.
    fn part<P: Part + Default>(
        machine: &TestVm<'_>,
        requests: [libc::c_ulong; 2],
        change: fn(&mut P, u8),
        value: fn(&P) -> u64,
    ) {
        let files = files(machine);
        let [mut by_file, mut by_ioctl] = [P::default(), P::default()];
        files.get(&mut by_file).unwrap();
        ioctl(machine, requests[0], &mut by_ioctl).unwrap();
        assert_eq!(value(&by_file), value(&by_ioctl), "{:?}", P::FILE);
        change(&mut by_file, 1);
        assert_eq!(files.set(&by_file), Ok(()), "{:?}", P::FILE);
        ioctl(machine, requests[0], &mut by_ioctl).unwrap();
        assert_eq!(value(&by_ioctl), value(&by_file), "{:?}", P::FILE);
        change(&mut by_ioctl, 2);
        ioctl(machine, requests[1], &mut by_ioctl).unwrap();
        files.get(&mut by_file).unwrap();
        assert_eq!(value(&by_file), value(&by_ioctl), "{:?}", P::FILE);
    }
    let machine = with_apic(stage);
    part::<kvm_xcrs>(
        &machine,
        [KVM_GET_XCRS, KVM_SET_XCRS],
        |it, n| it.xcrs[0].value = [0, 3, 1][usize::from(n)],
        |it| it.xcrs[0].value,
    );
    part::<kvm_debugregs>(
        &machine,
        [KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS],
        |it, n| it.db[0] = n.into(),
        |it| it.db[0],
    );
    part::<kvm_vcpu_events>(
        &machine,
        [KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS],
        |it, n| it.nmi.masked = n & 1,
        |it| it.nmi.masked.into(),
    );
    part::<kvm_mp_state>(
        &machine,
        [KVM_GET_MP_STATE, KVM_SET_MP_STATE],
        |it, n| it.mp_state = [0, 3, 0][usize::from(n)],
        |it| it.mp_state.into(),
    );
    // The task priority.
    part::<kvm_lapic_state>(
        &machine,
        [KVM_GET_LAPIC, KVM_SET_LAPIC],
        |it, n| it.regs[0x80] = (n << 4) as libc::c_char,
        |it| it.regs[0x80] as u64,
    );
}

fn refused_parts(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let files = files(&machine);
    // Without the interrupt controller in the kernel.
    let mut lapic = kvm_lapic_state::default();
    assert_eq!(files.get(&mut lapic), Err(Errno::EINVAL));
    assert_eq!(files.set(&lapic), Err(Errno::EINVAL));
    assert_eq!(files.set(&kvm_mp_state { mp_state: 3 }), Err(Errno::EINVAL));
    let mut xcrs = kvm_xcrs::default();
    files.get(&mut xcrs).unwrap();
    xcrs.xcrs[0].value = 0;
    assert_eq!(files.set(&xcrs), Err(Errno::EINVAL));
    let debugregs = kvm_debugregs {
        flags: 1,
        ..Default::default()
    };
    assert_eq!(files.set(&debugregs), Err(Errno::EINVAL));
    let events = kvm_vcpu_events {
        flags: 1 << 31,
        ..Default::default()
    };
    assert_eq!(files.set(&events), Err(Errno::EINVAL));
}

fn xsave(stage: &Stage) {
    let machine = TestVm::of_form(&stage.kvm, 0);
    let files = files(&machine);
    let stat = nix::sys::stat::fstat(files.file(File::Xsave)).unwrap();
    let mut by_file = vec![0; stat.st_size as usize];
    let mut by_ioctl = by_file.clone();
    files.get_xsave(&mut by_file).unwrap();
    ioctl(&machine, KVM_GET_XSAVE2, &mut by_ioctl[0]).unwrap();
    assert!(by_file == by_ioctl);
    // The FPU's control word is the first.
    by_file[..2].copy_from_slice(&0x027f_u16.to_ne_bytes());
    // The header says that the FPU is not in its initial state.
    by_file[512] |= 1;
    files.set_xsave(&by_file).unwrap();
    let mut fpu = kvm_fpu::default();
    stage.witness.kvm_get_fpu(machine.vcpu(), &mut fpu).unwrap();
    assert_eq!(fpu.fcw, 0x027f);
    let len = by_file.len();
    assert_eq!(files.get_xsave(&mut by_file[..len - 1]), Err(Errno::EINVAL));
    assert_eq!(files.set_xsave(&by_file[..len - 1]), Err(Errno::EINVAL));
}

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
