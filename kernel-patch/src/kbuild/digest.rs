//! Short names for contents.

use sha2::{Digest, Sha256};

/// Returns 12 hexadecimal digits that name the concatenation of `parts`.
pub(crate) fn short<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let digest = hash.finalize();
    digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
