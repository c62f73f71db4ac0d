//! The files that a kernel was built from, by the `.cmd` files of its build directory.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::Result;
use super::warnings::without_parents;
use crate::host::files;

/// Whether a kernel in `build` was built from one of `changed`, paths in the source.
///
/// The files that decide what is built from which files are always part of a build. A
/// new file is part of it only if one of those, or a file that includes it, changes too.
pub(super) fn include(build: &Path, changed: &BTreeSet<String>) -> Result<bool> {
    Ok(changed.iter().any(|file| is_rule(file)) || !sources(build, changed)?.is_empty())
}

/// The files of KVM for x86 among `files` that no object in `build` was made from.
pub(super) fn without_object(build: &Path, files: BTreeSet<String>) -> Result<BTreeSet<String>> {
    let mut missing = &files - &sources(build, &files)?;
    missing.retain(|file| {
        let kvm = ["virt/", "arch/x86/kvm/"];
        kvm.iter().any(|it| file.starts_with(it)) && file.ends_with(".c")
    });
    Ok(missing)
}

/// The files among `files` that an object in `build` was made from. The words of a `.cmd`
/// file are relative to the build directory, which is below the source.
fn sources(build: &Path, files: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    each_object(build, |made_from| {
        found.extend(made_from.filter(|it| files.contains(it)));
    })?;
    Ok(found)
}

/// The source files of objects in `build` that include one of `headers`.
pub(super) fn including(build: &Path, headers: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    each_object(build, |made_from| {
        let (code, others): (Vec<_>, Vec<_>) = made_from.partition(|it| it.ends_with(".c"));
        if others.iter().any(|it| headers.contains(it)) {
            found.extend(code);
        }
    })?;
    Ok(found)
}

/// Calls `act` with the files that each object in `build` was made from.
fn each_object(build: &Path, mut act: impl FnMut(&mut dyn Iterator<Item = String>)) -> Result<()> {
    Ok(files::walk(build, |_| false, &mut |file, _| {
        if file.extension().is_some_and(|it| it == "cmd") {
            let text = files::text_or_empty(&build.join(file))?;
            let words = text.split_whitespace().filter(|word| word.contains('/'));
            act(&mut words.map(without_parents));
        }
        Ok(())
    })?)
}

/// Whether options are defined in one of `files`.
pub(super) fn have_options(files: &BTreeSet<String>) -> bool {
    files.iter().any(|file| {
        let name = file.rsplit('/').next();
        name.is_some_and(|it| it.starts_with("Kconfig"))
    })
}

/// Whether a file tells make or its scripts what to build.
fn is_rule(file: &str) -> bool {
    let (dir, name) = file.rsplit_once('/').unwrap_or(("", file));
    ["Kconfig", "Makefile", "Kbuild"]
        .iter()
        .any(|it| name.starts_with(it))
        || name.ends_with(".tbl")
        || name.ends_with(".sh")
        || dir.starts_with("scripts")
        || dir.ends_with("/scripts")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CMD: &str = "\
savedcmd_arch/x86/kvm/../../../virt/kvm/kvm_main.o := gcc -o a.o
source_arch/x86/kvm/../../../virt/kvm/kvm_main.o := ../arch/x86/kvm/../../../virt/kvm/kvm_main.c
deps_arch/x86/kvm/../../../virt/kvm/kvm_main.o := \\
    $(wildcard include/config/KVM) \\
  ../include/linux/kvm_host.h \\
";

    fn affects(files: &[&str]) -> bool {
        let build = tempfile::tempdir().unwrap();
        files::write(&build.path().join("virt/.kvm_main.o.cmd"), CMD.as_bytes()).unwrap();
        let changed = files.iter().map(ToString::to_string).collect();
        include(build.path(), &changed).unwrap()
    }

    #[test]
    fn sources_and_headers_affect_a_build() {
        assert!(affects(&["x", "virt/kvm/kvm_main.c"]));
        assert!(affects(&["include/linux/kvm_host.h"]));
    }

    #[test]
    fn code_that_includes_a_header_is_found() {
        let build = tempfile::tempdir().unwrap();
        files::write(&build.path().join("virt/.kvm_main.o.cmd"), CMD.as_bytes()).unwrap();
        let includes = |header: &str| {
            let headers = BTreeSet::from([header.to_owned()]);
            including(build.path(), &headers).unwrap()
        };
        let code = BTreeSet::from(["virt/kvm/kvm_main.c".to_owned()]);
        assert_eq!(includes("include/linux/kvm_host.h"), code);
        assert_eq!(includes("include/linux/sched.h"), BTreeSet::new());
    }

    #[test]
    fn code_without_an_object_is_found() {
        let build = tempfile::tempdir().unwrap();
        files::write(&build.path().join("virt/.kvm_main.o.cmd"), CMD.as_bytes()).unwrap();
        let files = [
            "virt/kvm/kvm_main.c",
            "arch/x86/kvm/svm/sev.c",
            "arch/arm64/kvm/arm.c",
            "virt/kvm/bound.h",
        ];
        let missing = without_object(build.path(), files.map(String::from).into());
        assert_eq!(
            missing.unwrap(),
            BTreeSet::from(["arch/x86/kvm/svm/sev.c".to_owned()])
        );
    }

    #[test]
    fn rules_affect_a_build() {
        for file in [
            "virt/kvm/Kconfig",
            "virt/kvm/Makefile.kvm",
            "arch/x86/entry/syscalls/syscall_64.tbl",
            "scripts/Makefile.build",
        ] {
            assert!(affects(&[file]), "{file}");
        }
    }

    #[test]
    fn other_files_do_not() {
        assert!(!affects(&[
            "virt/kvm/ranges.c",
            "Documentation/virt/kvm/x.rst"
        ]));
        assert!(!affects(&[]));
    }
}
