//! The configurations in which each patch is built.

use std::fs;
use std::path::Path;

use super::error::Result;
use crate::host::{files, needs, process};
use crate::kbuild::config::{self, Config};

/// The fragment of all configurations.
const COMMON: &str = "check.config";

/// The fragment of the configuration that has all code of KVM for x86.
const ALL_CODE: &str = "check-all-code.config";

const X86_64: &str = "CONFIG_64BIT=y\nCONFIG_IA32_EMULATION=y\n";
/// Not with clang: the kernel does not offer x32 with the objcopy of LLVM.
const X32: &str = "CONFIG_X86_X32_ABI=y\n";
const OFF: &str = "# CONFIG_KVM is not set\n";
const BUILT_IN: &str = "CONFIG_KVM=y\nCONFIG_KVM_INTEL=y\nCONFIG_KVM_AMD=y\nCONFIG_KVM_SMM=y\n";
const MODULE: &str = "CONFIG_KVM=m\nCONFIG_KVM_INTEL=m\nCONFIG_KVM_AMD=m\nCONFIG_KVM_SMM=y\n";
const HYPERCALLS: &str = "CONFIG_KVM_HYPERV=y\nCONFIG_KVM_XEN=y\n";

/// Linux 6.12 has no such guests.
const TDX: &str = "CONFIG_KVM_INTEL_TDX=y\n";

/// The compiler of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Compiler {
    Gcc,
    /// Used once, after the last patch, to see that the whole series compiles. Its
    /// warnings are ignored.
    Clang,
}

/// A way to configure the kernel.
#[derive(Debug)]
pub(super) struct Configuration {
    /// The column of the table.
    pub(super) name: &'static str,
    /// The architecture, as the kernel's make calls it.
    pub(super) arch: &'static str,
    pub(super) compiler: Compiler,
    /// Whether it enables the calls, from the patch on that adds them.
    calls: bool,
    /// Whether a sample builds it.
    pub(super) in_sample: bool,
    /// Whether sparse sees code here that it sees in no other configuration.
    ///
    /// The series adds code under a few conditions, which a test lists. `module` has
    /// KVM on x86-64 with the calls, Hyper-V, Xen, SMM, SEV and TDX, and with them guest_memfd
    /// and memory attributes; `i386` has KVM on x86 without the calls, without 64 bits,
    /// without guest_memfd, and with the stubs of Hyper-V and Xen; `arm64` has KVM elsewhere.
    /// The other configurations combine these branches in other ways, and for them the
    /// compiler's warnings are enough.
    pub(super) runs_sparse: bool,
    /// Whether all code of KVM for x86 that the series changes is compiled.
    pub(super) has_all_code: bool,
    more: &'static [&'static str],
    /// Options that are set if the source has them.
    optional: &'static str,
}

/// The fields that most configurations have.
const X86: Configuration = Configuration {
    name: "",
    arch: "x86_64",
    compiler: Compiler::Gcc,
    calls: false,
    in_sample: true,
    runs_sparse: false,
    has_all_code: false,
    more: &[],
    optional: "",
};

/// All configurations. KVM without the calls is built as on an architecture that has no
/// numbers for them.
pub(super) const ALL: [Configuration; 8] = [
    Configuration {
        name: "module",
        calls: true,
        runs_sparse: true,
        has_all_code: true,
        more: &[X86_64, X32, MODULE, HYPERCALLS],
        optional: TDX,
        ..X86
    },
    Configuration {
        name: "builtin",
        calls: true,
        more: &[X86_64, X32, BUILT_IN, HYPERCALLS],
        ..X86
    },
    Configuration {
        name: "off",
        more: &[X86_64, X32, OFF],
        ..X86
    },
    Configuration {
        name: "clang",
        compiler: Compiler::Clang,
        calls: true,
        more: &[X86_64, MODULE, HYPERCALLS],
        ..X86
    },
    Configuration {
        name: "no calls",
        in_sample: false,
        more: &[X86_64, X32, MODULE],
        ..X86
    },
    Configuration {
        name: "i386",
        arch: "i386",
        in_sample: false,
        runs_sparse: true,
        more: &[MODULE],
        ..X86
    },
    Configuration {
        name: "arm64",
        arch: "arm64",
        runs_sparse: true,
        more: &["CONFIG_KVM=y\n"],
        ..X86
    },
    Configuration {
        name: "arm64 off",
        arch: "arm64",
        in_sample: false,
        more: &[OFF],
        ..X86
    },
];

