//! The arguments of calls, by either route: from the table of kvm-sys, and the
//! fields of the structures.

use std::mem::{offset_of, size_of};

use kvm_sys::*;

use super::expected::Route;

/// Maps memory that the kernel has allocated: by mmap() of the virtual
/// machine's descriptor, not by a call of its own.
pub static MAP: Call = Call {
    name: "kvm_map_memory",
    number: libc::SYS_mmap,
    parameters: "int fd, __u64 guest_phys_addr, __u64 size",
    bound: None,
    merged: None,
    file: None,
    range: None,
    fd: Fd::Vm,
    ioctl: "",
    request: None,
    structure: None,
    errors: &[],
    note: "",
};

/// The calls of the matrix.
pub fn calls() -> impl Iterator<Item = &'static Call> {
    CALLS.iter().chain([&MAP]).chain(forms())
}

/// The calls without an equivalent ioctl.
fn forms() -> impl Iterator<Item = &'static Call> {
    MERGED_CALLS.iter().chain(&RANGE_CALLS)
}

/// Whether an ioctl, or several, do the same.
pub fn has_ioctl(call: &Call) -> bool {
    forms().all(|form| form.number != call.number)
}

/// Whether the library makes up for an ioctl that Linux does not have.
pub fn by_library(call: &Call) -> bool {
    call.request.is_none()
}

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

/// The arguments of the call, by this route.
pub fn arguments(call: &'static Call, route: Route) -> Vec<Argument> {
    let flat = parameters(call);
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

/// The name of the argument that points to the structure.
fn structure(call: &'static Call) -> &'static str {
    let Some(structure) = call.structure else {
        return "";
    };
    let declared = call
        .parameters
        .split(", ")
        .find(|text| text.contains(&format!("struct {} ", structure.name)));
    declared.map_or(structure.name, name)
}

/// The last word of a declaration.
fn name(declaration: &'static str) -> &'static str {
    let end = declaration.rsplit([' ', '*']).next();
    end.expect("a split string has an end")
}

/// The system call's parameters.
fn parameters(call: &'static Call) -> Vec<Argument> {
    if call.parameters == "void" {
        return Vec::new();
    }
    let argument = |(word, text): (usize, &'static str)| Argument {
        name: name(text),
        place: Place::Word(word),
        kind: kind(call, word, text),
    };
    call.parameters
        .split(", ")
        .enumerate()
        .map(argument)
        .collect()
}

fn kind(call: &Call, word: usize, text: &str) -> Kind {
    if text.contains("struct kvm_vcpu_state ") {
        // It contains pointers, and the kernel does not write to it.
        return Kind::Pointer(Use::Read);
    }
    if text.contains('*') {
        // The kernel reads what is declared const, and any structure that the
        // ioctl reads.
        let read = || call.request.is_none_or(is_read) && text.contains("struct");
        return Kind::Pointer(if text.starts_with("const ") {
            Use::Read
        } else if read() {
            Use::Both
        } else {
            Use::Written
        });
    }
    if word == 0 {
        return Kind::Fd;
    }
    let (declared, _) = text.rsplit_once(' ').expect("a type and a name");
    Kind::Number(match declared {
        "unsigned int" | "__u32" => 4,
        "unsigned long" | "__u64" | "size_t" => 8,
        other => panic!("{}: what is {other}?", call.name),
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
fn requested(call: &'static Call, request: libc::c_ulong, flat: &[Argument]) -> Vec<Argument> {
    let fd = Argument {
        name: "fd",
        place: Place::Word(0),
        kind: Kind::Fd,
    };
    let (name, kind) = match call.structure {
        None => (
            // The proposal does not have this argument, and so has no name for
            // it.
            flat.get(1).map_or("argument", |it| it.name),
            Kind::Number(size_of::<libc::c_ulong>()),
        ),
        Some(_) => {
            let name = structure(call);
            let declared = flat.iter().find(|it| it.name == name);
            let usage = match (is_read(request), is_written(request)) {
                (true, true) => Use::Both,
                (true, false) => Use::Read,
                _ => Use::Written,
            };
            let kind = declared.map_or(Kind::Pointer(usage), |it| it.kind);
            (name, kind)
        }
    };
    let place = Place::Word(1);
    vec![fd, Argument { name, place, kind }]
}

/// The numbers and the pointers within structures that the kernel checks.
fn fields(call: &Call) -> Vec<Argument> {
    let number = |name, offset, bytes| Argument {
        name,
        place: Place::Field(offset),
        kind: Kind::Number(bytes),
    };
    macro_rules! at {
        ($structure:ident . $field:ident as $name:literal) => {{
            let bytes = |it: $structure| size_of_val(&{ it.$field });
            let bytes = bytes(<$structure>::default());
            number($name, offset_of!($structure, $field), bytes)
        }};
    }
    // The matrix covers the registers only.
    let state = |usage| {
        vec![
            at!(kvm_vcpu_state.parts as "parts"),
            Argument {
                name: "state->regs",
                place: Place::Field(offset_of!(kvm_vcpu_state, regs)),
                kind: Kind::Pointer(usage),
            },
        ]
    };
    match call.name {
        "kvm_get_state" => state(Use::Written),
        "kvm_set_state" => state(Use::Read),
        "kvm_get_msr_index_list" => vec![at!(kvm_msr_list.nmsrs as "nmsrs")],
        "kvm_get_dirty_log" => vec![
            at!(kvm_dirty_log.slot as "slot"),
            Argument {
                name: "dirty_bitmap",
                place: Place::Field(offset_of!(kvm_dirty_log, __bindgen_anon_1)),
                kind: Kind::Pointer(Use::Written),
            },
        ],
        "kvm_get_memory_alias" => vec![at!(kvm_memory_alias.slot as "slot")],
        "kvm_set_memory_alias" => vec![
            at!(kvm_memory_alias.slot as "slot"),
            at!(kvm_memory_alias.flags as "flags"),
            at!(kvm_memory_alias.guest_phys_addr as "guest_phys_addr"),
            at!(kvm_memory_alias.memory_size as "memory_size"),
            at!(kvm_memory_alias.target_phys_addr as "target_phys_addr"),
        ],
        "kvm_translate" => vec![at!(kvm_translation.linear_address as "linear_address")],
        "kvm_interrupt" => vec![at!(kvm_interrupt.irq as "irq")],
        "kvm_debug_guest" => vec![at!(kvm_guest_debug.control as "control")],
        "kvm_get_msrs" | "kvm_set_msrs" => vec![at!(kvm_msrs.nmsrs as "nmsrs")],
        "kvm_set_cpuid" => vec![at!(kvm_cpuid2.nent as "nent")],
        "kvm_set_signal_mask" => vec![at!(kvm_signal_mask.len as "len")],
        "kvm_set_user_memory_region" => vec![
            at!(kvm_userspace_memory_region.slot as "slot"),
            at!(kvm_userspace_memory_region.flags as "flags"),
            at!(kvm_userspace_memory_region.guest_phys_addr as "guest_phys_addr"),
            at!(kvm_userspace_memory_region.memory_size as "size"),
            at!(kvm_userspace_memory_region.userspace_addr as "userspace_addr"),
        ],
        _ => Vec::new(),
    }
}
