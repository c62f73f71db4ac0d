//! Patches that break the series on purpose, in one place each, to test whether the
//! properties of the suite notice.
//!
//! Each begins with a sentence about the fault, the property that has to notice it, the
//! kernel to test, and, if the property takes long, the cases of it that have to notice:
//!
//! ```text
//! Breaks: Calls on a vCPU do not exclude each other.
//! Caught-by: races
//! Kernel: debug
//! Case: calls on a running vCPU wait for it
//! ```

use std::path::PathBuf;

use super::error::{BuildError, Result};
use crate::host::{files, paths};
use crate::kbuild::base::Base;
use crate::kbuild::variant::Variant;

/// A patch that breaks the series.
#[derive(Clone, Debug)]
pub struct Mutation {
    pub(crate) path: PathBuf,
    /// What it breaks, in a sentence.
    pub breaks: String,
    /// The property that has to notice.
    pub caught_by: String,
    /// The kernel on which the property notices.
    pub variant: Variant,
    /// A part of the name of the cases that have to notice, if not all cases are tested.
    pub case: Option<String>,
}

impl Mutation {
    /// The kernels that have mutations: those on which properties are tested.
    pub const VARIANTS: [Variant; 2] = [Variant::Module, Variant::Debug];

    /// Reads all mutations of `base`, in the order of their names: those that apply to
    /// each base, and its own.
    ///
    /// # Errors
    ///
    /// One cannot be read, or lacks a line of its header.
    pub fn all(base: Base) -> Result<Vec<Self>> {
        let common = paths::workspace_dir()?.join("kernel-patch/mutations");
        let mut patches = files::list(&common)?;
        patches.extend(files::list(&base.path("mutations")?)?);
        patches.retain(|it| it.extension().is_some_and(|it| it == "patch"));
        patches.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
        patches.into_iter().map(Self::read).collect()
    }

    fn read(path: PathBuf) -> Result<Self> {
        let text = files::text(&path)?;
        let value = |name: &str| {
            let mut lines = text.lines().take_while(|line| !line.is_empty());
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let header = |name: &'static str| {
            value(name).ok_or_else(|| BuildError::BadMutation(path.clone(), name))
        };
        let kernel = header("Kernel")?;
        let variant = Self::VARIANTS.into_iter().find(|it| it.name() == kernel);
        let variant = variant.ok_or_else(|| BuildError::BadMutation(path.clone(), "Kernel"))?;
        Ok(Self {
            breaks: header("Breaks")?.into(),
            caught_by: header("Caught-by")?.into(),
            variant,
            case: value("Case").map(str::to_owned),
            path,
        })
    }

    /// Its name: the file name without the extension.
    #[must_use]
    pub fn name(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::kbuild::kernel::Kernel;
    use crate::kbuild::series::Series;

    /// Each changes only files of the series, and differs from the others.
    #[test]
    fn mutations_differ() {
        for base in Base::ALL {
            let mut ids = BTreeSet::new();
            for mutation in Mutation::all(base).unwrap() {
                let (name, alone) = (mutation.name(), alone(&mutation));
                let series = mutation.variant.series(base).unwrap();
                assert!(alone.files().is_subset(&series.files()), "{base:?}: {name}");
                assert!(ids.insert(alone.id()), "{base:?}: {name}");
            }
            assert!(!ids.is_empty(), "{base:?} has mutations");
        }
    }

    #[test]
    fn mutations_apply() {
        apply(Base::default());
    }

    #[test]
    #[ignore = "builds the kernels of the other bases"]
    fn mutations_apply_to_other_bases() {
        let others = Base::ALL.into_iter().filter(|it| *it != Base::default());
        others.for_each(apply);
    }

    /// Applies each mutation on top of the series.
    fn apply(base: Base) {
        let kernel = Kernel::builder().base(base).wait(true).build().unwrap();
        let tree = kernel.tree();
        let mutations = Mutation::all(base).unwrap();
        for variant in Mutation::VARIANTS {
            // Apply the long series once, not again for each mutation.
            let patched = tree.patched(&variant.series(base).unwrap()).unwrap();
            for mutation in mutations.iter().filter(|it| it.variant == variant) {
                let alone = alone(mutation);
                let copy = tempfile::tempdir().unwrap();
                alone.copy_files(patched.path(), copy.path()).unwrap();
                alone.apply(copy.path()).unwrap();
            }
        }
    }

    /// The mutation without the series.
    fn alone(mutation: &Mutation) -> Series {
        let mut alone = Series::default();
        alone.push(&mutation.path).unwrap();
        alone
    }

    #[test]
    fn a_mutation_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let path = dir.path().join("a-name.patch");
            fs::write(&path, text).unwrap();
            Mutation::read(path)
        };
        let mutation = read("Breaks: It is.\nCaught-by: calls\nKernel: debug\n\ndiff").unwrap();
        assert_eq!(mutation.name(), "a-name");
        assert_eq!(mutation.breaks, "It is.");
        assert_eq!(mutation.caught_by, "calls");
        assert_eq!(mutation.variant, Variant::Debug);
        assert_eq!(mutation.case, None);
        let one = read("Breaks: It is.\nCaught-by: a\nKernel: debug\nCase: b c\n").unwrap();
        assert_eq!(one.case.as_deref(), Some("b c"));
        for (text, missing) in [
            ("Breaks: It is.\nKernel: debug\n", "Caught-by"),
            ("Breaks: It is.\nCaught-by: calls\nKernel: tiny\n", "Kernel"),
            (
                "Breaks: It is.\nCaught-by: calls\nKernel: stock\n",
                "Kernel",
            ),
            (
                "Caught-by: calls\nKernel: debug\n\nBreaks: Late.\n",
                "Breaks",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.ends_with(&format!("no valid line {missing:?}")),
                "{error}"
            );
        }
    }
}
