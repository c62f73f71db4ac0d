//! The executables that a machine can run: static ones for x86-64, and in the root of the
//! host the programs of the host.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_DYN, ET_EXEC, PT_INTERP};
use elf::endian::AnyEndian;
use nix::unistd::{AccessFlags, access};

use super::error::{BootError, Result};
use crate::host::IoContext;

/// Checks that a machine can run a file.
pub(crate) fn check(path: &Path) -> Result<()> {
    let data = fs::read(path).cannot("read", path)?;
    let because = |why| Err(BootError::NotRunnable(path.into(), why));
    let Ok(file) = ElfBytes::<AnyEndian>::minimal_parse(&data) else {
        return because("is not an ELF executable, and the machine has no interpreters");
    };
    if file.ehdr.e_machine != EM_X86_64 || !matches!(file.ehdr.e_type, ET_EXEC | ET_DYN) {
        return because("is not an executable for x86-64");
    }
    if file
        .segments()
        .is_some_and(|segments| segments.iter().any(|it| it.p_type == PT_INTERP))
    {
        return because(
            "is linked dynamically, and the machine has no libraries: \
             build it with RUSTFLAGS=-Ctarget-feature=+crt-static",
        );
    }
    Ok(())
}

/// Finds a program as a shell does: a name without a slash is in one of the directories of
/// `PATH`.
///
/// # Errors
///
/// There is no such program.
pub fn find(program: &Path) -> Result<PathBuf> {
    let can_run = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        let path = Some(program.to_owned()).filter(can_run);
        return path.ok_or_else(|| BootError::NotRunnable(program.into(), "is not a program"));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut paths = env::split_paths(&path).map(|dir| dir.join(program));
    let found = paths.find(can_run);
    found.ok_or_else(|| BootError::NotRunnable(program.into(), "is not a program in PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_by_a_shell() {
        let found = find(Path::new("sh")).unwrap();
        assert_eq!(
            (found.is_absolute(), found.file_name()),
            (true, Some("sh".as_ref()))
        );
        assert_eq!(find(&found).unwrap(), found);
        for (name, expected) in [
            (
                "no-such-program",
                "no-such-program is not a program in PATH",
            ),
            ("/bin", "/bin is not a program"),
            ("/etc/passwd", "/etc/passwd is not a program"),
        ] {
            assert_eq!(find(Path::new(name)).unwrap_err().to_string(), expected);
        }
    }

    fn refusal(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, bytes).unwrap();
        check(file.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_static_executable_can_run() {
        check(&env::current_exe().unwrap()).unwrap();
    }

    #[test]
    fn other_files_are_refused() {
        assert!(refusal(b"#!/bin/sh\n").contains("is not an ELF executable"));
        let mut arm = fs::read(env::current_exe().unwrap()).unwrap();
        arm[18..20].copy_from_slice(&elf::abi::EM_AARCH64.to_le_bytes());
        assert!(refusal(&arm).contains("is not an executable for x86-64"));
        let dynamic = fs::read("/bin/true").unwrap();
        assert!(refusal(&dynamic).contains("+crt-static"));
        let error = check(Path::new("/nonexistent")).unwrap_err();
        assert!(
            format!("{:#}", anyhow::Error::from(error))
                .starts_with("cannot read /nonexistent: No such file")
        );
    }
}
