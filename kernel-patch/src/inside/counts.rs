//! The kernel's counts of its own lines, on their way to the host.

use std::fs;
use std::path::Path;

use crate::host::error::Result;
use crate::host::{IoContext, files};
use crate::wire::job::{COUNTS, OUT};

/// The directory in which the kernel shows them.
const SHOWN: &str = "/sys/kernel/debug/gcov";

/// Copies the counts to the directory for the host, if the kernel counts.
pub(crate) fn leave() -> Result<()> {
    let from = Path::new(SHOWN);
    if !from.exists() {
        return Ok(());
    }
    let to = Path::new(OUT).join(COUNTS);
    files::walk(from, |_| false, &mut |file, _| {
        // Beside each is a symbolic link to the directory of its object.
        if file.extension().is_none_or(|it| it != "gcda") {
            return Ok(());
        }
        let path = from.join(file);
        let counts = fs::read(&path).cannot("read", &path)?;
        files::write(&to.join(file), &counts)
    })
}
