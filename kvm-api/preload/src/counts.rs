//! The numbers of requests that went to calls and to ioctls, in a file that all processes
//! of a program share. The numbers remain, even if a process is killed.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use kvm_sys::{CALLS, Call};

use crate::plan::Plan;

/// The variable with the path of the file of counts, which must exist. Without the
/// variable the library does not count.
pub const COUNTS_VARIABLE: &CStr = c"KVM_PRELOAD_COUNTS";

/// The contents of the file.
#[repr(C)]
struct Shared {
    processes: AtomicU64,
    no_call: AtomicU64,
    /// By the index in [`CALLS`]: the requests that went to the call, and to the ioctl.
    calls: [[AtomicU64; 2]; CALLS.len()],
}

const WORDS: usize = size_of::<Shared>() / size_of::<u64>();

/// The file, mapped for as long as the process lives; null without one.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

/// Maps the file at `path`. On failure `errno` has the reason.
pub(crate) fn attach(path: &CStr) -> bool {
    let size = size_of::<Shared>();
    // SAFETY: the path ends with a zero. The mapping is new, and stays. A file of
    // `Counts::prepare` is long enough.
    let memory = unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let memory = libc::mmap(
            std::ptr::null_mut(),
            size,
            protection,
            libc::MAP_SHARED,
            fd,
            0,
        );
        libc::close(fd);
        memory
    };
    if memory == libc::MAP_FAILED {
        return false;
    }
    SHARED.store(memory.cast(), Ordering::Release);
    true
}

fn shared() -> Option<&'static Shared> {
    // SAFETY: it is null, or the mapping, which stays. All of it is atomic, and any bits
    // are a count.
    unsafe { SHARED.load(Ordering::Acquire).as_ref() }
}

/// Counts a process that uses the library.
pub(crate) fn count_process() {
    if let Some(shared) = shared() {
        shared.processes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a request with its plan.
pub(crate) fn count(plan: Plan) {
    let Some(shared) = shared() else {
        return;
    };
    let (call, way) = match plan {
        Plan::Flat(call) => (call, 0),
        Plan::Ioctl(call) => (call, 1),
        Plan::NoCall => {
            shared.no_call.fetch_add(1, Ordering::Relaxed);
            return;
        }
        Plan::NotKvm => return,
    };
    let place = CALLS.iter().position(|it| it.number == call.number);
    if let Some(pair) = place.and_then(|place| shared.calls.get(place)) {
        pair[way].fetch_add(1, Ordering::Relaxed);
    }
}

/// The counts of a file.
#[derive(Clone, Debug)]
pub struct Counts {
    /// The number of processes that started with the library on a kernel with the calls.
    pub processes: u64,
    /// The number of KVM's requests that no call replaces.
    pub no_call: u64,
    /// The requests that a call replaces.
    pub rows: Vec<Row>,
}

/// The counts of one ioctl.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The call that replaces it.
    pub call: &'static Call,
    /// The number of requests that went to the call.
    pub flat: u64,
    /// The number of requests that went to the ioctl.
    pub ioctl: u64,
}

impl Counts {
    /// Makes a file of counts.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn prepare(path: &Path) -> io::Result<()> {
        fs::write(path, [0; size_of::<Shared>()])
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is no file of counts.
    pub fn read(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        let (words, []) = bytes.as_chunks() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let words: Vec<_> = words.iter().copied().map(u64::from_ne_bytes).collect();
        let Ok::<[_; WORDS], _>([processes, no_call, calls @ ..]) = words.try_into() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let rows = CALLS.iter().zip(calls.as_chunks().0);
        Ok(Self {
            processes,
            no_call,
            rows: rows
                .map(|(call, &[flat, ioctl])| Row { call, flat, ioctl })
                .collect(),
        })
    }

    /// The number of KVM's requests that went to a call.
    #[must_use]
    pub fn flat(&self) -> u64 {
        self.rows.iter().map(|row| row.flat).sum()
    }

    /// The number of KVM's requests that a call replaces.
    #[must_use]
    pub fn replaceable(&self) -> u64 {
        self.rows.iter().map(|row| row.flat + row.ioctl).sum()
    }

    /// The number of KVM's requests.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.no_call + self.replaceable()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    use kvm_sys::FlatCall;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;

    /// One test, since a process counts in one file.
    #[test]
    fn the_file_has_all_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts");
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        assert!(!attach(&name));
        Counts::prepare(&path).unwrap();
        assert!(attach(&name));

        let [run, regs] = [FlatCall::kvm_run, FlatCall::kvm_get_regs].map(FlatCall::row);
        count_process();
        count(Plan::Flat(run));
        count(Plan::Ioctl(regs));
        count(Plan::NoCall);
        count(Plan::NotKvm);
        // SAFETY: the child counts and dies, and does nothing else.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                count(Plan::Flat(run));
                // SAFETY: the process ends at once.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                unreachable!("SIGKILL cannot be caught");
            }
            ForkResult::Parent { child } => {
                let status = waitpid(child, None).unwrap();
                assert!(matches!(status, WaitStatus::Signaled(..)), "{status:?}");
            }
        }

        let counts = Counts::read(&path).unwrap();
        assert_eq!((counts.processes, counts.no_call), (1, 1));
        assert_eq!(
            (counts.flat(), counts.replaceable(), counts.all()),
            (2, 3, 4)
        );
        let row = |call: &Call| {
            let row = counts.rows.iter().find(|row| row.call.name == call.name);
            row.map(|row| (row.flat, row.ioctl)).unwrap()
        };
        assert_eq!((row(run), row(regs)), ((2, 0), (0, 1)));
    }

    #[test]
    fn another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts");
        for content in [&[0; 7][..], &[0; 16]] {
            fs::write(&path, content).unwrap();
            assert!(Counts::read(&path).is_err());
        }
    }
}
