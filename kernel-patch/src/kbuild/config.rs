//! The kernel's configuration: tinyconfig and fragments.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::digest;
use super::error::{BuildError, Result};
use crate::host::{files, paths};
use crate::kbuild::base::Base;
use crate::kbuild::make::Make;
use crate::kbuild::series::Series;
use crate::kbuild::variant::Variant;

/// The fragments, in the order of merging.
const FRAGMENTS: [&str; 2] = ["exit-path.config", "machine.config"];

/// The option that the series adds.
pub(crate) const SYSCALLS: &str = "CONFIG_KVM_SYSCALLS=y\n";

/// The fragment of a kernel that checks itself.
const DEBUG: &str = "debug.config";

/// The fragment of a kernel that reports data races.
const KCSAN: &str = "kcsan.config";

/// The options that build KVM into the kernel.
const BUILT_IN: &str = "CONFIG_KVM=y\nCONFIG_KVM_INTEL=y\nCONFIG_KVM_AMD=y\n";

/// The variable of make that has a counted object count. It contains the object's name in
/// the Makefile that compiles it: that of arch/x86/kvm, or of virt for the entry points.
pub(crate) fn count_variable(object: &str) -> String {
    let name = match object.strip_prefix("arch/x86/kvm/") {
        Some(name) => name.into(),
        None if object == "virt/kvm/syscalls.o" => "kvm/syscalls.o".into(),
        None => format!("../../../{object}"),
    };
    format!("GCOV_PROFILE_{name}=y")
}

/// The objects with code of the series that do not count how often their lines are reached.
/// The boot code has a `regs.o` too, which cannot count, and make does not distinguish the
/// two. The others do not run on an emulated SVM processor.
const UNCOUNTED: [&str; 5] = [
    "arch/x86/kvm/regs.o",
    "arch/x86/kvm/svm/sev.o",
    "arch/x86/kvm/vmx/main.o",
    "arch/x86/kvm/vmx/tdx.o",
    "arch/x86/kvm/vmx/vmx.o",
];

/// The objects that count, in a kernel that checks itself: all that the series adds code to,
/// except [`UNCOUNTED`]. The paths are relative to the build directory.
fn counted(series: &Series) -> Vec<String> {
    let code = |file: &String| {
        file.ends_with(".c") && (file.starts_with("virt/") || file.starts_with("arch/"))
    };
    let changed = series.files().into_iter().filter(code);
    changed
        .map(|file| file.replace(".c", ".o"))
        .filter(|object| !UNCOUNTED.contains(&object.as_str()))
        .collect()
}

/// The path of a fragment.
fn fragment(name: &str) -> Result<PathBuf> {
    Ok(paths::workspace_dir()?
        .join("kernel-patch/config")
        .join(name))
}

/// The options that a variant needs.
pub(crate) struct Config {
    text: String,
    /// Options that are set if the source has them.
    optional: &'static str,
    /// The objects that count how often their lines are reached.
    pub(crate) counted: Vec<String>,
}

impl Config {
    pub(crate) fn read(base: Base, variant: Variant) -> Result<Self> {
        let mut fragments = FRAGMENTS.to_vec();
        let mut more = base.options("base.config")?;
        let mut objects = Vec::new();
        match variant {
            Variant::Debug => {
                fragments.push(DEBUG);
                more += &base.options(DEBUG)?;
                objects = counted(&Series::read(&base.patches()?)?);
            }
            Variant::Kcsan => fragments.push(KCSAN),
            Variant::BuiltIn => more += BUILT_IN,
            Variant::Module | Variant::Stock => {}
        }
        if variant != Variant::Stock {
            more += SYSCALLS;
        }
        let config = Self::of(&fragments, &more)?;
        Ok(Self {
            counted: objects,
            ..config
        })
    }

    /// Combines fragments and `more`.
    pub(crate) fn of(fragments: &[&str], more: &str) -> Result<Self> {
        let mut text = String::new();
        for name in fragments {
            text += &files::text(&fragment(name)?)?;
        }
        text += more;
        Ok(Self {
            text,
            optional: "",
            counted: Vec::new(),
        })
    }

    /// Sets `options` as well, if the source has them.
    pub(crate) fn optional(self, options: &'static str) -> Self {
        Self {
            optional: options,
            ..self
        }
    }

    /// The configuration of a tree that can have the series, a part of it, or nothing.
    pub(crate) fn of_checkout(base: Base) -> Result<Self> {
        Ok(Self::read(base, Variant::Stock)?.optional(SYSCALLS))
    }

    fn wanted(&self) -> String {
        format!("{}{}", self.text, self.optional)
    }

    /// An identifier of the options.
    pub(crate) fn id(&self) -> String {
        let wanted = self.wanted();
        let options = options(&wanted).into_iter();
        let options = options.map(|(option, value)| format!("{option}={value}\n"));
        let counted = self.counted.iter().map(|it| format!("{it}\n"));
        digest::short(options.chain(counted))
    }

    /// Makes the configuration in the build directory. Compares it with the needed options,
    /// because Kconfig drops an option silently if its dependencies are missing.
    pub(crate) fn make(&self, make: &Make<'_>) -> Result<()> {
        let path = make.build.join(".config");
        make.run("tinyconfig")?;
        let tiny = files::text(&path)?;
        files::write(&path, merged(&tiny, &self.wanted()).as_bytes())?;
        make.run("olddefconfig")?;
        match lost(&self.text, &files::text(&path)?) {
            lost if lost.is_empty() => Ok(()),
            lost => Err(BuildError::ConfigLost(lost)),
        }
    }
}

/// Replaces options of `base` by those of `more`. They come last, because Kconfig takes the
/// last option of a choice.
fn merged(base: &str, more: &str) -> String {
    let (base, more) = (options(base), options(more));
    base.iter()
        .filter(|(option, _)| !more.contains_key(*option))
        .chain(&more)
        .map(|(option, value)| format!("{option}={value}\n"))
        .collect()
}

/// The final value of each option, `n` if it is not set.
fn options(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<(&str, &str)> {
    let comment = line.strip_prefix("# ");
    match comment.and_then(|it| it.strip_suffix(" is not set")) {
        Some(option) => Some((option, "n")),
        None => line.starts_with("CONFIG_").then(|| line.split_once('='))?,
    }
}

/// The options of `asked` that have another value in `result`.
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
    use std::collections::BTreeSet;
    use std::process::Command;

    use clap::ValueEnum;

    use super::*;
    use crate::host::{needs, packages, process};

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
    fn merged_options_come_last() {
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

    /// The figures are about the code that a distribution runs.
    #[test]
    fn the_exit_path_is_debians() {
        packages::ensure(needs::CONFIG).unwrap();
        for base in Base::ALL {
            let mut xz = Command::new("xz");
            xz.arg("-dc").arg(base.debians_config().unwrap());
            let debian = process::stdout(&mut xz, "xz").unwrap();
            let mut ours = files::text(&fragment("exit-path.config").unwrap()).unwrap();
            ours += &base.options("base.config").unwrap();
            assert_eq!(lost(&ours, &debian), [""; 0], "{base:?}");
        }
    }

    #[test]
    fn the_variants_differ() {
        let mut ids = BTreeSet::new();
        for variant in Variant::value_variants() {
            assert!(ids.insert(Config::read(Base::default(), *variant).unwrap().id()));
            assert_eq!(Variant::from_str(variant.name(), false), Ok(*variant));
        }
    }
}
