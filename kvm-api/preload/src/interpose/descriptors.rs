//! The functions that change descriptors, which matter to a thread whose vCPU is bound.

use std::arch::naked_asm;
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

use kvm_sys::instruction::syscall6;
use libc::{DIR, FILE, c_char, c_int, c_long, c_uint, c_void};

use crate::Change;
use crate::plain::returned_long;

/// A function of the C library.
struct Next {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        let address = AtomicPtr::new(std::ptr::null_mut());
        Self { name, address }
    }

    /// Its address. The dynamic linker looks for it once, as a rule before the program
    /// begins, because it may not be asked in a signal handler.
    fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Acquire);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name ends with a zero.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.address.store(found, Ordering::Release);
        found
    }
}

/// A function in the place of the one with the same name, which it calls while the
/// descriptors of a range change.
macro_rules! changes {
    ($(
        $(#[doc = $doc:literal])*
        fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty
            | $first:expr, $last:expr;
    )*) => {
        /// The functions of the C library.
        #[allow(non_upper_case_globals)]
        mod next {
            use super::Next;

            $(pub static $name: Next = Next::new({
                const NAME: &str = concat!(stringify!($name), "\0");
                match std::ffi::CStr::from_bytes_with_nul(NAME.as_bytes()) {
                    Ok(name) => name,
                    Err(_) => panic!("a name has no zero"),
                }
            });)*
        }

        /// Finds the functions of the C library.
        pub fn find() {
            $(next::$name.address();)*
            VFORK.address();
        }

        $(
        $(#[doc = $doc])*
        ///
        /// # Safety
        ///
        /// As for the function of the C library.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            type Function = unsafe extern "C-unwind" fn($($type),*) -> $result;
            let change = Change::of($first as u32, $last as u32);
            // SAFETY: the C library has this function with this type.
            let next: Function = unsafe { std::mem::transmute(next::$name.address()) };
            // SAFETY: the caller vouches for the call.
            let result = unsafe { next($($argument),*) };
            change.done();
            result
        }
        )*
    };
}

changes! {
    /// `close`.
    fn close(fd: c_int) -> c_int | fd, fd;
    /// `dup2`.
    fn dup2(from: c_int, to: c_int) -> c_int | to, to;
    /// `dup3`.
    fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int | to, to;
    /// `close_range`.
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int | first, last;
    /// `closefrom`.
    fn closefrom(first: c_int) -> () | first.max(0), c_int::MAX;
    /// `fclose`.
    fn fclose(stream: *mut FILE) -> c_int | of_stream(stream), of_stream(stream);
    /// `freopen`.
    fn freopen(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE
        | of_stream(stream), of_stream(stream);
    /// `freopen64`.
    fn freopen64(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE
        | of_stream(stream), of_stream(stream);
    /// `closedir`.
    fn closedir(directory: *mut DIR) -> c_int | of_directory(directory), of_directory(directory);
}

fn of_stream(stream: *mut FILE) -> c_int {
    if stream.is_null() {
        return -1;
    }
    // SAFETY: the caller has a stream.
    unsafe { libc::fileno(stream) }
}

fn of_directory(directory: *mut DIR) -> c_int {
    if directory.is_null() {
        return -1;
    }
    // SAFETY: the caller has a directory.
    unsafe { libc::dirfd(directory) }
}

/// `syscall`. The arguments of its declaration are in the same registers.
///
/// # Safety
///
/// As for the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let change = match number {
        libc::SYS_close => Change::of(a as u32, a as u32),
        libc::SYS_dup2 | libc::SYS_dup3 => Change::of(b as u32, b as u32),
        libc::SYS_close_range => Change::of(a as u32, b as u32),
        _ => Change::none(),
    };
    // SAFETY: the caller vouches for the call.
    let answer = unsafe { syscall6(number, a, b, c, d, e, f) };
    change.done();
    returned_long(answer)
}

/// `vfork`. It returns twice, so that the one of the C library is not called, but jumped to,
/// with the stack as the program has left it.
///
/// # Safety
///
/// As for the function of the C library.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfork() -> libc::pid_t {
    naked_asm!(
        "sub rsp, 8",
        "call {prepare}",
        "add rsp, 8",
        "jmp rax",
        prepare = sym prepare_vfork,
    )
}

static VFORK: Next = Next::new(c"vfork");

/// Prepares `vfork`, and returns where that of the C library is.
extern "C" fn prepare_vfork() -> *mut c_void {
    crate::before_vfork();
    VFORK.address()
}
