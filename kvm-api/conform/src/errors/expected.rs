//! The expected results of calls.

use std::fmt;

use kvm_sys::FlatCall::*;
use kvm_sys::{Fd, ProcessCall};
use nix::errno::Errno;

use crate::tested_call::TestedCall::{self, Flat, Process};

/// The two routes of a call into KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The ioctl that the call replaces. Where Linux has removed it, the
    /// library's substitute over other ioctls.
    Ioctl,
    /// The system call.
    Flat,
}

impl Route {
    pub const ALL: [Self; 2] = [Self::Ioctl, Self::Flat];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The result of the call without misuse.
    Works,
    /// The call returns this number.
    Gives(i64),
    /// The call fails with this errno.
    Fails(Errno),
    /// A signal kills the caller before the call returns.
    Dies,
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => write!(f, "works"),
            Self::Gives(number) => write!(f, "gives {number}"),
            Self::Fails(errno) => write!(f, "`{errno:?}`"),
            Self::Dies => write!(f, "is killed"),
        }
    }
}

/// The expected results of a misuse, by either route. `None`: the route does
/// not have this misuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub ioctl: Option<Expectation>,
    pub flat: Option<Expectation>,
    /// Why the routes differ, or why one does not have the misuse.
    pub why: &'static str,
}

/// The same result by both routes.
pub const fn both(answer: Expectation) -> Expected {
    Expected::new(Some(answer), Some(answer), "")
}

/// Different results, and why.
pub const fn differs(ioctl: Expectation, flat: Expectation, why: &'static str) -> Expected {
    assert!(!why.is_empty());
    Expected::new(Some(ioctl), Some(flat), why)
}

pub const fn ioctl_only(answer: Expectation, why: &'static str) -> Expected {
    Expected::new(Some(answer), None, why)
}

pub const fn flat_only(answer: Expectation, why: &'static str) -> Expected {
    Expected::new(None, Some(answer), why)
}

/// The call does not have this misuse, because of its signature.
pub const fn nothing(why: &'static str) -> Expected {
    Expected::new(None, None, why)
}

impl Expected {
    const fn new(ioctl: Option<Expectation>, flat: Option<Expectation>, why: &'static str) -> Self {
        Self { ioctl, flat, why }
    }

    pub fn of(&self, route: Route) -> Option<Expectation> {
        match route {
            Route::Ioctl => self.ioctl,
            Route::Flat => self.flat,
        }
    }

    /// The same without one of the routes.
    pub fn but_for(mut self, route: Route, why: &'static str) -> Self {
        match route {
            Route::Ioctl => self.ioctl = None,
            Route::Flat => self.flat = None,
        }
        self.why = why;
        self
    }
}

/// The calls that also take a VM, whereas their ioctls take only `/dev/kvm`.
pub const LISTS: &[TestedCall] = &[Flat(kvm_get_msr_index_list), Flat(kvm_get_vcpu_mmap_size)];

/// The calls whose ioctl the library replaces.
pub const LIBRARY: &[TestedCall] = &[
    Flat(kvm_set_memory_region),
    Flat(kvm_get_memory_alias),
    Flat(kvm_set_memory_alias),
    Process(ProcessCall::kvm_map_memory),
];

/// The calls to which a rule applies.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    All,
    /// The calls that take this kind of file descriptor.
    On(Fd),
    These(&'static [TestedCall]),
}

impl Of {
    /// How specifically the rule names the call, if it applies.
    fn closeness(self, call: TestedCall) -> Option<u8> {
        match self {
            Self::All => Some(0),
            Self::On(fd) => (call.fd == fd).then_some(1),
            Self::These(calls) => calls.contains(&call).then_some(2),
        }
    }
}

/// A row of a table: the expected result of some calls with some misuses.
pub struct Rule<M: 'static>(pub Of, pub &'static [M], pub Expected);

/// The expected result of the call: from the most specific rule that applies.
pub fn look_up<M: Copy + PartialEq + fmt::Debug>(
    rules: &[Rule<M>],
    call: TestedCall,
    misuse: M,
) -> Expected {
    closest(rules, call, misuse).1
}

/// The index of that rule, and its expected result.
fn closest<M: Copy + PartialEq + fmt::Debug>(
    rules: &[Rule<M>],
    call: TestedCall,
    misuse: M,
) -> (usize, Expected) {
    let fitting = rules.iter().enumerate().filter_map(|(place, rule)| {
        let closeness = rule.0.closeness(call)?;
        let applies = rule.1.contains(&misuse);
        applies.then_some((closeness, place, rule.2))
    });
    let mut fitting: Vec<_> = fitting.collect();
    fitting.sort_by_key(|it| it.0);
    let name = call.name;
    let Some(&(closeness, place, expected)) = fitting.last() else {
        panic!("no expected result for {name}: {misuse:?}");
    };
    let ties = fitting.iter().filter(|it| it.0 == closeness).count();
    assert!(ties == 1, "{name}: {misuse:?} has {ties} rules");
    (place, expected)
}

/// Asserts that each misuse of each rule applies to at least one of the calls.
#[cfg(test)]
pub fn each_rule_counts<M: Copy + PartialEq + fmt::Debug>(rules: &[Rule<M>]) {
    for (place, rule) in rules.iter().enumerate() {
        for &misuse in rule.1 {
            let mut calls = TestedCall::all();
            let counts = calls.any(|call| closest(rules, call, misuse).0 == place);
            assert!(counts, "no use: {:?} {misuse:?}", rule.0);
        }
    }
}
