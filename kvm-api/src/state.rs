//! The parts of a vCPU's state that one call moves: borrowed, not copied.

use std::fmt;
use std::marker::PhantomData;

use kvm_sys::state::*;
use kvm_sys::{
    Msrs, kvm_debugregs, kvm_fpu, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_vcpu_state, kvm_xcrs,
};

/// Adds one part.
macro_rules! part {
    ([$($mut:tt)?] $verb:literal, $field:ident: $type:ty, $bit:ident, $what:literal) => {
        #[doc = concat!($verb, " ", $what, ", too.")]
        #[must_use]
        #[inline]
        pub fn $field(mut self, $field: &'a $($mut)? $type) -> Self {
            let address: *const $type = $field;
            self.raw.$field = address.expose_provenance() as u64;
            self.raw.parts |= $bit;
            self
        }
    };
}

/// Defines a type that borrows parts. The kernel writes them if `mut` is given.
macro_rules! parts {
    ($(#[doc = $doc:literal])* $name:ident, [$($mut:tt)?] $verb:literal, $msrs:ident) => {
        $(#[doc = $doc])*
        pub struct $name<'a> {
            raw: kvm_vcpu_state,
            borrowed: PhantomData<&'a $($mut)? ()>,
        }

        impl<'a> $name<'a> {
            /// No part.
            #[must_use]
            #[inline]
            pub fn new() -> Self {
                Self {
                    raw: kvm_vcpu_state::default(),
                    borrowed: PhantomData,
                }
            }

            part! { [$($mut)?] $verb, regs: kvm_regs, KVM_STATE_REGS,
                "the general registers, the instruction pointer and the flags" }
            part! { [$($mut)?] $verb, sregs: kvm_sregs, KVM_STATE_SREGS,
                "the segment, descriptor table and control registers" }
            part! { [$($mut)?] $verb, fpu: kvm_fpu, KVM_STATE_FPU,
                "the floating point and SSE registers" }
            part! { [$($mut)?] $verb, debugregs: kvm_debugregs, KVM_STATE_DEBUGREGS,
                "the debug registers" }
            part! { [$($mut)?] $verb, vcpu_events: kvm_vcpu_events, KVM_STATE_VCPU_EVENTS,
                "the pending exceptions and interrupts" }
            part! { [$($mut)?] $verb, xcrs: kvm_xcrs, KVM_STATE_XCRS,
                "the extended control registers" }

            #[doc = concat!($verb, " the MSRs with these indices, too.")]
            #[must_use]
            #[inline]
            pub fn msrs(mut self, msrs: &'a $($mut)? Msrs) -> Self {
                self.raw.msrs = msrs.$msrs().expose_provenance() as u64;
                self.raw.parts |= KVM_STATE_MSRS;
                self
            }

            /// The structure for the kernel.
            #[inline]
            pub(crate) fn raw(&self) -> &kvm_vcpu_state {
                &self.raw
            }
        }

        impl Default for $name<'_> {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.raw.fmt(f)
            }
        }
    };
}

parts! {
    /// The parts of the state of a vCPU into which
    /// [`kvm_get_state`](crate::State::kvm_get_state) reads.
    GetState, [mut] "Reads", as_mut_fam_struct_ptr
}

parts! {
    /// The parts of the state of a vCPU from which
    /// [`kvm_set_state`](crate::State::kvm_set_state) sets.
    SetState, [] "Sets", as_fam_struct_ptr
}
