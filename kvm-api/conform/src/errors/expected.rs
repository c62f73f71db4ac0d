//! What is expected of a call.

use std::fmt;

use kvm_sys::{Call, Fd};
use nix::errno::Errno;

/// The two routes of a call into KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The ioctl that it replaces. Where Linux has removed that, what the
    /// library does instead over other ioctls.
    Ioctl,
    /// The system call.
    Flat,
}

impl Route {
    pub const ALL: [Self; 2] = [Self::Ioctl, Self::Flat];
}

/// What comes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// What the call gives when nothing is wrong.
    Works,
    /// This number.
    Gives(i64),
    /// This errno.
    Fails(Errno),
    /// The caller is killed by the signal that it was sent, and says nothing.
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

/// What is expected of a misuse, by either route. `None` says
/// that the misuse is none there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub ioctl: Option<Expectation>,
    pub flat: Option<Expectation>,
    /// Why one is not as the other, or there is nothing to expect.
    pub why: &'static str,
}

/// The same in both ways.
pub const fn both(answer: Expectation) -> Expected {
    Expected {
        ioctl: Some(answer),
        flat: Some(answer),
        why: "",
    }
}

/// Not the same, and why.
pub const fn differs(ioctl: Expectation, flat: Expectation, why: &'static str) -> Expected {
    assert!(!why.is_empty());
    Expected {
        ioctl: Some(ioctl),
        flat: Some(flat),
        why,
    }
}

/// This misuse is one of the ioctl only.
pub const fn ioctl_only(answer: Expectation, why: &'static str) -> Expected {
    Expected {
        ioctl: Some(answer),
        flat: None,
        why,
    }
}

/// This misuse is one of the system call only.
pub const fn flat_only(answer: Expectation, why: &'static str) -> Expected {
    Expected {
        ioctl: None,
        flat: Some(answer),
        why,
    }
}

/// This misuse is none of the call's, by its signature.
pub const fn nothing(why: &'static str) -> Expected {
    Expected {
        ioctl: None,
        flat: None,
        why,
    }
}

impl Expected {
    pub fn of(&self, route: Route) -> Option<Expectation> {
        match route {
            Route::Ioctl => self.ioctl,
            Route::Flat => self.flat,
        }
    }

    /// The same without one of the ways.
    pub fn but_for(mut self, route: Route, why: &'static str) -> Self {
        match route {
            Route::Ioctl => self.ioctl = None,
            Route::Flat => self.flat = None,
        }
        self.why = why;
        self
    }
}

/// The calls that a rule is for.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    All,
    /// Those that take such a file descriptor.
    On(Fd),
    These(&'static [&'static str]),
}

impl Of {
    /// How closely it names the call, if it does.
    fn closeness(self, call: &Call) -> Option<u8> {
        match self {
            Self::All => Some(0),
            Self::On(fd) => (call.fd == fd).then_some(1),
            Self::These(names) => names.contains(&call.name).then_some(2),
        }
    }
}

/// A row of a table: what is expected of some calls, misused so.
pub struct Rule<M>(pub Of, pub M, pub Expected);

/// What the table expects of the call. Of the rules that fit, the one counts
/// that names the call most closely.
pub fn look_up<M: Copy + PartialEq + fmt::Debug>(
    rules: &[Rule<M>],
    call: &Call,
    misuse: M,
) -> Expected {
    closest(rules, call, misuse).1
}

/// That rule's place in the table, and what it expects.
fn closest<M: Copy + PartialEq + fmt::Debug>(
    rules: &[Rule<M>],
    call: &Call,
    misuse: M,
) -> (usize, Expected) {
    let fitting = rules.iter().enumerate().filter_map(|(place, rule)| {
        let closeness = rule.0.closeness(call)?;
        (rule.1 == misuse).then_some((closeness, place, rule.2))
    });
    let mut fitting: Vec<_> = fitting.collect();
    fitting.sort_by_key(|it| it.0);
    let name = call.name;
    let Some(&(closeness, place, expected)) = fitting.last() else {
        panic!("nothing is expected of {name}: {misuse:?}");
    };
    let ties = fitting.iter().filter(|it| it.0 == closeness).count();
    assert!(ties == 1, "{name}: {misuse:?} has {ties} rules");
    (place, expected)
}

/// Asserts that each rule is of use for one of the calls at least.
#[cfg(test)]
pub fn each_rule_counts<M: Copy + PartialEq + fmt::Debug>(rules: &[Rule<M>], misuses: &[M]) {
    let counts: std::collections::BTreeSet<_> = super::signature::calls()
        .flat_map(|call| misuses.iter().map(move |&misuse| (call, misuse)))
        .map(|(call, misuse)| closest(rules, call, misuse).0)
        .collect();
    for (place, rule) in rules.iter().enumerate() {
        assert!(counts.contains(&place), "no use: {:?} {:?}", rule.0, rule.1);
    }
}
