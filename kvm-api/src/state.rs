//! The parts of a vCPU's state that one call moves: borrowed, not copied.

use std::fmt;
use std::marker::PhantomData;
use std::slice;

use kvm_sys::state::*;
use kvm_sys::{
    CpuId, KvmNestedStateBuffer, Msrs, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state,
    kvm_regs, kvm_sregs, kvm_sregs2, kvm_state_xsave, kvm_vcpu_events, kvm_vcpu_state, kvm_xcrs,
};

/// The area of XSAVE: the state of the FPU, the vector units and the tile unit.
#[derive(Clone, PartialEq, Eq)]
pub struct XsaveArea {
    /// The header in the first word, then the data.
    words: Vec<u64>,
}

impl XsaveArea {
    /// An empty area. `KVM_CAP_XSAVE2` of the VM gives a size in bytes that is enough.
    ///
    /// # Panics
    ///
    /// The size has more than 32 bits.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let mut area = Self {
            words: vec![0; 1 + size.div_ceil(size_of::<u64>())],
        };
        area.set_size(size.try_into().expect("a size in 32 bits"));
        area
    }

    /// The size of the data: of the room, and of what a call has read.
    #[must_use]
    pub fn size(&self) -> usize {
        self.words[0] as u32 as usize
    }

    fn set_size(&mut self, size: u32) {
        self.words[0] = size.into();
    }

    /// The data, in words. The last one may have bytes beyond the size.
    #[must_use]
    pub fn data(&self) -> &[u64] {
        &self.words[1..]
    }

    /// The data, in words.
    pub fn data_mut(&mut self) -> &mut [u64] {
        &mut self.words[1..]
    }

    /// The data, in bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the words are after the header, and at least as long.
        unsafe { slice::from_raw_parts(self.data().as_ptr().cast(), self.size()) }
    }

    /// The data, in bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let (data, size) = (self.data_mut().as_mut_ptr().cast(), self.size());
        // SAFETY: as above, and borrowed for that.
        unsafe { slice::from_raw_parts_mut(data, size) }
    }

    fn as_ptr(&self) -> *const kvm_state_xsave {
        self.words.as_ptr().cast()
    }

    fn as_mut_ptr(&mut self) -> *mut kvm_state_xsave {
        self.words.as_mut_ptr().cast()
    }
}

impl fmt::Debug for XsaveArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XsaveArea")
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

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

/// Adds one part that a type of its own has the address of.
macro_rules! sized_part {
    ([$($mut:tt)?] $verb:literal, $field:ident: $type:ty, $address:ident, $bit:ident,
     $what:literal) => {
        #[doc = concat!($verb, " ", $what, ", too.")]
        #[must_use]
        #[inline]
        pub fn $field(mut self, $field: &'a $($mut)? $type) -> Self {
            self.raw.$field = $field.$address().expose_provenance() as u64;
            self.raw.parts |= $bit;
            self
        }
    };
}

/// Defines a type that borrows parts. The kernel writes them if `mut` is given.
macro_rules! parts {
    ($(#[doc = $doc:literal])* $name:ident, [$($mut:tt)?] $verb:literal, $list:ident, $area:ident) => {
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

            part! { [$($mut)?] $verb, sregs2: kvm_sregs2, KVM_STATE_SREGS2,
                "the special registers with the PDPTRs; not together with `sregs`" }
            part! { [$($mut)?] $verb, lapic: kvm_lapic_state, KVM_STATE_LAPIC,
                "the registers of the local APIC" }
            part! { [$($mut)?] $verb, mp_state: kvm_mp_state, KVM_STATE_MP_STATE,
                "the multiprocessing state" }
            part! { [$($mut)?] $verb, nested_state: KvmNestedStateBuffer, KVM_STATE_NESTED_STATE,
                "the state of nested virtualization; set only before the vCPU has run" }
            part! { [$($mut)?] $verb, tsc_khz: u32, KVM_STATE_TSC_KHZ,
                "the frequency of the TSC in kHz" }
            part! { [$($mut)?] $verb, tsc_offset: u64, KVM_STATE_TSC_OFFSET,
                "the offset of the TSC from the host's" }
            sized_part! { [$($mut)?] $verb, msrs: Msrs, $list, KVM_STATE_MSRS,
                "the MSRs with these indices" }
            sized_part! { [$($mut)?] $verb, cpuid: CpuId, $list, KVM_STATE_CPUID,
                "the CPUID that the guest sees" }
            sized_part! { [$($mut)?] $verb, xsave: XsaveArea, $area, KVM_STATE_XSAVE,
                "the area of XSAVE" }

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
    GetState, [mut] "Reads", as_mut_fam_struct_ptr, as_mut_ptr
}

parts! {
    /// The parts of the state of a vCPU from which
    /// [`kvm_set_state`](crate::State::kvm_set_state) sets.
    SetState, [] "Sets", as_fam_struct_ptr, as_ptr
}
