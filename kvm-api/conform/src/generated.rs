//! Parts of documents that are generated from tables.

use std::{env, fs};

/// Compares the text between `begin` and `end` in a document with `text`. With
/// `UPDATE_DOCS`, writes it. `test` selects the test that calls this.
pub fn check(document: &str, [begin, end]: [&str; 2], text: &str, test: &str) {
    let path = kernel_patch::workspace_dir().unwrap().join(document);
    let page = fs::read_to_string(&path).expect(document);
    let (before, rest) = page.split_once(begin).expect(begin);
    let (old, after) = rest.split_once(end).expect(end);
    if env::var_os("UPDATE_DOCS").is_some() {
        let new = [before, begin, text, end, after].concat();
        fs::write(&path, new).expect(document);
    } else {
        let command = format!("UPDATE_DOCS=1 cargo test -p conform {test}");
        assert!(old == text, "{document} is old: {command}");
    }
}
