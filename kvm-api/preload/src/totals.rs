//! The counts, line by line.

use std::fs;
use std::io;
use std::path::Path;

use kvm_sys::REQUESTS;

use crate::bindings::{Bindings, Event};
use crate::counts::{COUNTS, OF_ROUTES, Shared, get};
use crate::outcome::Outcome;
use crate::table::ROUTES;

/// A count: how often a request went somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The name of the request, or "another" for a request that has no name here.
    pub request: &'static str,
    /// The name of the call, if the request has one.
    pub call: Option<&'static str>,
    /// Where it went.
    pub outcome: Outcome,
    /// How often.
    pub count: u64,
}

fn line(index: usize, count: u64) -> Line {
    if index < OF_ROUTES {
        let outcomes = Outcome::OF_ROUTES.len();
        let route = ROUTES.get(index / outcomes);
        return Line {
            request: route.map_or("", |route| route.name),
            call: route.map(|route| route.call.name),
            outcome: Outcome::OF_ROUTES[index % outcomes],
            count,
        };
    }
    let name = REQUESTS.get(index - OF_ROUTES).map(|(name, _)| *name);
    Line {
        request: name.unwrap_or("another"),
        call: None,
        outcome: Outcome::NoCall,
        count,
    }
}

/// The counted lines, the most frequent first, without memory for them.
pub(crate) fn sorted() -> impl Iterator<Item = Line> {
    // Another thread may still count. A line that overtakes another one then is left out
    // or comes twice.
    let mut last = (u64::MAX, 0);
    std::iter::from_fn(move || {
        let lines = (0..COUNTS).map(|index| (get(index), index));
        let later = lines.filter(|&(count, index)| {
            count > 0 && (count < last.0 || count == last.0 && index > last.1)
        });
        last = later.max_by_key(|&(count, index)| (count, std::cmp::Reverse(index)))?;
        Some(line(last.1, last.0))
    })
}

/// The counts of a file.
#[derive(Clone, Debug)]
pub struct Counts {
    /// The number of processes that started with the library on a kernel with the calls.
    pub processes: u64,
    /// How often vCPUs were bound and unbound.
    pub bindings: Bindings,
    /// The counts that are not 0.
    pub lines: Vec<Line>,
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
        if bytes.len() != size_of::<Shared>() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let words = bytes.as_chunks().0.iter().copied();
        let mut words = words.map(u64::from_ne_bytes);
        let processes = words.next().unwrap_or_default();
        let bindings = Bindings([(); Event::COUNT].map(|()| words.next().unwrap_or_default()));
        let counted = words.enumerate().filter(|(_, count)| *count > 0);
        Ok(Self {
            processes,
            bindings,
            lines: counted.map(|(index, count)| line(index, count)).collect(),
        })
    }

    fn sum(&self, of: impl Fn(&Line) -> bool) -> u64 {
        let lines = self.lines.iter().filter(|line| of(line));
        lines.map(|line| line.count).sum()
    }

    /// The number of KVM's requests that went to a call.
    #[must_use]
    pub fn flat(&self) -> u64 {
        self.sum(|line| line.outcome.is_call())
    }

    /// The number of KVM's requests that a call replaces.
    #[must_use]
    pub fn replaceable(&self) -> u64 {
        self.sum(|line| line.call.is_some())
    }

    /// The number of KVM's requests.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.sum(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    use kvm_sys::{KVM_GET_API_VERSION, KVM_GET_REGS, KVM_RUN};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;
    use crate::counts::{attach, attach_own, count, count_event, count_other, count_process};
    use crate::route::Route;
    use crate::table::route;

    fn of(request: u64) -> &'static Route {
        route(request as u32).unwrap()
    }

    /// One test, since a process counts in one file.
    #[test]
    fn the_file_has_all_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts");
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        assert!(!attach(&name));
        Counts::prepare(&path).unwrap();
        assert!(attach(&name));
        // The file stays.
        assert!(attach_own());

        let [run, regs] = [KVM_RUN, KVM_GET_REGS].map(of);
        count_process();
        count(run, Outcome::HandedOver);
        count(regs, Outcome::Refused);
        count_other(KVM_GET_API_VERSION as u32);
        count_other(0xaeff);
        count_event(Event::Waited);
        // SAFETY: the child counts and dies, and does nothing else.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                count(run, Outcome::HandedOver);
                // SAFETY: the process ends at once.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                unreachable!("SIGKILL cannot be caught");
            }
            ForkResult::Parent { child } => {
                let status = waitpid(child, None).unwrap();
                assert!(matches!(status, WaitStatus::Signaled(..)), "{status:?}");
            }
        }

        let line = |request, call, outcome, count| Line {
            request,
            call,
            outcome,
            count,
        };
        let expected = [
            line("KVM_RUN", Some("kvm_run"), Outcome::HandedOver, 2),
            line("KVM_GET_REGS", Some("kvm_get_regs"), Outcome::Refused, 1),
            line("KVM_GET_API_VERSION", None, Outcome::NoCall, 1),
            line("another", None, Outcome::NoCall, 1),
        ];
        let counts = Counts::read(&path).unwrap();
        assert_eq!((counts.processes, &counts.lines[..]), (1, &expected[..]));
        assert_eq!(counts.bindings.0, [0, 0, 0, 0, 0, 1]);
        assert_eq!(
            (counts.flat(), counts.replaceable(), counts.all()),
            (2, 3, 5)
        );
        assert_eq!(sorted().collect::<Vec<_>>(), expected);
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

    #[test]
    fn each_count_has_a_line_of_its_own() {
        let of_routes = ROUTES.len() * Outcome::OF_ROUTES.len();
        let lines: Vec<_> = (0..of_routes).chain(OF_ROUTES..COUNTS).collect();
        let lines: Vec<_> = lines.into_iter().map(|index| line(index, 0)).collect();
        for (index, one) in lines.iter().enumerate() {
            assert!(!one.request.is_empty());
            assert!(!lines[..index].contains(one), "{one:?}");
        }
    }
}
