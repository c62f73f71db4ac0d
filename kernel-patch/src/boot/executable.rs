//! The executables that a machine can run: static ones for x86-64.

use std::fs;
use std::path::Path;

use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_DYN, ET_EXEC, PT_INTERP};
use elf::endian::AnyEndian;

use super::error::{BootError, Result};
use crate::host::IoContext;

/// Checks that a machine can run a file.
///
/// # Errors
///
/// [`BootError::NotRunnable`] has the reason. [`BootError::Host`] if the file cannot be
/// read.
pub fn check(path: &Path) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

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
