//! The programs and files that the commands need, each with Debian's package.
//!
//! A need is a program or a file that some command opens, not a package: a package
//! can be installed while its symbolic link points nowhere.

use std::env;
use std::ffi::OsStr;
use std::path::Path;

/// A program or a file, and the Debian package that contains it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    kind: Kind,
    name: &'static str,
    package: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Program,
    File,
}

pub(super) const fn program(name: &'static str, package: &'static str) -> Need {
    let kind = Kind::Program;
    Need {
        kind,
        name,
        package,
    }
}

const fn file(name: &'static str, package: &'static str) -> Need {
    let kind = Kind::File;
    Need {
        kind,
        name,
        package,
    }
}

/// The file of a plugin of Bochs.
macro_rules! bochs_plugin {
    ($name:literal) => {
        file(
            concat!(
                "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_",
                $name,
                ".so"
            ),
            "bochs",
        )
    };
}

pub(crate) const QEMU: Need = program("qemu-system-x86_64", "qemu-system-x86");
pub(crate) const OBJCOPY: Need = program("objcopy", "binutils");

/// The emulator. Debian's `bochs` is a script around it.
pub(crate) const BOCHS_PROGRAM: Need = program("bochs-bin", "bochs");
pub(crate) const GENISOIMAGE: Need = program("genisoimage", "genisoimage");
pub(crate) const BOCHS_TERMINAL: Need = file(
    "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so",
    "bochs-term",
);
pub(crate) const BOCHS_BIOS: Need = file("/usr/share/bochs/BIOS-bochs-latest", "bochsbios");
/// The firmware of the display adapter. Debian's `bochs` has a symbolic link of this
/// name, and does not depend on the package that the link points into.
pub(crate) const BOCHS_VGA_BIOS: Need = file("/usr/share/bochs/VGABIOS-lgpl-latest", "vgabios");
/// The boot loader of a disc that boots Linux.
pub(crate) const ISOLINUX: Need = file("/usr/lib/ISOLINUX/isolinux.bin", "isolinux");
/// The second part of the boot loader.
pub(crate) const LDLINUX: Need = file(
    "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    "syslinux-common",
);

/// The tarball of the kernel source.
pub(crate) const LINUX_SOURCE: Need =
    file("/usr/src/linux-source-6.12.tar.xz", "linux-source-6.12");
/// The configuration of Debian's amd64 kernel.
pub(crate) const LINUX_CONFIG: Need = file(
    "/usr/src/linux-config-6.12/config.amd64_none_amd64.xz",
    "linux-config-6.12",
);
pub(crate) const CHROMIUM: Need = file("/usr/bin/chromium", "chromium");

/// What booting a machine in QEMU needs.
pub(crate) const RUN: &[Need] = &[QEMU, OBJCOPY];

/// What booting a machine in Bochs needs.
pub(crate) const BOCHS: &[Need] = &[
    BOCHS_PROGRAM,
    OBJCOPY,
    GENISOIMAGE,
    bochs_plugin!("unmapped"),
    bochs_plugin!("biosdev"),
    bochs_plugin!("extfpuirq"),
    bochs_plugin!("serial"),
    BOCHS_TERMINAL,
    BOCHS_BIOS,
    BOCHS_VGA_BIOS,
    ISOLINUX,
    LDLINUX,
];

/// What building a kernel needs.
pub(crate) const BUILD: &[Need] = &[
    QEMU,
    program("gcc", "gcc"),
    program("gcov", "gcc"),
    OBJCOPY,
    program("make", "make"),
    program("patch", "patch"),
    program("flex", "flex"),
    program("bison", "bison"),
    program("bc", "bc"),
    program("perl", "perl"),
    program("tar", "tar"),
    program("xz", "xz-utils"),
    file("/usr/include/stdlib.h", "libc6-dev"),
    file("/usr/include/gelf.h", "libelf-dev"),
];

/// The kernel source, unless the user names another.
pub(crate) const SOURCE: &[Need] = &[LINUX_SOURCE];

/// What turning the series into commits needs.
pub(crate) const GIT: &[Need] = &[program("git", "git")];

/// What checking the series needs, besides [`BUILD`]. The kernel's scripts run
/// Debian's Python, hence the modules.
pub(crate) const CHECK: &[Need] = &[
    program("sparse", "sparse"),
    program("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    program("clang", "clang"),
    program("ld.lld", "lld"),
    program("llvm-ar", "llvm"),
    file("/usr/bin/sphinx-build", "python3-sphinx"),
    file("/usr/lib/python3/dist-packages/ply/lex.py", "python3-ply"),
    file(
        "/usr/lib/python3/dist-packages/git/__init__.py",
        "python3-git",
    ),
    // The documentation's build renders the netlink families from YAML.
    file(
        "/usr/lib/python3/dist-packages/yaml/__init__.py",
        "python3-yaml",
    ),
];

/// What checking the manual pages needs. Debian's `man` brings groff and its macros.
pub(crate) const MAN: &[Need] = &[program("man", "man-db"), program("mandoc", "mandoc")];

/// What a test needs to compare our configuration with Debian's.
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) const CONFIG: &[Need] = &[program("xz", "xz-utils"), LINUX_CONFIG];

/// What a test needs to open a report in a browser.
pub(crate) const BROWSER: &[Need] = &[CHROMIUM];

/// What making a root file system needs.
pub(crate) const FRESH: &[Need] = &[program("mmdebstrap", "mmdebstrap")];

/// What the README's commands need, all of them together.
pub(crate) const COMMANDS: [&[Need]; 8] = [RUN, BOCHS, BUILD, SOURCE, GIT, MAN, CONFIG, BROWSER];

impl Need {
    /// The name of the program, or the path of the file.
    pub(crate) const fn name(self) -> &'static str {
        self.name
    }

    pub(crate) fn package(self) -> &'static str {
        self.package
    }

    /// The file, unless the need is a program.
    #[cfg(test)]
    pub(crate) fn file(self) -> Option<&'static Path> {
        match self.kind {
            Kind::File => Some(Path::new(self.name)),
            Kind::Program => None,
        }
    }

    /// Whether the directories of `path` contain the program, or `root` the file.
    pub(crate) fn is_met(self, path: &OsStr, root: &Path) -> bool {
        match self.kind {
            Kind::Program => env::split_paths(path).any(|dir| dir.join(self.name).is_file()),
            Kind::File => root.join(self.name.trim_start_matches('/')).is_file(),
        }
    }
}
