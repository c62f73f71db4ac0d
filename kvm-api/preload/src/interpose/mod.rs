//! The functions in the place of those of the C library.

mod descriptors;

use libc::{c_int, c_ulong};

/// Has the dynamic linker call [`start`](crate::start) before the program begins.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    descriptors::find();
    crate::start();
}

/// Has `exit` call [`finish`](crate::finish).
#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = crate::finish;

/// `ioctl` without the variable arguments of its declaration: the third argument is in
/// the same register.
///
/// # Safety
///
/// As for the request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
    // SAFETY: the caller vouches for the request.
    unsafe { crate::hand_over(fd, request, arg) }
}

/// `_exit`, which does not do what `exit` does first.
#[unsafe(no_mangle)]
pub extern "C" fn _exit(status: c_int) -> ! {
    crate::finish();
    loop {
        // SAFETY: the process ends.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// The name of `_exit` in the standard of C.
#[unsafe(no_mangle)]
pub extern "C" fn _Exit(status: c_int) -> ! {
    _exit(status)
}
