//! The cases of the comparison, by theme.

mod exits;
mod memory;
mod other_thread;
mod registers;
mod snapshot;
mod system;
mod thread_change;
mod vcpu;
mod window;

pub use system::NULL_SYSCALL;

use kvm_api::kvm_sys::FlatCall;

use crate::case::Case;

/// The cases of one call, except `kvm_run`.
const CALLS: [&[Case]; 4] = [system::CALLS, memory::CALLS, registers::CALLS, vcpu::CALLS];

/// The cases of larger work, in the order of the tables.
const WORK: [&[Case]; 7] = [
    exits::LOOPS,
    registers::WORK,
    snapshot::WORK,
    vcpu::WORK,
    window::WORK,
    other_thread::WORK,
    thread_change::WORK,
];

/// Returns each case in the order of the tables: the system call that does nothing, the
/// calls in the order of the proposal, and larger work.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let calls = FlatCall::ALL.into_iter().flat_map(|call| {
        let runs = exits::RUNS
            .iter()
            .filter(move |_| call == FlatCall::kvm_run);
        let calls = CALLS.into_iter().flatten();
        runs.chain(calls.filter(move |case| case.call == Some(call)))
    });
    let floor = [&NULL_SYSCALL].into_iter();
    floor.chain(calls).chain(WORK.into_iter().flatten())
}

/// Returns the case of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Case> {
    all().find(|case| case.name == name)
}

/// Returns the names of the cases that need more than one processor.
#[must_use]
pub fn on_more_processors() -> Vec<String> {
    let cases = all().filter(|case| case.processors > 1);
    cases.map(|case| case.name.into()).collect()
}

/// Whether the case of that name needs another thread.
pub(crate) fn needs_another_thread(name: &str) -> bool {
    let mut cases = other_thread::WORK.iter().chain(thread_change::WORK);
    cases.any(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_case_in_the_order_of_the_table() {
        let mut names: Vec<_> = all()
            .map(|case| match case.name {
                name if name.starts_with("kvm_run_") => "kvm_run",
                name => name,
            })
            .filter(|name| name.starts_with("kvm_"))
            .collect();
        names.dedup();
        let calls = FlatCall::ALL.map(|call| call.name);
        assert_eq!(names, calls);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = all().map(|case| case.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
