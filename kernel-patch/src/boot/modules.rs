//! The modules of a kernel build, in an order in which they load.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::endian::AnyEndian;

use crate::host::error::Result;
use crate::host::{IoContext, files};

/// The directory of KVM's modules.
pub(crate) const KVM: &[&str] = &["arch/x86/kvm/"];

/// The directories of the modules for the root of the host.
pub(crate) const HOST_ROOT: &[&str] = &["net/9p/", "fs/9p/", "fs/overlayfs/"];

/// Returns the modules that the build has below `dirs`, each after those that it depends on.
pub(crate) fn in_order(build: &Path, dirs: &[&str]) -> Result<Vec<PathBuf>> {
    let list = build.join("modules.order");
    let list = files::text(&list)?;
    let mut wanted = Vec::new();
    let mut waiting = BTreeMap::new();
    for object in list.lines() {
        let path = build.join(object).with_extension("ko");
        let data = fs::read(&path).cannot("read", &path)?;
        let name = name(&path);
        if dirs.iter().any(|it| object.starts_with(it)) {
            wanted.push(name.clone());
        }
        waiting.insert(name, (path, depends(&data)));
    }
    wanted.sort_unstable();
    let mut order = Vec::new();
    for module in wanted {
        visit(&module, &mut waiting, &mut order);
    }
    Ok(order)
}

/// Moves a module, after those that it depends on, from one list to the other.
fn visit(
    module: &str,
    waiting: &mut BTreeMap<String, (PathBuf, Vec<String>)>,
    order: &mut Vec<PathBuf>,
) {
    if let Some((path, depends)) = waiting.remove(module) {
        for depend in depends {
            visit(&depend, waiting, order);
        }
        order.push(path);
    }
}

/// The name of a module in dependencies.
fn name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().replace('-', "_")
}

/// The dependencies of a module, from its section `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    let modinfo = ElfBytes::<AnyEndian>::minimal_parse(module)
        .ok()
        .and_then(|elf| {
            let header = elf.section_header_by_name(".modinfo").ok()??;
            Some(elf.section_data(&header).ok()?.0)
        });
    modinfo
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .find_map(|field| field.strip_prefix(b"depends="))
        .map(String::from_utf8_lossy)
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first() {
        let entry = |name: &str, depends: &[&str]| {
            let depends = depends.iter().map(|it| (*it).to_owned()).collect();
            (name.to_owned(), (PathBuf::from(name), depends))
        };
        let mut waiting = BTreeMap::from([
            entry("amd", &["kvm"]),
            entry("intel", &["kvm", "builtin"]),
            entry("kvm", &["bypass"]),
            entry("bypass", &[]),
            entry("9p", &["netfs"]),
        ]);
        let mut order = Vec::new();
        for module in ["amd", "intel", "kvm"] {
            visit(module, &mut waiting, &mut order);
        }
        assert_eq!(order, ["bypass", "kvm", "amd", "intel"].map(PathBuf::from));
    }
}
