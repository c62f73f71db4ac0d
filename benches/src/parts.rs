//! The parts of a run up to an exit, from user space to user space. An instruction belongs
//! to a part by its function.

use std::collections::BTreeMap;

use profile::fold::{Folded, GUEST};
use serde::{Deserialize, Serialize};

/// A part of the run, in the order of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The instructions that the null system call executes, too.
    Floor,
    /// From user space to KVM's function for the call.
    Entry,
    /// KVM's run loop.
    RunLoop,
    /// The switch between the state of the host and of the guest.
    State,
    /// The instructions of the guest.
    Guest,
    /// From the end of the run to user space.
    Return,
}

/// The class of the colour of each part in the style sheet, and its title.
const NAMES: [(&str, &str); 6] = [
    ("floor", "floor"),
    ("entry", "entry and dispatch"),
    ("run-loop", "KVM's run loop"),
    ("state", "FPU and state switch"),
    ("guest", "guest"),
    ("return", "return to user space"),
];

/// The function that runs a vCPU, by each interface.
const RUN: &str = "kvm_arch_vcpu_ioctl_run";

/// The functions that switch state, including the functions that they call. Linux 6.12 has
/// the two of XSAVE, and Linux 7.3 the three after them instead.
const STATE: [&str; 11] = [
    "fpu_swap_kvm_fpstate",
    "fpregs_assert_state_consistent",
    "vcpu_load",
    "svm_prepare_switch_to_guest",
    "svm_vcpu_enter_exit",
    "kvm_load_guest_xsave_state",
    "kvm_load_host_xsave_state",
    "kvm_load_xfeatures",
    "kvm_load_guest_pkru",
    "kvm_load_host_pkru",
    "x86_virt_spec_ctrl",
];

/// The functions that return to user space, including the functions that they call. In
/// Linux 7.3, `syscall_exit_to_user_mode()` is a part of `do_syscall_64()`.
const RETURN: [&str; 5] = [
    "vcpu_put",
    "kvm_sigset_deactivate",
    "mutex_unlock",
    "syscall_exit_to_user_mode",
    "syscall_return_via_sysret",
];

impl Part {
    /// Each part.
    pub const ALL: [Self; 6] = [
        Self::Floor,
        Self::Entry,
        Self::RunLoop,
        Self::State,
        Self::Guest,
        Self::Return,
    ];

    /// The class of its colour in the style sheet.
    #[must_use]
    pub fn class(self) -> &'static str {
        NAMES[self as usize].0
    }

    /// The title.
    #[must_use]
    pub fn title(self) -> &'static str {
        NAMES[self as usize].1
    }

    /// The rule by which an instruction belongs to the part.
    #[must_use]
    pub fn rule(self) -> String {
        match self {
            Self::Floor => {
                "of each stack of functions, as many instructions as the null system call has in \
                 the same stack"
                    .into()
            }
            Self::Entry => "the instructions of no other part".into(),
            Self::RunLoop => {
                format!("{RUN} and its callees, without the state switch and the guest")
            }
            Self::State => format!("below {RUN}: {}, and their callees", STATE.join(", ")),
            Self::Guest => "from vmrun to the exit".into(),
            Self::Return => format!("beyond the floor: {}, and their callees", RETURN.join(", ")),
        }
    }

    /// The functions by whose names the part is known. No release of Linux has all of
    /// them.
    #[must_use]
    pub fn functions(self) -> &'static [&'static str] {
        match self {
            Self::RunLoop => &[RUN],
            Self::State => &STATE,
            Self::Return => &RETURN,
            Self::Floor | Self::Entry | Self::Guest => &[],
        }
    }

    fn of(stack: &str) -> Self {
        let mut functions = stack.split(';');
        if functions.clone().next_back() == Some(GUEST) {
            Self::Guest
        } else if functions.clone().any(|it| RETURN.contains(&it)) {
            Self::Return
        } else if functions.any(|it| it == RUN) {
            // The rest of the stack are its callees.
            if functions.any(|it| STATE.contains(&it)) {
                Self::State
            } else {
                Self::RunLoop
            }
        } else {
            Self::Entry
        }
    }
}

/// The number of instructions of a profile in each part. `floor` is the profile of the null
/// system call. The sum of the parts is the number of instructions of the profile.
#[must_use]
pub fn parts(stacks: &Folded, floor: &Folded) -> BTreeMap<Part, u64> {
    let mut parts: BTreeMap<_, _> = Part::ALL.into_iter().map(|part| (part, 0)).collect();
    let mut add = |part, count| *parts.entry(part).or_default() += count;
    for (stack, count) in stacks {
        let shared = floor.get(stack).map_or(0, |floor| *floor.min(count));
        add(Part::Floor, shared);
        add(Part::of(stack), count - shared);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(stacks: &[(&str, u64)]) -> Folded {
        let owned = stacks.iter().map(|(stack, n)| ((*stack).to_owned(), *n));
        owned.collect()
    }

    #[test]
    fn each_instruction_belongs_to_one_part() {
        let floor = folded(&[("entry;do", 10), ("entry;do;getppid", 7), ("program", 2)]);
        let run = "entry;do;kvm_arch_vcpu_ioctl_run";
        let stacks = folded(&[
            ("entry;do", 12),
            ("entry;do;ioctl", 5),
            ("entry;do;syscall_exit_to_user_mode;notify", 3),
            ("program", 4),
            (run, 100),
            (&format!("{run};switch_to_guest"), 20),
            (&format!("{run};vcpu_load;load"), 30),
            (&format!("{run};svm_vcpu_enter_exit;guest"), 2),
        ]);
        let parts = parts(&stacks, &floor);
        let found: Vec<_> = parts.iter().map(|(part, count)| (*part, *count)).collect();
        let expected = [
            (Part::Floor, 12),
            (Part::Entry, 9),
            (Part::RunLoop, 120),
            (Part::State, 30),
            (Part::Guest, 2),
            (Part::Return, 3),
        ];
        assert_eq!(found, expected);
        assert_eq!(parts.values().sum::<u64>(), stacks.values().sum::<u64>());
    }
}
