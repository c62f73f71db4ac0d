//! The cost of a seccomp filter, by its functions.

use profile::Folded;
use profile::fold::BPF;

use super::answer;
use crate::record::Record;
use crate::seccomp::Seccomp;

/// The cost of seccomp for one exit.
pub struct Filtering {
    pub name: String,
    /// The instructions of seccomp for the ioctl, and those of the filter's program.
    pub ioctl: (u64, u64),
    /// The same for the system call.
    pub syscall: (u64, u64),
}

/// The functions below which seccomp does its work: of Linux 6.12, of 7.3, and of both.
const SECCOMP: [&str; 3] = [
    "__secure_computing",
    "__seccomp_permit_syscall",
    "__seccomp_filter",
];

/// The cost of the filter for an exit, if it was recorded.
pub fn filtering(record: &Record) -> Option<Filtering> {
    let mut runs = record.runs.iter();
    let run = runs.find(|run| run.seccomp == Seccomp::Allowlist)?;
    let row = answer::exit(run).or_else(|| run.row("kvm_get_regs"))?;
    let cost = |interface: &str| {
        let stacks = &row.profile(interface)?.stacks;
        Some((below(stacks, &SECCOMP), below(stacks, &[BPF])))
    };
    Some(Filtering {
        name: row.name.clone(),
        ioctl: cost("ioctl")?,
        syscall: cost("syscall")?,
    })
}

fn below(stacks: &Folded, functions: &[&str]) -> u64 {
    let within = |stack: &str| stack.split(';').any(|it| functions.contains(&it));
    let within = stacks.iter().filter(|(stack, _)| within(stack));
    within.map(|(_, count)| count).sum()
}
