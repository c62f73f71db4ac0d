//! The calls of the merged form: any parts of a vCPU's state in one crossing.

// The kernel's names are kept.
#![allow(non_upper_case_globals)]

use libc::c_long;
use nix::errno::Errno::*;

use crate::call::calls;
use crate::structs::*;

calls! {
    /// The calls of the merged form.
    static MERGED_CALLS;
    /// A call of the merged form.
    enum MergedCall;

    /// Reads any parts of a vCPU's state.
    kvm_get_state: __NR_kvm_get_state = 624 ("int fd, struct kvm_vcpu_state *state, size_t size") on Vcpu {
        bound __NR_kvm_bound_get_state = 646;
        passes kvm_vcpu_state;
        errors EINVAL E2BIG;
        note "gives the number of MSRs read; fewer than asked for: nothing was written";
    }

    /// Sets any parts of a vCPU's state: all, or nothing.
    kvm_set_state: __NR_kvm_set_state = 625 ("int fd, const struct kvm_vcpu_state *state, size_t size") on Vcpu {
        bound __NR_kvm_bound_set_state = 647;
        passes kvm_vcpu_state;
        errors EINVAL E2BIG EOPNOTSUPP;
        note "gives the number of MSRs set; fewer than asked for: nothing was set; EOPNOTSUPP: a write to an MSR acts, and may fail";
    }
}
