//! The kernel's configuration: the least that there is, and two fragments.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::digest;
use super::error::{BuildError, Result};
use crate::host::{files, paths};
use crate::kbuild::make::Make;
use crate::kbuild::variant::Variant;

/// The fragments, in the order in which they are merged.
const FRAGMENTS: [&str; 2] = ["exit-path.config", "machine.config"];

/// What the series adds, which a stock kernel does not know.
pub(crate) const SYSCALLS: &str = "CONFIG_KVM_SYSCALLS=y\n";

/// What a kernel that checks itself has on top.
const DEBUG: &str = "debug.config";

/// What a kernel that reports data races has on top.
const KCSAN: &str = "kcsan.config";

/// What makes KVM a part of the kernel.
const BUILT_IN: &str = "CONFIG_KVM=y\nCONFIG_KVM_INTEL=y\nCONFIG_KVM_AMD=y\n";

/// An object that counts how often its lines are reached.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Its file, below the build directory.
    pub(crate) path: &'static str,
    /// What the make that compiles it calls it, from that one's own directory.
    pub(crate) target: &'static str,
}

/// In a kernel that checks itself: all that the series makes or adds code to, but
/// for what is [`UNCOUNTED`].
const COUNTED: [Counted; 13] = [
    Counted {
        path: "arch/x86/kvm/cpuid.o",
        target: "cpuid.o",
    },
    Counted {
        path: "arch/x86/kvm/lapic.o",
        target: "lapic.o",
    },
    Counted {
        path: "arch/x86/kvm/state.o",
        target: "state.o",
    },
    Counted {
        path: "arch/x86/kvm/state_msrs.o",
        target: "state_msrs.o",
    },
    Counted {
        path: "arch/x86/kvm/svm/svm.o",
        target: "svm/svm.o",
    },
    Counted {
        path: "arch/x86/kvm/x86.o",
        target: "x86.o",
    },
    Counted {
        path: "virt/kvm/bound.o",
        target: "../../../virt/kvm/bound.o",
    },
    Counted {
        path: "virt/kvm/kernel_memory.o",
        target: "../../../virt/kvm/kernel_memory.o",
    },
    Counted {
        path: "virt/kvm/kvm_main.o",
        target: "../../../virt/kvm/kvm_main.o",
    },
    Counted {
        path: "virt/kvm/ranges.o",
        target: "../../../virt/kvm/ranges.o",
    },
    Counted {
        path: "virt/kvm/syscall_ops.o",
        target: "../../../virt/kvm/syscall_ops.o",
    },
    Counted {
        path: "virt/kvm/syscalls.o",
        target: "kvm/syscalls.o",
    },
    Counted {
        path: "virt/kvm/vcpu_files.o",
        target: "../../../virt/kvm/vcpu_files.o",
    },
];

/// Not counted. The boot code has a `regs.o` too, which make cannot tell from it,
/// and which cannot count. The other three do not run on an emulated SVM processor.
#[cfg(test)]
const UNCOUNTED: [&str; 4] = [
    "arch/x86/kvm/regs.o",
    "arch/x86/kvm/svm/sev.o",
    "arch/x86/kvm/vmx/main.o",
    "arch/x86/kvm/vmx/vmx.o",
];

/// The path of a fragment.
fn fragment(name: &str) -> Result<PathBuf> {
    Ok(paths::workspace_dir()?
        .join("kernel-patch/config")
        .join(name))
}

/// What a variant asks for.
pub(crate) struct Config {
    text: String,
    /// What is asked for where it is known.
    hoped: &'static str,
    counted: &'static [Counted],
}

impl Config {
    pub(crate) fn read(variant: Variant) -> Result<Self> {
        let mut fragments = FRAGMENTS.to_vec();
        fragments.extend(match variant {
            Variant::Debug => Some(DEBUG),
            Variant::Kcsan => Some(KCSAN),
            Variant::Module | Variant::BuiltIn | Variant::Stock => None,
        });
        let syscalls = match variant {
            Variant::Stock => "",
            _ => SYSCALLS,
        };
        let built_in = match variant {
            Variant::BuiltIn => BUILT_IN,
            _ => "",
        };
        let counted: &[_] = match variant {
            Variant::Debug => &COUNTED,
            _ => &[],
        };
        Ok(Self {
            counted,
            ..Self::of(&fragments, &format!("{syscalls}{built_in}"))?
        })
    }

    /// Asks for what the fragments of these names ask for, and for `more`.
    pub(crate) fn of(fragments: &[&str], more: &str) -> Result<Self> {
        let mut text = String::new();
        for name in fragments {
            let path = fragment(name)?;
            text += &fs::read_to_string(&path).map_err(BuildError::io("read", &path))?;
        }
        text += more;
        Ok(Self {
            text,
            hoped: "",
            counted: &[],
        })
    }

    /// What a tree is to have that may have the series, or a part of it, or not.
    pub(crate) fn of_checkout() -> Result<Self> {
        Ok(Self {
            hoped: SYSCALLS,
            ..Self::read(Variant::Stock)?
        })
    }

