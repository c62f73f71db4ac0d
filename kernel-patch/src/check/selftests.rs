//! The kernel's own tests of KVM, as far as a patch changes them.

use std::fs;
use std::path::Path;

use super::warnings::{Known, Warnings};
use crate::host::error::{Error, Result};
use crate::host::files;
use crate::host::progress::Progress;
use crate::kbuild::make::Make;
use crate::kbuild::series::Patch;
use crate::kbuild::tree::BUILD;

/// Where they lie in the source.
const SELFTESTS: &str = "tools/testing/selftests/kvm";

/// Compiles and links the tests of `patch` with the headers that the kernel in
/// `build` has for user space. Gives the errors and warnings.
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
    fs::create_dir(&out).map_err(Error::io("make", &out))?;
    let make = |tree: &Path, build: &Path, args: &[String], targets: &str| {
        let make = Make {
            tree,
            build,
            arch: "x86_64",
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
    let made = make(tree, build, &[], "headers")
        .and_then(|()| make(&tree.join(SELFTESTS), &out, &args, &programs.join(" ")));
    let error = match made {
        Ok(()) => None,
        Err(error @ Error::ToolFailed { .. }) => Some(error.to_string()),
        Err(error) => return Err(error),
    };
    let output = files::read(log)?.unwrap_or_default();
    let warnings = Warnings::read(&String::from_utf8_lossy(&output));
    let none = Known::default();
    let warnings = warnings.new_to(&none).map(String::from);
    Ok(error.into_iter().chain(warnings).collect())
}

/// What is built of a file: a program, if it is a test's.
fn program(file: &str) -> Option<&str> {
    let inside = file.strip_prefix(SELFTESTS)?.strip_prefix('/')?;
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
