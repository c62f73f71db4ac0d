//! KVM's own tests, which are part of the kernel's source.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::Result;
use crate::host::{IoContext, Lock, Progress, files, needs, packages, paths};
use crate::kbuild::kernel::Kernel;
use crate::kbuild::make::Make;
use crate::kbuild::tree;

/// Their directory in the source.
pub(crate) const SOURCES: &str = "tools/testing/selftests/kvm";

/// One of the tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selftest {
    /// Its name in the Makefile: its path without an extension.
    pub name: String,
    /// The executable, which is dynamic: see
    /// [`libraries`](crate::libraries).
    pub path: PathBuf,
}

/// Builds KVM's selftests from the source of `kernel`, unless they are up to date, and
/// returns them by name. Shows the progress on standard error, and waits for another
/// process that builds them.
///
/// # Errors
///
/// See [`BuildError`].
pub fn selftests(kernel: &Kernel) -> Result<Vec<Selftest>> {
    let out = format!("{}-selftests", tree::BUILD);
    let out = paths::create(kernel.source_dir.join(out))?;
    let _lock = Lock::exclusive(&out, true)?;
    let built = out.join("kvm");
    let stamp = out.join("stamp");
    let source = kernel.tree().source()?;
    let wanted = format!("{source:?} {}", kernel.series_id).into_bytes();
    if !files::has(&stamp, &wanted)? {
        packages::ensure(needs::BUILD)?;
        // A build from scratch takes half a minute, and leaves no removed tests.
        files::remove(&built)?;
        fs::create_dir(&built).cannot("make", &built)?;
        build(kernel, &built)?;
        files::write(&stamp, &wanted)?;
    }
    list(&built)
}

fn build(kernel: &Kernel, built: &Path) -> Result<()> {
    let log = paths::new_log("build-selftests.log")?;
    let make = Make {
        tree: &kernel.source_dir.join(SOURCES),
        build: built,
        arch: "x86_64",
        args: &[
            format!("OUTPUT={}", built.display()),
            format!("KHDR_INCLUDES=-isystem {}", kernel.headers().display()),
            // The executables go into a machine's memory.
            "EXTRA_CFLAGS=-g0".into(),
        ],
        log,
        progress: Progress::ours(format!(
            "building KVM's selftests (series {})",
            kernel.series_id
        )),
    };
    make.run("all")
}

/// The executables below a directory.
fn list(built: &Path) -> Result<Vec<Selftest>> {
    let mut tests = Vec::new();
    files::walk(built, |_| false, &mut |name, metadata| {
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            tests.push(Selftest {
                name: name.to_string_lossy().into_owned(),
                path: built.join(name),
            });
        }
        Ok(())
    })?;
    tests.sort_unstable();
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_the_tests() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("b", 0o755), ("b.o", 0o644), ("x86_64/a", 0o755)] {
            let path = dir.path().join(name);
            files::write(&path, b"").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let tests = list(dir.path()).unwrap();
        let names: Vec<_> = tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["b", "x86_64/a"]);
        assert_eq!(tests[1].path, dir.path().join("x86_64/a"));
    }
}
