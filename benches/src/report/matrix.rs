//! What a filter of system calls costs, by the functions that it is made of.

use profile::Folded;
use profile::fold::BPF;

use super::answer;
use crate::record::Record;
use crate::seccomp::Seccomp;

/// What seccomp takes of one exit.
pub struct Filtering {
    /// The case that it was found in.
    pub name: String,
    /// Of the ioctl: all of it, and the filter's own program.
    pub ioctl: (u64, u64),
    /// Of the system call, likewise.
    pub syscall: (u64, u64),
}

/// The functions below which all that is seccomp's happens.
const SECCOMP: &str = "__secure_computing";

/// What the filter costs an exit, if that was recorded.
pub fn filtering(record: &Record) -> Option<Filtering> {
    let run = record
        .runs
        .iter()
        .find(|run| run.seccomp == Seccomp::Allowlist)?;
    let row = answer::exit(run).or_else(|| run.row("kvm_get_regs"))?;
    let cost = |interface: &str| {
        let stacks = &row.figures.get(interface)?.profile.as_ref()?.stacks;
        let all = below(stacks, &[SECCOMP, "__seccomp_filter"]);
        Some((all, below(stacks, &[BPF])))
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
