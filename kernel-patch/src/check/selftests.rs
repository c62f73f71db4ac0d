//! The kernel's own tests of KVM that a patch changes.

use std::fs;
use std::path::Path;

use super::builds;
use super::error::{Result, finding};
use super::warnings::{Known, Warnings};
use crate::host::{IoContext, Progress, files};
use crate::kbuild::selftests::SOURCES;
use crate::kbuild::{BUILD, Make, Patch};

/// The architecture that the tests are built for.
pub(super) const ARCH: &str = "x86_64";

/// Compiles and links the tests that `patch` changes with the user-space headers of the
/// kernel in `build`. Returns the errors and warnings.
pub(super) fn check(
    tree: &Path,
    build: &Path,
    patch: &Patch,
    log: &Path,
    what: &str,
) -> Result<Vec<String>> {
    let out = tree.join(format!("{BUILD}-selftests"));
    let programs = patch.files().filter_map(program);
    let programs: Vec<_> = programs
        .map(|it| out.join(it).display().to_string())
        .collect();
    let _ = fs::remove_file(log);
    if programs.is_empty() {
        return Ok(Vec::new());
    }
    files::remove(&out)?;
    fs::create_dir(&out).cannot("make", &out)?;
    // Headers that have kept their times would not be installed again.
    files::remove(&build.join("usr/include"))?;
    let make = |tree: &Path, build: &Path, args: &[String], targets: &str| {
        let make = Make {
            tree,
            build,
            arch: ARCH,
            args,
            log: log.into(),
            progress: Progress::ours(format!("{what}: building selftests")),
        };
        make.run(targets)
    };
    let usr = build.join("usr").display().to_string();
    let args = [
        format!("OUTPUT={}", out.display()),
        format!("INSTALL_HDR_PATH={usr}"),
        format!("KHDR_INCLUDES=-isystem {usr}/include"),
    ];
    let numbers = [builds::keep_numbers(tree)];
    let made = make(tree, build, &numbers, "headers")
        .and_then(|()| make(&tree.join(SOURCES), &out, &args, &programs.join(" ")));
    let error = finding(made)?;
    let warnings = Warnings::read(&files::text_or_empty(log)?);
    let none = Known::default();
    let warnings = warnings.new_to(&none).map(String::from);
    Ok(error.into_iter().chain(warnings).collect())
}

/// The program that is built from a file, if it is a test.
fn program(file: &str) -> Option<&str> {
    let inside = file.strip_prefix(SOURCES)?.strip_prefix('/')?;
    inside
        .ends_with("_test.c")
        .then(|| inside.strip_suffix(".c"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_programs() {
        let dir = "tools/testing/selftests/kvm";
        assert_eq!(
            program(&format!("{dir}/x86_64/a_test.c")),
            Some("x86_64/a_test")
        );
        assert_eq!(program(&format!("{dir}/lib/memstress.c")), None);
        assert_eq!(program(&format!("{dir}/Makefile")), None);
        assert_eq!(program("tools/testing/selftests/mm/a_test.c"), None);
    }
}
