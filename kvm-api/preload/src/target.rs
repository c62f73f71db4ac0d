//! The file to which the report goes.

use std::ffi::CStr;
use std::sync::OnceLock;

use kvm_sys::instruction::{syscall1, syscall2, syscall3, syscall4};
use libc::c_int;

use crate::message::die;

/// Where the report goes.
pub(crate) enum Target {
    /// To this file, which has to be the standard error still. The program may have closed
    /// it, and opened another file, which the report would spoil.
    StandardError(File),
    /// To the end of the file with this path.
    Path(&'static Path),
}

/// An absolute path that ends with a zero.
pub(crate) type Path = [u8; libc::PATH_MAX as usize];

static PATH: OnceLock<Path> = OnceLock::new();

/// What tells one file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct File(libc::dev_t, libc::ino_t, libc::dev_t);

impl File {
    fn of(fd: c_int) -> Option<Self> {
        // SAFETY: a `stat` has numbers only.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        let place = (&raw mut stat).expose_provenance();
        // SAFETY: the kernel writes one `stat`.
        let done = unsafe { syscall2(libc::SYS_fstat, fd as usize, place) };
        (done == 0).then_some(Self(stat.st_dev, stat.st_ino, stat.st_rdev))
    }
}

impl Target {
    /// The target that the variable names. `None` if nobody reads the report, because the
    /// standard error is closed.
    pub(crate) fn of(variable: &CStr) -> Option<Self> {
        if variable == c"-" {
            return File::of(libc::STDERR_FILENO).map(Self::StandardError);
        }
        // That the file can be written is known from the beginning.
        let path = absolute(variable).filter(|path| append(path, &[]));
        match path {
            Some(path) => Some(Self::Path(PATH.get_or_init(|| path))),
            None => die(c"kvm-preload: cannot write the report\n"),
        }
    }

    /// Writes a text, at once.
    pub(crate) fn write(&self, text: &[u8]) {
        without_sigpipe(|| match self {
            Self::StandardError(file) => {
                File::of(libc::STDERR_FILENO) == Some(*file) && write(libc::STDERR_FILENO, text)
            }
            Self::Path(path) => append(path, text),
        });
    }
}

/// A path that stays the same when the program changes its directory.
fn absolute(path: &CStr) -> Option<Path> {
    let mut whole: Path = [0; _];
    let mut start = 0_usize;
    if !path.to_bytes().starts_with(b"/") {
        let (place, size) = ((&raw mut whole).expose_provenance(), whole.len());
        // SAFETY: the kernel writes no more than the given size.
        let length = unsafe { syscall2(libc::SYS_getcwd, place, size) };
        // It counts the zero at the end.
        start = usize::try_from(length).ok()?;
        *whole.get_mut(start.checked_sub(1)?)? = b'/';
    }
    let path = path.to_bytes_with_nul();
    whole
        .get_mut(start..start + path.len())?
        .copy_from_slice(path);
    Some(whole)
}

/// Writes to the end of a file, and says whether it could.
fn append(path: &Path, text: &[u8]) -> bool {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    let start = path.as_ptr().expose_provenance();
    // SAFETY: the path ends with a zero.
    let fd = unsafe { syscall3(libc::SYS_open, start, flags as usize, 0o666) };
    let done = fd >= 0 && write(fd as c_int, text);
    // SAFETY: the descriptor, if it is one, is not used any more.
    unsafe { syscall1(libc::SYS_close, fd as usize) };
    done
}

/// Writes all of a text, and says whether it could.
fn write(fd: c_int, mut text: &[u8]) -> bool {
    const INTERRUPTED: isize = -(libc::EINTR as isize);
    while !text.is_empty() {
        let start = text.as_ptr().expose_provenance();
        // SAFETY: the kernel reads the text.
        match unsafe { syscall3(libc::SYS_write, fd as usize, start, text.len()) } {
            INTERRUPTED => {}
            written => match usize::try_from(written) {
                Ok(written) => text = &text[written..],
                Err(_) => return false,
            },
        }
    }
    true
}

/// Does something while SIGPIPE, which would end the process in another way, is blocked.
fn without_sigpipe(something: impl FnOnce() -> bool) {
    let signal: u64 = 1 << (libc::SIGPIPE - 1);
    let mut before: u64 = 0;
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let at_once = (&raw const at_once).expose_provenance();
    let signal = (&raw const signal).expose_provenance();
    let before = (&raw mut before).expose_provenance();
    let set = |how: c_int, new, old| {
        let number = libc::SYS_rt_sigprocmask;
        // SAFETY: the kernel reads and writes a set of signals.
        unsafe { syscall4(number, how as usize, new, old, size_of::<u64>()) }
    };
    set(libc::SIG_BLOCK, signal, before);
    if !something() {
        let number = libc::SYS_rt_sigtimedwait;
        // SAFETY: the kernel reads a set of signals and a time.
        unsafe { syscall4(number, signal, 0, at_once, size_of::<u64>()) };
    }
    set(libc::SIG_SETMASK, before, 0);
}
