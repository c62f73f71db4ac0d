//! The table of the work.

/// The program of a VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Debian's QEMU.
    Qemu,
    /// benches/small-vmm.
    SmallVmm,
}

impl Program {
    /// The name of the executable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-system-x86_64",
            Self::SmallVmm => "small-vmm",
        }
    }
}

/// The directory of the files inside the machine.
pub const INSIDE: &str = "/vmm";
/// The guest's kernel, which is the machine's own.
pub const KERNEL: &str = "/vmm/kernel";
/// The guest's initial RAM disk.
pub const INITRD: &str = "/vmm/initrd";

/// The first process of the guest, and what it prints.
pub const GUEST_INIT: &str = "/guest-init";
/// The line that the first process of the guest prints.
pub const USER_SPACE: &str = "guest-init: in user space";

/// The guest's command line. A reset ends the VMM. The kernel does not use XSAVE, because
/// it finds the sizes of its state inconsistent on the emulated processor. It does not
/// calibrate the timer of its local APIC either, which takes the emulator half a minute.
const CMDLINE: &str =
    "console=ttyS0 noxsave nokaslr panic=-1 reboot=t oops=panic nolapic_timer rdinit=/guest-init";

/// A piece of work.
#[derive(Debug)]
pub struct Work {
    /// The name.
    pub name: &'static str,
    /// What the VMM does.
    pub text: &'static str,
    /// The same as the subject of a sentence.
    pub gist: &'static str,
    /// The VMM.
    pub program: Program,
    /// Its arguments.
    pub args: &'static [&'static str],
    /// A text in its output that shows that the work was done.
    pub shows: &'static str,
    /// About how many seconds one run takes under emulation, to tell the time that is left.
    pub seconds: u32,
}

/// QEMU that boots Linux.
macro_rules! qemu {
    ($($machine:literal),*) => {
        &[
            "-accel", "kvm", "-machine", concat!("pc", $(",", $machine),*), "-m", "128M",
            "-L", INSIDE, "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
            "-serial", "stdio", "-no-reboot", "-kernel", KERNEL, "-initrd", INITRD,
            "-append", CMDLINE,
        ]
    };
}

/// All work.
pub static WORK: [Work; 5] = [
    Work {
        name: "qemu_boot",
        text: "QEMU boots Linux to user space, with the interrupt controllers in the kernel",
        gist: "QEMU that boots Linux",
        program: Program::Qemu,
        args: qemu!["kernel-irqchip=on"],
        shows: USER_SPACE,
        seconds: 10,
    },
    Work {
        name: "qemu_user_irqchip",
        text: "the same, with the interrupt controllers in QEMU",
        gist: "QEMU that boots Linux with its own interrupt controllers",
        program: Program::Qemu,
        args: qemu!["kernel-irqchip=off"],
        shows: USER_SPACE,
        seconds: 14,
    },
    Work {
        name: "small_vmm_boot",
        text: "a small VMM of rust-vmm's crates boots Linux to user space",
        gist: "A small VMM that boots Linux",
        program: Program::SmallVmm,
        args: &["boot", KERNEL, INITRD, CMDLINE],
        shows: USER_SPACE,
        seconds: 8,
    },
    Work {
        name: "exits",
        text: "the small VMM runs loops that leave the guest, 2,000 rounds each",
        gist: "A guest that does nothing but exit",
        program: Program::SmallVmm,
        args: &["exits", "2000"],
        shows: "mmio_write 2000 ",
        seconds: 1,
    },
    Work {
        name: "memory",
        text: "the small VMM reads a dirty log of 64 pages and replaces a memory slot, 300 rounds",
        gist: "A VMM that does nothing but read dirty logs and replace memory slots",
        program: Program::SmallVmm,
        args: &["memory", "300"],
        shows: "300 rounds",
        seconds: 2,
    },
];

/// Finds the work of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Work> {
    WORK.iter().find(|work| work.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_once() {
        for work in &WORK {
            assert!(
                std::ptr::eq(find(work.name).unwrap(), work),
                "{}",
                work.name
            );
        }
        assert!(find("none").is_none());
    }

    #[test]
    fn the_command_line_names_the_first_process() {
        assert!(CMDLINE.ends_with(&format!("rdinit={GUEST_INIT}")));
    }
}
