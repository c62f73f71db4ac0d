//! How a command refuses bad input.

use std::process::Output;

/// Asserts that a command ended with a status, and with one line that contains a message.
#[track_caller]
pub fn refused_with(code: i32, output: &Output, message: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(message), "{stderr}");
}

/// Asserts that a command failed, with one line that contains a message.
#[track_caller]
pub fn refused(output: &Output, message: &str) {
    refused_with(1, output, message);
}