    fn asked(&self) -> String {
        format!("{}{}", self.text, self.hoped)
    }

    /// The objects that count how often their lines are reached.
    pub(crate) fn counted(&self) -> &'static [Counted] {
        self.counted
    }

    /// Names what is asked for.
    pub(crate) fn id(&self) -> String {
        let asked = self.asked();
        let options = options(&asked).into_iter();
        let options = options.map(|(option, value)| format!("{option}={value}\n"));
        let counted = self.counted.iter().map(|it| format!("{}\n", it.target));
        digest::short(options.chain(counted))
    }

    /// Makes the configuration in the build directory, and holds it to what
    /// is asked for: an option whose dependencies fail is dropped silently.
    pub(crate) fn make(&self, make: &Make<'_>) -> Result<()> {
        let path = make.build.join(".config");
        let read = || fs::read_to_string(&path).map_err(BuildError::io("read", &path));
        make.run("tinyconfig")?;
        files::write(&path, merged(&read()?, &self.asked()).as_bytes())?;
        make.run("olddefconfig")?;
        let result = read()?;
        match lost(&self.text, &result) {
            lost if lost.is_empty() => Ok(()),
            lost => Err(BuildError::ConfigLost(lost)),
        }
    }
}

/// The first with the options of the second in place of its own, at the end:
/// of a choice, the last one named is taken.
fn merged(base: &str, more: &str) -> String {
    let (base, more) = (options(base), options(more));
    base.iter()
        .filter(|(option, _)| !more.contains_key(*option))
        .chain(&more)
        .map(|(option, value)| format!("{option}={value}\n"))
        .collect()
}

/// What each option is set to in the end; `n` when it is said not to be set.
fn options(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<(&str, &str)> {
    match line
        .strip_prefix("# ")
        .and_then(|it| it.strip_suffix(" is not set"))
    {
        Some(option) => Some((option, "n")),
        None => line.starts_with("CONFIG_").then(|| line.split_once('='))?,
    }
}

/// What was asked for and is otherwise.
fn lost(asked: &str, result: &str) -> Vec<String> {
    let result = options(result);
    let is = |option: &str| *result.get(option).unwrap_or(&"n");
    options(asked)
        .into_iter()
        .filter(|(option, value)| is(option) != *value)
        .map(|(option, value)| format!("    {option}={value} (it is {})", is(option)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::host::{needs, packages};
    use crate::kbuild::series::{self, Series};

    #[test]
    fn later_lines_win() {
        let text = "# prose\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_A is not set\nCONFIG_C=\"a=b\"\n";
        let expected = [
            ("CONFIG_A", "n"),
            ("CONFIG_B", "m"),
            ("CONFIG_C", "\"a=b\""),
        ];
        assert_eq!(options(text), expected.into());
    }

    #[test]
    fn what_is_merged_comes_last() {
        let base = "CONFIG_B=y\n# CONFIG_Z is not set\nCONFIG_C=y\n";
        let more = "CONFIG_A=y\nCONFIG_B=m\n";
        let expected = "CONFIG_C=y\nCONFIG_Z=n\nCONFIG_A=y\nCONFIG_B=m\n";
        assert_eq!(merged(base, more), expected);
    }

    #[test]
    fn lost_options_are_named() {
        let asked =
            "CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D=y\n# CONFIG_E is not set\n";
        let result = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\n# CONFIG_D is not set\n";
        assert_eq!(
            lost(asked, result),
            [
                "    CONFIG_B=m (it is y)",
                "    CONFIG_C=n (it is y)",
                "    CONFIG_D=y (it is n)"
            ]
        );
    }

    /// Figures are worth something only if the path that they are about is a
    /// distribution's.
    #[test]
    fn the_exit_path_is_debians() {
        packages::ensure(needs::CONFIG).unwrap();
        let xz = Command::new("xz")
            .args(["-dc", needs::LINUX_CONFIG.name()])
            .output()
            .unwrap();
        assert!(xz.status.success());
        let debian = String::from_utf8(xz.stdout).unwrap();
        let ours = fs::read_to_string(fragment("exit-path.config").unwrap()).unwrap();
        assert_eq!(lost(&ours, &debian), [""; 0]);
    }

    /// What is new is found out about, all of it.
    #[test]
    fn what_the_series_changes_is_counted() {
        let series = Series::read(&series::directory().unwrap()).unwrap();
        let code = |file: &String| {
            file.ends_with(".c") && (file.starts_with("virt/") || file.starts_with("arch/"))
        };
        let changed = series.files().into_iter().filter(code);
        let objects = changed
            .map(|file| file.replace(".c", ".o"))
            .filter(|object| !UNCOUNTED.contains(&object.as_str()));
        let counted = COUNTED.map(|object| object.path);
        assert_eq!(objects.collect::<Vec<_>>(), counted);
    }

    #[test]
    fn the_variants_differ() {
        let ids = Variant::NAMES.map(|(_, it)| Config::read(it).unwrap().id());
        for (n, id) in ids.iter().enumerate() {
            assert!(!ids[..n].contains(id));
        }
    }
}
