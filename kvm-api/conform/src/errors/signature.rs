//! The arguments of calls, by either route: the parameters of the system call, and the
//! fields of the structures.

use std::mem::{offset_of, size_of};

use kvm_sys::*;

use super::expected::Route;
use crate::parameters::Parameter;
use crate::tested_call::TestedCall;

/// The place of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a register. Register 0 is the file descriptor.
    Word(usize),
    /// In the structure, at this offset.
    Field(usize),
}

/// How the kernel uses the memory behind a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Read,
    Written,
    /// The kernel reads it, then writes it.
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fd,
    /// A number, and its size in bytes.
    Number(usize),
    Pointer(Use),
}

/// An argument of a call. Its name is that in the system call.
#[derive(Clone, Copy, Debug)]
pub struct Argument {
    pub name: &'static str,
    pub place: Place,
    pub kind: Kind,
}

impl Argument {
    /// The size in bytes of an argument in a structure.
    pub fn bytes(&self) -> usize {
        match self.kind {
            Kind::Number(bytes) => bytes,
            Kind::Pointer(_) | Kind::Fd => 8,
        }
    }
}

/// The arguments of the call, by this route.
pub fn arguments(call: TestedCall, route: Route) -> Vec<Argument> {
    let flat = Parameter::of(&call).enumerate();
    let flat: Vec<_> = flat
        .map(|(word, parameter)| Argument {
            name: parameter.name,
            place: Place::Word(word),
            kind: kind(call, &parameter),
        })
        .collect();
    let mut arguments = match (route, call.request) {
        (Route::Ioctl, Some(request)) => requested(call, request, &flat),
        _ => flat,
    };
    let passes = arguments.iter().any(|it| it.name == structure(call));
    if passes || (route == Route::Ioctl && call.structure.is_some()) {
        arguments.extend(fields(call));
    }
    arguments
}

/// The arguments of some kind, by either route, each once.
pub fn arguments_of<T>(
    call: TestedCall,
    kind: impl Fn(Kind) -> Option<T>,
) -> Vec<(&'static str, T)> {
    let mut found: Vec<(&str, T)> = Vec::new();
    let routes = [Route::Flat, Route::Ioctl];
    for argument in routes.into_iter().flat_map(|route| arguments(call, route)) {
        if let Some(kind) = kind(argument.kind)
            && found.iter().all(|(name, _)| *name != argument.name)
        {
            found.push((argument.name, kind));
        }
    }
    found
}

/// The name of the argument that points to the structure.
fn structure(call: TestedCall) -> &'static str {
    let Some(structure) = call.structure else {
        return "";
    };
    let passed = Parameter::of(&call).find(|it| it.target() == Some(structure.name));
    passed.map_or(structure.name, |it| it.name)
}

fn kind(call: TestedCall, parameter: &Parameter) -> Kind {
    let Some(target) = parameter.target() else {
        return parameter.bytes().map_or(Kind::Fd, Kind::Number);
    };
    // The kernel reads any structure that the ioctl reads. It does not write to
    // kvm_vcpu_state, which contains pointers.
    let is_read_too = parameter.is_structure() && call.request.is_none_or(is_read);
    Kind::Pointer(if parameter.is_const() || target == "kvm_vcpu_state" {
        Use::Read
    } else if is_read_too {
        Use::Both
    } else {
        Use::Written
    })
}

/// Whether the request says that the kernel reads the structure.
fn is_read(request: libc::c_ulong) -> bool {
    request >> 30 & 1 != 0
}

/// Whether it says that the kernel writes it.
fn is_written(request: libc::c_ulong) -> bool {
    request >> 30 & 2 != 0
}

/// The arguments of the ioctl: a descriptor, and a pointer or a number.
fn requested(call: TestedCall, request: libc::c_ulong, flat: &[Argument]) -> Vec<Argument> {
    let argument = |word, name, kind| Argument {
        name,
        place: Place::Word(word),
        kind,
    };
    let fd = argument(0, "fd", Kind::Fd);
    if call.structure.is_none() {
        // The proposal has no name for an argument that only the ioctl has.
        let name = flat.get(1).map_or("argument", |it| it.name);
        let number = Kind::Number(size_of::<libc::c_ulong>());
        return vec![fd, argument(1, name, number)];
    }
    let name = structure(call);
    let declared = flat.iter().find(|it| it.name == name);
    let usage = match (is_read(request), is_written(request)) {
        (true, true) => Use::Both,
        (true, false) => Use::Read,
        _ => Use::Written,
    };
    let kind = declared.map_or(Kind::Pointer(usage), |it| it.kind);
    vec![fd, argument(1, name, kind)]
}

