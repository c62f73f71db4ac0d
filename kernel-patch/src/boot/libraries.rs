//! The files of the host that a dynamic executable needs in a machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use elf::ElfBytes;
use elf::abi::PT_INTERP;
use elf::endian::AnyEndian;

use super::error::{BootError, Result};
use crate::host::{IoContext, process};

/// The directory for libraries in the machine. `LD_LIBRARY_PATH` has to name it, because
/// the default directories depend on the distribution.
const INSIDE: &str = "/lib";

/// Returns the path in the machine, and the path on the host, of the dynamic linker of
/// `program`, of `preloaded`, and of the libraries that both need. The machine's
/// `LD_LIBRARY_PATH` has to be `/lib`.
///
/// # Errors
///
/// `program` has no dynamic linker, or the linker does not find a library.
pub fn libraries(program: &Path, preloaded: &Path) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let linker = linker(program)?;
    let mut command = Command::new(&linker);
    command.arg("--preload").arg(preloaded);
    command.arg("--list").arg(program).env_clear();
    let output = process::output(&mut command, &linker.to_string_lossy())?;
    let list = String::from_utf8_lossy(&output.stdout);
    let found = list.lines().filter_map(found);
    let mut libraries: BTreeMap<_, _> = found
        .map(|(name, path)| (Path::new(INSIDE).join(name), path.into()))
        .collect();
    let complete = output.status.success() && output.stderr.is_empty();
    if !complete || list.contains("not found") {
        let output = [output.stdout, output.stderr].concat();
        let output = String::from_utf8_lossy(&output).into_owned();
        return Err(BootError::LibraryMissing(program.into(), output));
    }
    let name = preloaded.file_name().unwrap_or_default();
    libraries.insert(Path::new(INSIDE).join(name), preloaded.into());
    libraries.insert(linker.clone(), linker);
    Ok(libraries)
}

/// Returns the name and the path in a line of the dynamic linker's list, if it is about a
/// library that was found by name. The other lines are about the linker itself, about
/// files named by a path, and about the vDSO.
fn found(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.trim().split_once(" => ")?;
    let (path, _address) = rest.rsplit_once(" (")?;
    Some((name, path))
}

/// The dynamic linker that an executable names.
fn linker(program: &Path) -> Result<PathBuf> {
    let data = fs::read(program).cannot("read", program)?;
    let name = ElfBytes::<AnyEndian>::minimal_parse(&data)
        .ok()
        .and_then(|elf| {
            let interpreter = elf.segments()?.iter().find(|it| it.p_type == PT_INTERP)?;
            let name = elf.segment_data(&interpreter).ok()?;
            let name = str::from_utf8(name).ok()?;
            Some(name.trim_end_matches('\0').to_owned())
        });
    name.map(PathBuf::from)
        .ok_or_else(|| BootError::NotRunnable(program.into(), "has no dynamic linker"))
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    #[test]
    fn a_dynamic_program_needs_its_linker_and_libc() {
        let program = Path::new("/bin/true");
        let error = libraries(program, Path::new("/dev/null")).unwrap_err();
        assert!(
            matches!(&error, BootError::LibraryMissing(_, output) if output.contains("/dev/null")),
            "{error}"
        );

        let linker = linker(program).unwrap();
        let list = Command::new(&linker).arg("--list").arg(program).output();
        let list = String::from_utf8(list.unwrap().stdout).unwrap();
        let (_, libc) = list
            .lines()
            .filter_map(found)
            .find(|it| it.0 == "libc.so.6")
            .unwrap();
        let libraries = libraries(program, Path::new(libc)).unwrap();
        assert_eq!(libraries[&linker], linker);
        assert_eq!(libraries[Path::new("/lib/libc.so.6")], Path::new(libc));
    }

    #[test]
    fn lists_are_read() {
        let list = "\tlinux-vdso.so.1 (0x00007f)\n\
                    \tlibc.so.6 => /lib/x/libc (1).so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\
                    \tlibz.so.1 => not found\n";
        let found: Vec<_> = list.lines().filter_map(found).collect();
        assert_eq!(found, [("libc.so.6", "/lib/x/libc (1).so.6")]);
    }

    #[test]
    fn a_static_program_has_none() {
        let this = env::current_exe().unwrap();
        let error = linker(&this).unwrap_err().to_string();
        assert!(error.ends_with("has no dynamic linker"), "{error}");
    }
}
