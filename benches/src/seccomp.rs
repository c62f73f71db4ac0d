//! The seccomp filter of a VMM for the thread of a vCPU.
//!
//! It has the calls and the order of Firecracker's filter for a vCPU's thread
//! (`resources/seccomp/x86_64-unknown-linux-musl.json`, at 01a3b57933e4), compiled by the
//! same project's `seccompiler`. It allows most calls by their numbers, and ioctls by their
//! commands. This filter also allows the new numbers, the other ioctls of the comparison,
//! after Firecracker's, and the system calls of the comparison's own code.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fmt;

use anyhow::{Context, Result};
use kvm_api::kvm_sys::{
    __NR_kvm_unbind, __NR_kvm_unbind_vm, Fd, KVM_GET_CPUID2, KVM_GET_DEBUGREGS, KVM_GET_LAPIC,
    KVM_GET_MP_STATE, KVM_GET_MSRS, KVM_GET_PIT2, KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_TSC_KHZ,
    KVM_GET_VCPU_EVENTS, KVM_GET_XCRS, KVM_GET_XSAVE, KVM_RUN, KVM_SET_CPUID2, KVM_SET_DEBUGREGS,
    KVM_SET_LAPIC, KVM_SET_MP_STATE, KVM_SET_MSRS, KVM_SET_REGS, KVM_SET_SREGS, KVM_SET_TSC_KHZ,
    KVM_SET_VCPU_EVENTS, KVM_SET_XCRS, KVM_SET_XSAVE, calls,
};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use serde::{Deserialize, Serialize};

/// The seccomp filter of the measured thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// No filter.
    None,
    /// The list of allowed system calls for the thread of a vCPU.
    Allowlist,
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Allowlist => "allowlist",
        })
    }
}

/// The calls that are allowed with any arguments.
const CALLS_ALLOWED: [i64; 14] = [
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_write,
    libc::SYS_open,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_sched_yield,
];

/// The calls that the comparison also makes: it opens and reads the files of a vCPU, and
/// makes the null system call. glibc allocates with mprotect(), unlike Firecracker's musl.
/// Rust checks with fcntl() that a descriptor is open before it closes it.
const CALLS_ADDED: [i64; 5] = [
    libc::SYS_openat,
    libc::SYS_read,
    libc::SYS_getppid,
    libc::SYS_mprotect,
    libc::SYS_fcntl,
];

/// The calls that are allowed with this value of this argument.
const WITH_ARGUMENT: [(i64, u8, u64); 10] = [
    (libc::SYS_futex, 1, libc::FUTEX_WAIT as u64),
    (libc::SYS_futex, 1, libc::FUTEX_WAKE as u64),
    (libc::SYS_futex, 1, (libc::FUTEX_WAIT | PRIVATE) as u64),
    (
        libc::SYS_futex,
        1,
        (libc::FUTEX_WAIT_BITSET | PRIVATE) as u64,
    ),
    (libc::SYS_futex, 1, (libc::FUTEX_WAKE | PRIVATE) as u64),
    (libc::SYS_madvise, 2, libc::MADV_DONTNEED as u64),
    (libc::SYS_mmap, 3, libc::MAP_SHARED as u64),
    (libc::SYS_rt_sigaction, 0, libc::SIGABRT as u64),
    (libc::SYS_timerfd_settime, 1, 0),
    (libc::SYS_tkill, 1, libc::SIGABRT as u64),
];

/// The same for the comparison: the ioctl backend does not unmap a guest's memory, but maps
/// an inaccessible area in its place.
const WITH_ARGUMENT_ADDED: [(i64, u8, u64); 1] = {
    let nothing = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    [(libc::SYS_mmap, 3, (nothing | libc::MAP_FIXED) as u64)]
};

const PRIVATE: i32 = libc::FUTEX_PRIVATE_FLAG;

/// The commands of ioctl(), in the order of Firecracker.
const COMMANDS: [u64; 24] = [
    KVM_RUN,
    KVM_GET_MP_STATE,
    KVM_SET_MP_STATE,
    KVM_GET_VCPU_EVENTS,
    KVM_SET_VCPU_EVENTS,
    KVM_GET_LAPIC,
    KVM_GET_SREGS,
    KVM_SET_CPUID2,
    KVM_SET_LAPIC,
    KVM_SET_MSRS,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_GET_PIT2,
    KVM_GET_REGS,
    KVM_GET_MSRS,
    KVM_GET_CPUID2,
    KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,
    KVM_GET_XSAVE,
    KVM_SET_XSAVE,
    KVM_GET_XCRS,
    KVM_SET_XCRS,
    KVM_SET_TSC_KHZ,
    KVM_GET_TSC_KHZ,
];

/// Installs the filter on the calling thread. Other system calls of the thread then end the
/// process by SIGSYS.
///
/// # Errors
///
/// If the kernel rejects the filter.
pub fn confine() -> Result<()> {
    let program: BpfProgram = filter()?.try_into()?;
    seccompiler::apply_filter(&program).context("the filter of system calls")
}

fn filter() -> Result<SeccompFilter> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let of_vcpus = || calls().filter(|call| call.fd == Fd::Vcpu);
    let new_numbers = of_vcpus().flat_map(|call| [Some(call.number), call.bound]);
    for number in CALLS_ALLOWED
        .into_iter()
        .chain(CALLS_ADDED)
        .chain(new_numbers.flatten())
        .chain([__NR_kvm_unbind, __NR_kvm_unbind_vm])
    {
        // A call without a rule is allowed unconditionally.
        rules.insert(number, Vec::new());
    }
    let others = of_vcpus().filter_map(|call| call.request);
    let others = others.filter(|request| !COMMANDS.contains(request));
    let commands = COMMANDS.into_iter().chain(others);
    let commands = commands.map(|command| (libc::SYS_ioctl, 1, command));
    let conditions = WITH_ARGUMENT
        .into_iter()
        .chain(commands)
        .chain(WITH_ARGUMENT_ADDED);
    for (number, index, value) in conditions {
        let condition =
            SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        let rule = SeccompRule::new(vec![condition])?;
        rules.entry(number).or_default().push(rule);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        ARCH.try_into()?,
    )?;
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// The commands in Firecracker's list.
    const PUBLISHED: [u64; 24] = [
        44672, 2147790488, 1074048665, 2151722655, 1077980832, 2214637198, 2167975555, 1074310800,
        1140895375, 1074310793, 1083223682, 1094233732, 2154868383, 2156965505, 3221794440,
        3221794449, 2155916961, 1082175138, 2415963812, 1342221989, 2173218470, 1099476647, 44706,
        44707,
    ];

    #[test]
    fn the_commands_match_the_published_filter() {
        assert_eq!(COMMANDS, PUBLISHED);
    }

    #[test]
    fn a_listed_call_is_allowed() {
        let answer = thread::spawn(|| {
            confine().unwrap();
            // SAFETY: there is no such fd.
            unsafe { libc::ioctl(-1, KVM_RUN as _) }
        });
        assert_eq!(answer.join().unwrap(), -1);
    }

    #[test]
    fn an_unlisted_call_traps() {
        use nix::sys::signal::Signal;
        use nix::sys::wait::{WaitStatus, waitpid};
        use nix::unistd::{ForkResult, fork};

        // SAFETY: the child only makes system calls.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                if confine().is_ok() {
                    // SAFETY: there is no such fd.
                    unsafe { libc::ioctl(-1, libc::TIOCSTI) };
                }
                // SAFETY: the child has nothing to clean up.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                let status = waitpid(child, None).unwrap();
                assert!(
                    matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
                    "{status:?}"
                );
            }
        }
    }
}
