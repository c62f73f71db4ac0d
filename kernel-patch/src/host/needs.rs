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
    /// The name of a program, or the absolute path of a file.
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

pub(super) const fn need(name: &'static str, package: &'static str) -> Need {
    Need { name, package }
}

/// The file of a plugin of Bochs.
macro_rules! bochs_plugin {
    ($name:literal) => {
        need(
            concat!(
                "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_",
                $name,
                ".so"
            ),
            "bochs",
        )
    };
}

pub(crate) const QEMU: Need = need("qemu-system-x86_64", "qemu-system-x86");
pub(crate) const OBJCOPY: Need = need("objcopy", "binutils");

/// The emulator. Debian's `bochs` is a script around it.
pub(crate) const BOCHS_PROGRAM: Need = need("bochs-bin", "bochs");
pub(crate) const GENISOIMAGE: Need = need("genisoimage", "genisoimage");
pub(crate) const BOCHS_TERMINAL: Need = need(
    "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so",
    "bochs-term",
);
pub(crate) const BOCHS_BIOS: Need = need("/usr/share/bochs/BIOS-bochs-latest", "bochsbios");
/// The firmware of the display adapter. Debian's `bochs` has a symbolic link of this
/// name, and does not depend on the package that the link points into.
pub(crate) const BOCHS_VGA_BIOS: Need = need("/usr/share/bochs/VGABIOS-lgpl-latest", "vgabios");
/// The boot loader of a disc that boots Linux.
pub(crate) const ISOLINUX: Need = need("/usr/lib/ISOLINUX/isolinux.bin", "isolinux");
/// The second part of the boot loader.
pub(crate) const LDLINUX: Need = need(
    "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    "syslinux-common",
);

/// The tarball of the source of Linux 6.12.
pub(crate) const LINUX_SOURCE: Need =
    need("/usr/src/linux-source-6.12.tar.xz", "linux-source-6.12");
/// The configuration of Debian's amd64 kernel of Linux 6.12.
pub(crate) const LINUX_CONFIG: Need = need(
    "/usr/src/linux-config-6.12/config.amd64_none_amd64.xz",
    "linux-config-6.12",
);
/// The browser of a test that opens a report.
pub(crate) const CHROMIUM: Need = need("/usr/bin/chromium", "chromium");

/// The needs of booting a machine in QEMU.
pub(crate) const RUN: &[Need] = &[QEMU, OBJCOPY];

/// The needs of booting a machine in Bochs.
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

/// The needs of building a kernel.
pub(crate) const BUILD: &[Need] = &[
    QEMU,
    need("gcc", "gcc"),
    need("gcov", "gcc"),
    OBJCOPY,
    need("make", "make"),
    need("patch", "patch"),
    need("flex", "flex"),
    need("bison", "bison"),
    need("bc", "bc"),
    need("perl", "perl"),
    need("tar", "tar"),
    need("xz", "xz-utils"),
    need("/usr/include/stdlib.h", "libc6-dev"),
    need("/usr/include/gelf.h", "libelf-dev"),
    // For KVM's selftests: those of Linux 7.3 link the library of VFIO's.
    need("/usr/include/uuid/uuid.h", "uuid-dev"),
];

/// The needs of turning the series into commits.
pub(crate) const GIT: &[Need] = &[need("git", "git")];

/// The newest clang of Debian 12. Linux 7.3 does not build with the default one, clang 14.
pub(crate) const CLANG: Need = need("clang-19", "clang-19");

/// The cache for the compilers of the check.
pub(crate) const CCACHE: Need = need("/usr/lib/ccache/gcc", "ccache");

const LLVM_PACKAGE: &str = "llvm-19";

/// The needs of estimating cycles.
pub(crate) const LLVM: &[Need] = &[need("llvm-mca-19", LLVM_PACKAGE)];

/// The needs of checking the series, besides [`BUILD`]. The kernel's scripts run
/// Debian's Python, hence the modules.
pub(crate) const CHECK: &[Need] = &[
    need("sparse", "sparse"),
    need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    CLANG,
    CCACHE,
    need("ld.lld-19", "lld-19"),
    need("llvm-ar-19", LLVM_PACKAGE),
    need("/usr/bin/sphinx-build", "python3-sphinx"),
    need("/usr/lib/python3/dist-packages/ply/lex.py", "python3-ply"),
    need(
        "/usr/lib/python3/dist-packages/git/__init__.py",
        "python3-git",
    ),
    // The documentation's build renders the netlink families from YAML.
    need(
        "/usr/lib/python3/dist-packages/yaml/__init__.py",
        "python3-yaml",
    ),
];

/// The needs of checking the manual pages. Debian's `man` brings groff and its macros.
pub(crate) const MAN: &[Need] = &[need("man", "man-db"), need("mandoc", "mandoc")];

/// The needs of the test that compares our configuration with Debian's, besides the
/// packages that it downloads.
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) const CONFIG: &[Need] = &[need("xz", "xz-utils"), LINUX_CONFIG];

/// The needs of making a root file system.
pub(crate) const FRESH: &[Need] = &[need("mmdebstrap", "mmdebstrap")];

/// The needs of all commands in the README.
pub(crate) const COMMANDS: [&[Need]; 8] = [RUN, BOCHS, BUILD, LLVM, GIT, MAN, CONFIG, &[CHROMIUM]];

/// The needs of the other commands: the check of the series, and those with `--base 6.12`.
pub(crate) const OTHERS: [&[Need]; 2] = [CHECK, &[LINUX_SOURCE]];

impl Need {
    /// The file, unless the need is a program.
    #[cfg(test)]
    pub(crate) fn file(self) -> Option<&'static Path> {
        self.name.starts_with('/').then(|| Path::new(self.name))
    }

    /// Whether the directories of `path` contain the program, or `root` the file.
    pub(crate) fn is_met(self, path: &OsStr, root: &Path) -> bool {
        match self.name.strip_prefix('/') {
            Some(file) => root.join(file).is_file(),
            None => env::split_paths(path).any(|dir| dir.join(self.name).is_file()),
        }
    }
}
