//! The names of the checks, which are columns of the table beside the configurations.

pub(super) const AM: &str = "am";
pub(super) const CHECKPATCH: &str = "checkpatch";
pub(super) const EXTRA: &str = "W=1";
pub(super) const SPARSE: &str = "sparse";
pub(super) const DOCS: &str = "docs";
pub(super) const SELFTESTS: &str = "selftests";
pub(super) const MAN: &str = "man";

/// The number of the row of the manual pages, which is above the patches.
pub(super) const PAGES: usize = 0;
