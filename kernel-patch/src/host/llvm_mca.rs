//! llvm-mca, which estimates the cycles of machine code.

use std::path::Path;

use super::error::Result;
use super::{needs, packages, paths, process};

/// Estimates the cycles of each region of a file in assembly on a processor, by its name in
/// LLVM, and writes them to a file in JSON. Instructions that LLVM does not know are left
/// out. Installs Debian's LLVM if it is missing and the user may install packages.
///
/// # Errors
///
/// If LLVM is missing, or if it does not know the processor.
pub fn llvm_mca(processor: &str, assembly: &Path, json: &Path) -> Result<()> {
    packages::ensure(needs::LLVM)?;
    let mut command = process::tool("llvm-mca-19");
    command
        .arg("-mtriple=x86_64")
        .arg(format!("-mcpu={processor}"))
        // The instructions behind a call follow it in the file.
        .args(["-iterations=1", "-call-latency=1"])
        .args(["-all-views=false", "-summary-view", "-json"])
        .arg("-skip-unsupported-instructions=any")
        .arg("-o")
        .args([json, assembly]);
    process::run(
        &mut command,
        "llvm-mca",
        &paths::logs()?.join("llvm-mca.log"),
    )
}
