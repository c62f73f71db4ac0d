//! The kind of file of a descriptor, as the kernel tells it.

use std::io::Write as _;

use kvm_sys::instruction::{syscall2, syscall3};
use libc::{c_int, c_ulong};

/// A kind of file. The numbers are bits, for sets of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Another file, or no file.
    Other = 0,
    /// `/dev/kvm`.
    Kvm = 1,
    /// A virtual machine.
    Vm = 2,
    /// A vCPU.
    Vcpu = 4,
}

/// The device number that Linux has assigned to `/dev/kvm`.
const KVM: libc::dev_t = libc::makedev(10, 232);

/// The name of a virtual machine in /proc. The name of a file with a path begins with `/`,
/// so no other file can have this name.
const VM: &[u8] = b"anon_inode:kvm-vm";

/// The name of a vCPU in /proc, before its id.
const VCPU: &[u8] = b"anon_inode:kvm-vcpu:";

/// A buffer that is longer than these names. It may have the beginning of another name.
type Name = [u8; 40];

/// The kind of file of `fd`.
pub(crate) fn kind(fd: c_int) -> Kind {
    let mut name: Name = [0; _];
    match name_of(fd, &mut name) {
        VM => Kind::Vm,
        name if name.starts_with(VCPU) => Kind::Vcpu,
        _ if is_dev_kvm(fd) => Kind::Kvm,
        _ => Kind::Other,
    }
}

/// The id of the vCPU of `fd`.
pub(crate) fn vcpu_id(fd: c_int) -> Option<c_ulong> {
    let mut name: Name = [0; _];
    let id = name_of(fd, &mut name).strip_prefix(VCPU)?;
    str::from_utf8(id).ok()?.parse().ok()
}

/// The name in /proc of the file of `fd`; empty if there is none.
fn name_of(fd: c_int, name: &mut Name) -> &[u8] {
    let Ok(fd) = u32::try_from(fd) else {
        return &[];
    };
    let link = link(fd);
    let (path, size) = ((&raw const link).expose_provenance(), name.len());
    let place = (&raw mut *name).expose_provenance();
    // SAFETY: `link` ends with a zero, and `name` has the given size.
    let length = unsafe { syscall3(libc::SYS_readlink, path, place, size) };
    &name[..usize::try_from(length).unwrap_or(0)]
}

/// The path in /proc of the link with the name of the file of `fd`. It is the path of the
/// thread, because a thread may have descriptors that its process lacks.
fn link(fd: u32) -> [u8; 32] {
    let mut link = [0; 32];
    write!(&mut link[..31], "/proc/thread-self/fd/{fd}").expect("ten digits fit");
    link
}

/// Whether `fd` is `/dev/kvm`, and open: a descriptor with O_PATH only names a file.
fn is_dev_kvm(fd: c_int) -> bool {
    // SAFETY: a `stat` has numbers only.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let (fd, get_flags) = (fd as usize, libc::F_GETFL as usize);
    // SAFETY: the kernel writes one `stat`, and nothing for the second call.
    let (done, flags) = unsafe {
        let stat = (&raw mut stat).expose_provenance();
        (
            syscall2(libc::SYS_fstat, fd, stat),
            syscall2(libc::SYS_fcntl, fd, get_flags),
        )
    };
    done == 0
        && stat.st_mode & libc::S_IFMT == libc::S_IFCHR
        && stat.st_rdev == KVM
        && flags >= 0
        && flags as c_int & libc::O_PATH == 0
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn links_are_written_out() {
        for fd in [0, 9, 10, 1234, u32::MAX] {
            let link = link(fd);
            let end = link.iter().position(|byte| *byte == 0).unwrap();
            let text = str::from_utf8(&link[..end]).unwrap();
            assert_eq!(text, format!("/proc/thread-self/fd/{fd}"));
        }
    }

    #[test]
    fn names_are_the_kernels() {
        let epoll =
            nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).unwrap();
        let mut name: Name = [0; _];
        assert_eq!(
            name_of(epoll.0.as_raw_fd(), &mut name),
            b"anon_inode:[eventpoll]"
        );
        assert_eq!(name_of(-1, &mut name), b"");
        assert_eq!(name_of(c_int::MAX, &mut name), b"");
    }

    #[test]
    fn other_files_are_not_kvms() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!(kind(null.as_raw_fd()), Kind::Other);
        // As a virtual machine is named, but for the path.
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("anon_inode:kvm-vm")).unwrap();
        assert_eq!(kind(file.as_raw_fd()), Kind::Other);
        assert_eq!(vcpu_id(file.as_raw_fd()), None);
        assert_eq!(kind(-1), Kind::Other);
    }

    #[test]
    fn a_descriptor_that_only_names_the_device_is_not_open() {
        let Ok(device) = File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open("/dev/kvm")
        else {
            eprintln!("no /dev/kvm");
            return;
        };
        assert_eq!(kind(device.as_raw_fd()), Kind::Other);
    }
}
