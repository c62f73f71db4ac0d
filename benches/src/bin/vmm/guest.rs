//! The guest's user space: one process, which says that the guest has arrived, and resets it.

use std::path::Path;

use anyhow::Result;
use benches::vmm::work::{GUEST_INIT, USER_SPACE};
use kernel_patch::Initramfs;
use nix::libc::{
    LINUX_REBOOT_CMD_RESTART, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, SYS_reboot, SYS_write,
};

std::arch::global_asm!(
    ".pushsection .rodata",
    "vmm_guest_init:",
    "mov ${write}, %eax",
    "mov $1, %edi",
    "lea 2f(%rip), %rsi",
    "mov ${size}, %edx",
    "syscall",
    "mov ${reboot}, %eax",
    "mov ${magic1}, %edi",
    "mov ${magic2}, %esi",
    "mov ${restart}, %edx",
    "syscall",
    // If this fails the kernel panics, and resets the guest, too.
    "ud2",
    "2:",
    "vmm_guest_init_end:",
    ".popsection",
    write = const SYS_write,
    size = const USER_SPACE.len() + 1,
    reboot = const SYS_reboot,
    magic1 = const LINUX_REBOOT_MAGIC1,
    magic2 = const LINUX_REBOOT_MAGIC2,
    restart = const LINUX_REBOOT_CMD_RESTART,
    options(att_syntax)
);

/// The instructions of the process. Its message follows them.
fn code() -> &'static [u8] {
    unsafe extern "C" {
        #[link_name = "vmm_guest_init"]
        static CODE: u8;
        #[link_name = "vmm_guest_init_end"]
        static END: u8;
    }
    // SAFETY: the assembler has put the instructions between the two symbols.
    unsafe {
        let (code, end) = (&raw const CODE, &raw const END);
        std::slice::from_raw_parts(code, end.offset_from_unsigned(code))
    }
}

/// An executable of some hundred bytes, so that the figures are those of the kernel's boot,
/// and not of unpacking a C library.
fn executable() -> Vec<u8> {
    /// The size of the header of the file and of the one segment.
    const HEADERS: u64 = 64 + 56;
    /// The address of the segment, which is the whole file.
    const ADDRESS: u64 = 0x40_0000;
    let content = [code(), USER_SPACE.as_bytes(), b"\n"].concat();
    let size = HEADERS + content.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // An executable for x86-64, by version 1 of the format, with its entry.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend((ADDRESS + HEADERS).to_le_bytes());
    // The segments' headers follow this one. There are no sections.
    file.extend(64_u64.to_le_bytes());
    file.extend([0; 12]);
    file.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // A segment to load, readable and executable.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let segment = [0, ADDRESS, ADDRESS, size, size, 0x1000];
    file.extend(segment.map(u64::to_le_bytes).concat());
    file.extend(content);
    file
}

/// Makes the initial RAM disk of the guest.
pub fn make_initrd(path: &Path) -> Result<()> {
    let mut initrd = Initramfs::create(path)?;
    initrd.write(&executable(), Path::new(GUEST_INIT))?;
    Ok(initrd.finish()?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;

    use nix::libc::SIGILL;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    use super::*;

    /// It runs here, too, where a filter refuses the reset.
    #[test]
    fn the_process_says_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        fs::write(&path, executable()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let filter = SeccompFilter::new(
            [(SYS_reboot, vec![])].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(1),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let filter = BpfProgram::try_from(filter.unwrap()).unwrap();
        let mut command = Command::new(&path);
        let apply = move || seccompiler::apply_filter(&filter).map_err(std::io::Error::other);
        // SAFETY: between fork and exec the closure makes two system calls.
        unsafe { command.pre_exec(apply) };
        let output = command.output().unwrap();
        assert_eq!(output.stdout, format!("{USER_SPACE}\n").as_bytes());
        assert_eq!(output.status.signal(), Some(SIGILL));
    }
}