/// The numbers and the pointers within structures that the kernel checks.
fn fields(call: TestedCall) -> Vec<Argument> {
    macro_rules! numbers {
        ($structure:ty: $($field:ident)+) => {
            vec![$({
                let bytes = |it: $structure| size_of_val(&{ it.$field });
                Argument {
                    name: stringify!($field),
                    place: Place::Field(offset_of!($structure, $field)),
                    kind: Kind::Number(bytes(<$structure>::default())),
                }
            }),+]
        };
    }
    let pointer = |name, offset, usage| Argument {
        name,
        place: Place::Field(offset),
        kind: Kind::Pointer(usage),
    };
    let state = |usage| {
        let mut fields = numbers!(kvm_vcpu_state: parts);
        // The matrix covers these parts only: the others have sizes of their own, or need a
        // local APIC.
        for (name, offset) in [
            ("state->regs", offset_of!(kvm_vcpu_state, regs)),
            ("state->sregs2", offset_of!(kvm_vcpu_state, sregs2)),
            ("state->mp_state", offset_of!(kvm_vcpu_state, mp_state)),
            ("state->tsc_khz", offset_of!(kvm_vcpu_state, tsc_khz)),
            ("state->tsc_offset", offset_of!(kvm_vcpu_state, tsc_offset)),
        ] {
            fields.push(pointer(name, offset, usage));
        }
        fields
    };
    use FlatCall::*;
    use TestedCall::*;
    match call {
        Merged(MergedCall::kvm_get_state) => state(Use::Written),
        Merged(MergedCall::kvm_set_state) => state(Use::Read),
        Flat(kvm_get_msr_index_list) => numbers!(kvm_msr_list: nmsrs),
        Flat(kvm_get_dirty_log) => {
            let mut fields = numbers!(kvm_dirty_log: slot);
            let bitmap = offset_of!(kvm_dirty_log, __bindgen_anon_1);
            fields.push(pointer("dirty_bitmap", bitmap, Use::Written));
            fields
        }
        Flat(kvm_get_memory_alias) => numbers!(kvm_memory_alias: slot),
        Flat(kvm_set_memory_alias) => {
            numbers!(kvm_memory_alias: slot flags guest_phys_addr memory_size target_phys_addr)
        }
        Flat(kvm_translate) => numbers!(kvm_translation: linear_address),
        Flat(FlatCall::kvm_interrupt) => numbers!(kvm_sys::kvm_interrupt: irq),
        Flat(kvm_debug_guest) => numbers!(kvm_guest_debug: control),
        Flat(kvm_get_msrs | kvm_set_msrs) => numbers!(kvm_msrs: nmsrs),
        Flat(kvm_set_cpuid) => numbers!(kvm_cpuid2: nent),
        Flat(kvm_set_signal_mask) => numbers!(kvm_signal_mask: len),
        Flat(kvm_set_user_memory_region) => {
            let mut fields = numbers!(kvm_userspace_memory_region:
                slot flags guest_phys_addr memory_size userspace_addr);
            // The system call has another name for it.
            fields[3].name = "size";
            fields
        }
        Range(RangeCall::kvm_map_range) => {
            let mut fields = numbers!(kvm_userspace_memory_region2:
                slot flags guest_phys_addr memory_size userspace_addr guest_memfd_offset
                guest_memfd pad1);
            // As in the other calls on ranges.
            fields[3].name = "size";
            fields
        }
        // The kernel checks no field, or there is no structure.
        Flat(
            kvm_create_vm
            | kvm_get_vcpu_mmap_size
            | kvm_set_memory_region
            | kvm_create_vcpu
            | FlatCall::kvm_run
            | kvm_get_regs
            | kvm_set_regs
            | kvm_get_sregs
            | kvm_set_sregs
            | kvm_get_fpu
            | kvm_set_fpu
            | kvm_check_extension,
        )
        | Range(
            RangeCall::kvm_unmap_range
            | RangeCall::kvm_get_dirty_range
            | RangeCall::kvm_clear_dirty_range
            | RangeCall::kvm_protect_range
            | RangeCall::kvm_set_memory_attributes,
        )
        | Binding(_)
        | Process(_) => Vec::new(),
    }
}
