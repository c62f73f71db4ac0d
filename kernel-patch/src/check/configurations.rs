//! The kernels that each patch is built as.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::host::error::{Error, Result};
use crate::host::process;
use crate::kbuild::config::{self, Config};

/// What all of them have.
const COMMON: &str = "check.config";

/// What those for x86 have.
const X86: &str = "check-x86.config";

const X86_64: &str = "CONFIG_64BIT=y\nCONFIG_IA32_EMULATION=y\n";
/// Not by the objcopy of LLVM 14, which is Debian's.
const X32: &str = "CONFIG_X86_X32_ABI=y\n";
const OFF: &str = "# CONFIG_KVM is not set\n";
const BUILT_IN: &str = "CONFIG_KVM=y\nCONFIG_KVM_INTEL=y\nCONFIG_KVM_AMD=y\nCONFIG_KVM_SMM=y\n";
const MODULE: &str = "CONFIG_KVM=m\nCONFIG_KVM_INTEL=m\nCONFIG_KVM_AMD=m\nCONFIG_KVM_SMM=y\n";
const HYPERCALLS: &str = "CONFIG_KVM_HYPERV=y\nCONFIG_KVM_XEN=y\n";

/// What a kernel is compiled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Compiler {
    Gcc,
    /// Once, after the last patch, to see that the whole can be: what it warns of
    /// is not looked at.
    Clang,
}

/// One way to build the kernel.
#[derive(Debug)]
pub(super) struct Configuration {
    /// The column of the table.
    pub(super) name: &'static str,
    /// The architecture, as the kernel's make calls it.
    pub(super) arch: &'static str,
    pub(super) compiler: Compiler,
    /// Whether it has the calls, once the series has them.
    calls: bool,
    /// Whether a sample has it.
    pub(super) in_sample: bool,
    more: &'static [&'static str],
}

/// All of them. Where KVM is and the calls are not, its generic code is built as
/// on the architectures that have no numbers for them.
pub(super) const ALL: [Configuration; 8] = [
    Configuration {
        name: "module",
        arch: "x86_64",
        compiler: Compiler::Gcc,
        calls: true,
        in_sample: true,
        more: &[X86_64, X32, MODULE, HYPERCALLS],
    },
    Configuration {
        name: "builtin",
        arch: "x86_64",
        compiler: Compiler::Gcc,
        calls: true,
        in_sample: true,
        more: &[X86_64, X32, BUILT_IN, HYPERCALLS],
    },
    Configuration {
        name: "off",
        arch: "x86_64",
        compiler: Compiler::Gcc,
        calls: false,
        in_sample: true,
        more: &[X86_64, X32, OFF],
    },
    Configuration {
        name: "clang",
        arch: "x86_64",
        compiler: Compiler::Clang,
        calls: true,
        in_sample: true,
        more: &[X86_64, MODULE, HYPERCALLS],
    },
    Configuration {
        name: "no calls",
        arch: "x86_64",
        compiler: Compiler::Gcc,
        calls: false,
        in_sample: false,
        more: &[X86_64, X32, MODULE],
    },
    Configuration {
        name: "i386",
        arch: "i386",
        compiler: Compiler::Gcc,
        calls: false,
        in_sample: false,
        more: &[MODULE],
    },
    Configuration {
        name: "arm64",
        arch: "arm64",
        compiler: Compiler::Gcc,
        calls: false,
        in_sample: true,
        more: &["CONFIG_KVM=y\n"],
    },
    Configuration {
        name: "arm64 off",
        arch: "arm64",
        compiler: Compiler::Gcc,
        calls: false,
        in_sample: false,
        more: &[OFF],
    },
];

impl Configuration {
    /// Whether each patch is built as this one, in a sample or without.
    pub(super) fn is_by_patch(&self, sample: bool) -> bool {
        match self.compiler {
            Compiler::Gcc => !sample || self.name == ALL[0].name,
            Compiler::Clang => false,
        }
    }

    /// Its name as a part of a file's.
    pub(super) fn slug(&self) -> String {
        self.name.replace(' ', "-")
    }

    /// What is asked for of the kernel's configuration, with the calls if there
    /// are any.
    pub(super) fn config(&self, calls: bool) -> Result<Config> {
        let mut fragments = vec![COMMON];
        fragments.extend((self.arch != "arm64").then_some(X86));
        let mut more = self.more.concat();
        if self.calls && calls {
            more += config::SYSCALLS;
        }
        Config::of(&fragments, &more)
    }

    /// What its compiler's name begins with.
    fn cross(&self) -> &'static str {
        match self.arch {
            "arm64" => "aarch64-linux-gnu-",
            _ => "",
        }
    }

    /// What make is told of the compiler.
    pub(super) fn toolchain(&self) -> String {
        match self.compiler {
            Compiler::Gcc => format!("CROSS_COMPILE={}", self.cross()),
            Compiler::Clang => "LLVM=1".into(),
        }
    }

    /// Which compiler and which sparse there are: others remark other things.
    pub(super) fn tools(&self, log: &Path) -> Result<String> {
        let compiler = match self.compiler {
            Compiler::Gcc => format!("{}gcc", self.cross()),
            Compiler::Clang => "clang".into(),
        };
        let mut versions = String::new();
        for tool in [&compiler, "sparse"] {
            let _ = fs::remove_file(log);
            let mut command = Command::new(tool);
            process::clean(&mut command).arg("--version");
            process::run(command, tool, log)?;
            versions += &fs::read_to_string(log).map_err(Error::io("read", log))?;
        }
        Ok(versions)
    }

    /// What a sample builds: where the files lie that the series changes.
    pub(super) fn sampled_targets(&self) -> &'static str {
        match self.arch {
            "arm64" => "prepare virt/ arch/arm64/kvm/ kernel/sys_ni.o",
            _ => "prepare virt/ arch/x86/kvm/ arch/x86/entry/ kernel/sys_ni.o",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn they_differ() {
        let ids: BTreeSet<_> = ALL
            .iter()
            .map(|it| (it.arch, it.compiler, it.config(true).unwrap().id()))
            .collect();
        assert_eq!(ids.len(), ALL.len());
    }

    #[test]
    fn the_calls_are_in_those_that_have_them() {
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
}
