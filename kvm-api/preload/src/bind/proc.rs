//! What /proc tells of threads, and of the thread that a vCPU is bound to.

use std::io::Write as _;

use kvm_sys::instruction::{syscall1, syscall3};
use kvm_sys::{__NR_kvm_bound_run, __NR_kvm_run};
use libc::{c_int, c_long};

/// A path that ends with a zero.
type Path = [u8; 64];

/// The beginning of a file, which is longer than what is looked for.
type Text = [u8; 2048];

macro_rules! path {
    ($($part:tt)*) => {{
        let mut path: Path = [0; _];
        let room = path.len() - 1;
        write!(&mut path[..room], $($part)*).expect("two numbers fit");
        path
    }};
}

/// The thread that the vCPU of this descriptor is bound to; 0 if there is none. `None` if
/// the file is no vCPU, or there is no descriptor left to look.
pub(crate) fn owner(fd: c_int) -> Option<c_int> {
    let fd = u32::try_from(fd).ok()?;
    let mut text: Text = [0; _];
    let info = read(&path!("/proc/thread-self/fdinfo/{fd}"), &mut text)?;
    field(info, b"kvm-bound-pid:")?.parse().ok()
}

/// Whether a thread of the process blocks a signal of this set.
pub(crate) fn blocks(task: c_int, set: u64) -> bool {
    let mut text: Text = [0; _];
    let status = read(&path!("/proc/self/task/{task}/status"), &mut text);
    let blocked = status.and_then(|status| field(status, b"SigBlk:"));
    let blocked = blocked.and_then(|blocked| u64::from_str_radix(blocked, 16).ok());
    blocked.is_some_and(|blocked| blocked & set != 0)
}

/// Whether a thread of the process waits in a system call other than a run.
pub(crate) fn waits_elsewhere(task: c_int) -> bool {
    let mut text: Text = [0; _];
    let call = read(&path!("/proc/self/task/{task}/syscall"), &mut text);
    call.is_some_and(is_another_call)
}

/// The same by the content of the file, which is "running" for a thread that does not wait,
/// and begins with the number of the call otherwise.
fn is_another_call(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| *byte == b' ');
    let number = str::from_utf8(&text[..end.unwrap_or(text.len())]);
    let number: Option<c_long> = number.ok().and_then(|number| number.trim().parse().ok());
    // -1 is not a call: a page is on its way, for example.
    let run = [__NR_kvm_run, __NR_kvm_bound_run, libc::SYS_ioctl, -1];
    number.is_some_and(|number| !run.contains(&number))
}

/// The text after a name at the beginning of a line.
fn field<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(name))?;
    Some(str::from_utf8(value).ok()?.trim())
}

/// The beginning of a file.
fn read<'a>(path: &Path, text: &'a mut Text) -> Option<&'a [u8]> {
    let (flags, start) = (libc::O_RDONLY | libc::O_CLOEXEC, path.as_ptr());
    // SAFETY: the path ends with a zero.
    let fd = unsafe { syscall3(libc::SYS_open, start.expose_provenance(), flags as usize, 0) };
    let fd = usize::try_from(fd).ok()?;
    let place = text.as_mut_ptr().expose_provenance();
    // SAFETY: there is room for the text, and nobody else uses the descriptor.
    let length = unsafe {
        let length = syscall3(libc::SYS_read, fd, place, text.len());
        syscall1(libc::SYS_close, fd);
        length
    };
    text.get(..usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::bind::tests::{PATIENCE, until};
    use crate::bind::this_task;

    #[test]
    fn fields_are_found_by_name() {
        let info = b"pos:\t0\nflags:\t02\nkvm-bound-pid:\t71\n";
        assert_eq!(field(info, b"kvm-bound-pid:"), Some("71"));
        assert_eq!(field(info, b"pos:"), Some("0"));
        assert_eq!(field(info, b"pid:"), None);
    }

    #[test]
    fn a_file_that_is_no_vcpu_has_no_owner() {
        for fd in [0, -1, c_int::MAX] {
            assert_eq!(owner(fd), None);
        }
    }

    #[test]
    fn a_run_is_told_from_other_calls() {
        assert!(is_another_call(b"202 0x1 0x80\n"));
        assert!(is_another_call(b"0 0x1\n"));
        for text in ["running\n", "", "-1 0x7f 0x7f\n", "16 0x3\n"] {
            assert!(!is_another_call(text.as_bytes()), "{text}");
        }
        for run in [__NR_kvm_run, __NR_kvm_bound_run] {
            assert!(!is_another_call(format!("{run} 0x3\n").as_bytes()));
        }
    }

    #[test]
    fn a_thread_that_works_is_told_from_one_that_waits() {
        let ends = AtomicBool::new(false);
        let (tell, told) = channel();
        thread::scope(|scope| {
            let (tell, ends) = (&tell, &ends);
            let thread = scope.spawn(move || {
                tell.send(this_task()).unwrap();
                while !ends.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                thread::park_timeout(PATIENCE);
            });
            let task = told.recv().unwrap();
            // It may still be in the call that wakes this thread.
            until(|| !waits_elsewhere(task));
            ends.store(true, Ordering::Relaxed);
            until(|| waits_elsewhere(task));
            thread.thread().unpark();
        });
        assert!(!waits_elsewhere(0));
    }

    #[test]
    fn blocked_signals_are_seen() {
        let usr2 = 1 << (libc::SIGUSR2 - 1);
        assert!(!blocks(this_task(), usr2));
        let _blocked = super::super::signal::Blocked::begin();
        assert!(blocks(this_task(), usr2));
    }
}
