//! Text on the standard error.

use std::ffi::CStr;

/// Ends the program with a message.
pub(crate) fn die(message: &CStr) -> ! {
    let text = message.to_bytes();
    // SAFETY: all of the text is there.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        libc::abort()
    }
}
