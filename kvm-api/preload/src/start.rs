//! What the library does before the program begins.

use std::ffi::CStr;

use crate::bind::{self, BIND_VARIABLE};
use crate::counts::{self, COUNTS_VARIABLE};
use crate::message::die;
use crate::report::{self, REPORT_VARIABLE};
use crate::request;

/// Prepares counts and report, and looks for the calls. Until then each request goes to the
/// ioctl. The dynamic linker calls this before `main` of the program.
pub extern "C" fn start() {
    if let Some(path) = variable(COUNTS_VARIABLE)
        && !counts::attach(path)
    {
        die(c"kvm-preload: cannot map the file to count in\n");
    }
    if let Some(target) = variable(REPORT_VARIABLE) {
        report::prepare(target);
    }
    let ready = request::look_for_calls();
    if let Some(value) = variable(BIND_VARIABLE) {
        bind::start(value, ready);
    }
}

fn variable(name: &CStr) -> Option<&CStr> {
    // SAFETY: the name ends with a zero. There is no other thread yet that could change
    // the environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: it is a string of the environment.
    Some(unsafe { CStr::from_ptr(value) })
}