impl Configuration {
    /// Whether each patch is built in this configuration, in a sample or not.
    pub(super) fn is_by_patch(&self, sample: bool) -> bool {
        match self.compiler {
            Compiler::Gcc => !sample || self.name == ALL[0].name,
            Compiler::Clang => false,
        }
    }

    /// Its name as a part of a file name.
    pub(super) fn slug(&self) -> String {
        self.name.replace(' ', "-")
    }

    /// The kernel configuration, with the calls if there are any.
    pub(super) fn config(&self, calls: bool) -> Result<Config> {
        let mut fragments = vec![COMMON];
        fragments.extend(self.has_all_code.then_some(ALL_CODE));
        let mut more = self.more.concat();
        if self.calls && calls {
            more += config::SYSCALLS;
        }
        Ok(Config::of(&fragments, &more)?.optional(self.optional))
    }

    /// The prefix of its compiler's name.
    fn cross(&self) -> &'static str {
        match self.arch {
            "arm64" => "aarch64-linux-gnu-",
            _ => "",
        }
    }

    /// The argument of make that chooses the compiler.
    pub(super) fn toolchain(&self) -> String {
        match self.compiler {
            Compiler::Gcc => format!("CROSS_COMPILE={}", self.cross()),
            Compiler::Clang => "LLVM=-19".into(),
        }
    }

    /// The versions of the compiler and of sparse, because others have other warnings.
    pub(super) fn tools(&self, log: &Path) -> Result<String> {
        let compiler = match self.compiler {
            Compiler::Gcc => format!("{}gcc", self.cross()),
            Compiler::Clang => needs::CLANG.name.into(),
        };
        let mut versions = String::new();
        for tool in [&compiler, "sparse"] {
            let _ = fs::remove_file(log);
            process::run(process::tool(tool).arg("--version"), tool, log)?;
            versions += &files::text(log)?;
        }
        Ok(versions)
    }

    /// The targets: a whole kernel, or in a sample the directories of the files that the
    /// series changes.
    pub(super) fn targets(&self, sample: bool) -> &'static str {
        match self.arch {
            _ if !sample => "vmlinux modules",
            "arm64" => {
                "prepare virt/ arch/arm64/kvm/ fs/proc/ kernel/exit.o kernel/fork.o kernel/sys_ni.o"
            }
            _ => {
                "prepare virt/ arch/x86/kvm/ arch/x86/entry/ fs/proc/ kernel/exit.o kernel/fork.o kernel/sys_ni.o"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kbuild::base::Base;

    #[test]
    fn configurations_differ() {
        let ids: BTreeSet<_> = ALL
            .iter()
            .map(|it| (it.arch, it.compiler, it.config(true).unwrap().id()))
            .collect();
        assert_eq!(ids.len(), ALL.len());
    }

    #[test]
    fn some_configurations_enable_the_calls() {
        for it in &ALL {
            let differs = it.config(true).unwrap().id() != it.config(false).unwrap().id();
            assert_eq!(
                differs,
                ["module", "builtin", "clang"].contains(&it.name),
                "{}",
                it.name
            );
        }
    }

    /// `runs_sparse` gives the reasons for these conditions. A new one needs a
    /// configuration in which sparse sees it.
    #[test]
    fn sparse_sees_each_branch_of_the_series() {
        let known = BTreeSet::from([
            "HAVE_KVM_ARCH_GMEM_INVALIDATE",
            "KVM_GENERIC_MEMORY_ATTRIBUTES",
            "KVM_GUEST_MEMFD",
            "KVM_MMIO",
            "KVM_PRIVATE_MEM",
            "KVM_SMM",
            "KVM_SYSCALLS",
            "PROC_FS",
            "PROVE_LOCKING",
            "X86",
            "X86_64",
        ]);
        let mut found = BTreeSet::new();
        let series = Base::ALL.map(|it| files::list(&it.patches().unwrap()).unwrap());
        for path in series.concat() {
            let text = fs::read_to_string(path).unwrap();
            let added = text.lines().filter_map(|line| line.strip_prefix('+'));
            let conditions = added.filter(|line| {
                let line = line.trim_start();
                ["#if", "#elif"].iter().any(|it| line.starts_with(it))
                    || line.contains("IS_ENABLED(")
            });
            for condition in conditions {
                for option in condition.split("CONFIG_").skip(1) {
                    let end = option.find(|it: char| !it.is_ascii_alphanumeric() && it != '_');
                    found.insert(option[..end.unwrap_or(option.len())].to_owned());
                }
            }
        }
        let found: BTreeSet<_> = found.iter().map(String::as_str).collect();
        assert_eq!(found, known);
    }
}
