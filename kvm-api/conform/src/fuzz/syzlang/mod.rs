//! Compares the description of the calls for syzkaller with the table of
//! `kvm-sys` and with the arguments of the fuzzer.

mod files;
mod parse;

use std::collections::BTreeSet;
use std::mem::{offset_of, size_of};
use std::sync::LazyLock;

use fastrand::Rng;
use kvm_sys::{
    KVM_DIRTY_RANGE_PEEK, kvm_memory_alias, kvm_state_xsave, kvm_userspace_memory_region2,
    kvm_vcpu_state, slot,
};

use super::argument::{Arg, Fd, Place};
use super::fitting::described;
use super::rows::{CallRow, ROWS};
use crate::parameters::Parameter;
use parse::{Call, Description, Field, Opt, Type};

static DESCRIPTION: LazyLock<Description> = LazyLock::new(|| {
    let text = include_str!("../../../../../kernel-patch/syzkaller/dev_kvm_syscalls.txt");
    Description::parse(text).unwrap_or_else(|error| panic!("dev_kvm_syscalls.txt: {error}"))
});

/// The types of the language itself.
const LANGUAGE: [&str; 19] = [
    "array", "buffer", "bytesize", "const", "flags", "in", "inout", "int32", "int64", "int8",
    "intptr", "len", "opt", "out", "ptr", "ptr64", "string", "vma", "vma64",
];

/// The types of syzkaller's own descriptions.
const SYZKALLER: [&str; 25] = [
    "fd",
    "fd_kvm",
    "fd_kvmcpu",
    "fd_kvmvm",
    "fd_pidfd",
    "kvm_cpuid2",
    "kvm_debugregs",
    "kvm_fpu",
    "kvm_guest_debug",
    "kvm_guest_debug_arch_x86",
    "kvm_lapic_state",
    "kvm_mp_state",
    "kvm_msr_list",
    "kvm_msrs",
    "kvm_nested_state",
    "kvm_regs",
    "kvm_signal_mask",
    "kvm_sregs",
    "kvm_sregs2",
    "kvm_vcpu_events",
    "kvm_xcrs",
    "kvm_xsave",
    "mmap_flags",
    "mmap_prot",
    "vcpu_mmap_size",
];

const PAGE: u64 = 0x1000;

/// The number of arguments of each kind that are drawn.
const DRAWS: usize = 2000;

/// The kernel's name for the call of a row.
fn kernel_name(row: &CallRow) -> String {
    if row.bound {
        row.call.name.replacen("kvm_", "kvm_bound_", 1)
    } else {
        row.name.clone()
    }
}

/// The variants of the call. The probe has no descriptor, and is fixed.
fn variants(row: &CallRow) -> impl Iterator<Item = &'static Call> {
    let name = kernel_name(row);
    let all = DESCRIPTION.calls.iter();
    all.filter(move |call| call.name == name && call.variant != "probe")
}

/// The calls of KVM.
fn kvm_calls() -> impl Iterator<Item = &'static Call> {
    let calls = DESCRIPTION.calls.iter();
    calls.filter(|call| call.name.starts_with("kvm_"))
}

fn resolved(kind: &Type) -> &Type {
    DESCRIPTION.aliases.get(&kind.name).unwrap_or(kind)
}

#[test]
fn each_call_is_described_once() {
    let there = kvm_calls().map(|call| (call.name.clone(), &*call.variant));
    let there: BTreeSet<_> = there.collect();
    let mut expected = BTreeSet::from([("kvm_check_extension".into(), "probe")]);
    for row in ROWS.iter() {
        expected.insert((kernel_name(row), ""));
        match row.call.fd {
            kvm_sys::Fd::System => expected.insert((kernel_name(row), "vm")),
            kvm_sys::Fd::VcpuOrTask => expected.insert((kernel_name(row), "task")),
            // A bound VM need not be bound.
            kvm_sys::Fd::Vm if row.name != "kvm_bind_vm" => {
                expected.insert((kernel_name(row), "bound"))
            }
            _ => true,
        };
    }
    assert_eq!(there, expected);
}

#[test]
fn arguments_match_the_table() {
    for row in ROWS.iter() {
        for call in variants(row) {
            let expected: Vec<_> = row.parameters.iter().map(|it| it.name).collect();
            let there: Vec<_> = call.arguments.iter().map(|it| &*it.name).collect();
            assert_eq!(there, expected, "{}", call.name);
            for (parameter, argument) in row.parameters.iter().zip(&call.arguments) {
                assert!(
                    is_of_type(parameter, argument, row, &call.variant),
                    "{}: {parameter:?} is {:?}",
                    call.name,
                    argument.kind
                );
            }
        }
    }
}

/// Whether the type of the argument fits that of the parameter in C.
fn is_of_type(parameter: &Parameter, argument: &Field, row: &CallRow, variant: &str) -> bool {
    let kind = resolved(&argument.kind);
    let is = |names: &[&str]| names.contains(&&*kind.name);
    let points = |direction: &[&str], to: &str| {
        let (Some(by), Some(target)) = (kind.inner(0), kind.inner(1)) else {
            return false;
        };
        // A structure of pointers is read where the parts are written.
        let parts = target.options.iter();
        let mut directions = [by].into_iter().chain(parts.filter_map(|part| match part {
            Opt::Type(part) => Some(part),
            _ => None,
        }));
        is(&["ptr"]) && target.name == to && directions.any(|by| direction.contains(&&*by.name))
    };
    let is_buffer =
        |direction| is(&["buffer"]) && kind.inner(0).is_some_and(|by| by.name == direction);
    match parameter.declared {
        "int" => is(&[match (row.call.fd, variant) {
            (kvm_sys::Fd::System, "") => "fd_kvm",
            (kvm_sys::Fd::System, "vm") | (kvm_sys::Fd::Vm, "") => "fd_kvmvm",
            (kvm_sys::Fd::Vcpu | kvm_sys::Fd::VcpuOrTask, "") => "fd_kvmcpu",
            (kvm_sys::Fd::VcpuOrTask, "task") => "fd_pidfd",
            (kvm_sys::Fd::Vm, "bound") => "const",
            _ => return false,
        }]),
        "unsigned int" if argument.name == "flags" => is(&["flags"]),
        "unsigned int" | "__u32" => is(&["int32"]),
        "__u64" if argument.name == "userspace_addr" => is(&["vma"]),
        "__u64" => is(&["int64", "len"]),
        "unsigned long" => is(&["intptr"]),
        "size_t" => is(&["bytesize", "int64"]),
        "void *" => is_buffer("out"),
        "const void *" => is_buffer("in"),
        "__u64 *" => points(&["out"], "int64"),
        "__u8 *" => points(&["out"], "int8"),
        _ => match parameter.target() {
            Some(target) if parameter.is_const() => points(&["in"], target),
            Some(target) => points(&["out", "inout"], target),
            None => false,
        },
    }
}

#[test]
fn calls_create_the_resources_of_the_fuzzer() {
    let there: Vec<_> = kvm_calls()
        .filter_map(|call| Some((&*call.name, &*call.variant, call.makes.as_deref()?)))
        .collect();
    assert_eq!(
        there,
        [
            ("kvm_create_vm", "", "fd_kvmvm"),
            ("kvm_get_vcpu_mmap_size", "", "vcpu_mmap_size"),
            ("kvm_get_vcpu_mmap_size", "vm", "vcpu_mmap_size"),
            ("kvm_create_vcpu", "", "fd_kvmcpu"),
            ("kvm_create_vcpu", "bound", "fd_kvmcpu"),
        ]
    );
}

#[test]
fn fuzzer_makes_each_described_call() {
    let mut rng = Rng::with_seed(1);
    for row in ROWS.iter() {
        for (nth, parameter) in row.parameters.iter().enumerate() {
            let what = format!("{}: {}", row.name, parameter.name);
            let kinds: Vec<_> = variants(row)
                .map(|it| (&it.arguments[nth].kind, it))
                .collect();
            let drawn: Vec<_> = (0..DRAWS)
                .map(|_| described(parameter, row, &mut rng))
                .collect();
            for arg in &drawn {
                let mut kinds = kinds.iter();
                assert!(
                    kinds.any(|(kind, call)| is_one(*arg, kind, call)),
                    "{what}: {arg:?}"
                );
            }
            for (kind, call) in kinds {
                assert!(
                    drawn.iter().any(|arg| is_one(*arg, kind, call)),
                    "{what}: {kind:?}"
                );
                for number in ends(kind) {
                    assert!(drawn.contains(&Arg::Number(number)), "{what}: {number:#x}");
                }
            }
        }
    }
}

/// Whether the fuzzer's argument is of that kind.
fn is_one(arg: Arg, kind: &Type, call: &Call) -> bool {
    let kind = resolved(kind);
    match (&*kind.name, arg) {
        ("fd_kvm", Arg::Fd(fd)) => fd == Fd::Kvm,
        ("fd_kvmvm", Arg::Fd(fd)) => matches!(fd, Fd::Vm0 | Fd::Vm1 | Fd::New),
        ("fd_kvmcpu", Arg::Fd(fd)) => matches!(fd, Fd::Vcpu0 | Fd::Vcpu1 | Fd::New),
        ("fd_pidfd", Arg::Fd(fd)) => fd == Fd::Pidfd,
        ("const", Arg::Fd(fd)) => {
            let value = kind.inner(0).map(|value| &*value.name);
            fd == Fd::BoundVm && value == Some("KVM_BOUND_VM")
        }
        ("vma", Arg::Place(place)) => place == Place::Memory,
        ("buffer", Arg::Place(place)) => place == Place::Bitmap,
        ("ptr", Arg::Place(place)) => kind.inner(1).is_some_and(|target| {
            let is_number = target.name.starts_with("int");
            place == Place::of_type(&target.name) && is_number == (place == Place::Bytes)
        }),
        ("len", Arg::Number(number)) => number.is_multiple_of(PAGE),
        ("bytesize", Arg::Number(number)) => sized(kind, call) == Some(number),
        ("flags", Arg::Number(number)) => number & !flags(kind).iter().sum::<u64>() == 0,
        ("int32" | "int64" | "intptr", Arg::Number(number)) => match &kind.options[..] {
            [] => true,
            [Opt::Range(range)] => range.contains(&number),
            [Opt::Range(range), Opt::Number(step)] => {
                range.contains(&number) && number.is_multiple_of(*step)
            }
            _ => false,
        },
        _ => false,
    }
}

/// The numbers of that kind that the fuzzer must use.
fn ends(kind: &Type) -> Vec<u64> {
    let kind = resolved(kind);
    match (&*kind.name, kind.options.first()) {
        ("flags", _) => flags(kind),
        (_, Some(Opt::Range(range))) => vec![*range.start(), *range.end()],
        _ => Vec::new(),
    }
}

/// The values of a set of flags.
fn flags(kind: &Type) -> Vec<u64> {
    let names = kind.inner(0).map(|set| &DESCRIPTION.flags[&set.name]);
    let value = |name: &String| match &**name {
        "KVM_MEM_LOG_DIRTY_PAGES" => slot::KVM_MEM_LOG_DIRTY_PAGES.into(),
        "KVM_MEM_READONLY" => slot::KVM_MEM_READONLY.into(),
        "KVM_DIRTY_RANGE_PEEK" => KVM_DIRTY_RANGE_PEEK.into(),
        name => panic!("{name} is no flag of a call"),
    };
    names.into_iter().flatten().map(value).collect()
}

/// The size of the structure that another argument points to.
fn sized(kind: &Type, call: &Call) -> Option<u64> {
    let name = &kind.inner(0)?.name;
    let argument = call.arguments.iter().find(|it| it.name == *name)?;
    let target = argument.kind.inner(1)?;
    let (_, size) = layout(&target.name);
    Some(size as u64)
}

/// The offsets of a structure's fields, and its size.
fn layout(name: &str) -> (Vec<(&'static str, usize)>, usize) {
    let mut end = 0;
    let mut fields = Vec::new();
    for field in &DESCRIPTION.structures[name].fields {
        fields.push((&*field.name, end));
        let kind = resolved(&field.kind);
        let number = match &*kind.name {
            "const" | "flags" | "len" => kind.inner(1).map_or("", |base| &base.name),
            name => name,
        };
        end += match number {
            "int32" => 4,
            "int64" | "ptr64" | "vma64" => 8,
            // The data after a header, which is no part of the structure.
            "array" => 0,
            other => panic!("{name}: the size of {other} is not known"),
        };
    }
    (fields, end)
}

macro_rules! fields {
    ($structure:ident: $($field:ident)+) => {
        (
            vec![$((stringify!($field), offset_of!($structure, $field))),+],
            size_of::<$structure>(),
        )
    };
}

#[test]
fn structures_match_the_table() {
    assert_eq!(
        layout("kvm_memory_alias"),
        fields!(kvm_memory_alias: slot flags guest_phys_addr memory_size target_phys_addr)
    );
    assert_eq!(
        layout("kvm_vcpu_state"),
        fields!(kvm_vcpu_state: parts regs sregs fpu msrs debugregs vcpu_events xcrs
            sregs2 xsave lapic mp_state nested_state cpuid tsc_khz tsc_offset)
    );
    assert_eq!(
        layout("kvm_state_xsave").0[..2],
        fields!(kvm_state_xsave: size pad).0
    );
    assert_eq!(
        layout("kvm_userspace_memory_region2").0,
        fields!(kvm_userspace_memory_region2: slot flags guest_phys_addr memory_size
            userspace_addr guest_memfd_offset guest_memfd pad1 pad2)
        .0
    );
    assert_eq!(DESCRIPTION.structures.len(), 4, "there is another one");
}

#[test]
fn each_part_of_the_state_has_its_flag_and_its_structure() {
    let fields = &DESCRIPTION.structures["kvm_vcpu_state"].fields[1..];
    let flags = fields.iter().map(|field| field.name.to_uppercase());
    let flags: Vec<_> = flags.map(|name| format!("KVM_STATE_{name}")).collect();
    assert_eq!(DESCRIPTION.flags["kvm_state_parts"], flags);
    for field in fields {
        let target = field.kind.inner(1).map(|it| it.name.clone());
        let expected = match &*field.name {
            "xsave" => "kvm_state_xsave".to_owned(),
            "lapic" => "kvm_lapic_state".to_owned(),
            "cpuid" => "kvm_cpuid2".to_owned(),
            "tsc_khz" => "int32".to_owned(),
            "tsc_offset" => "int64".to_owned(),
            name => format!("kvm_{name}"),
        };
        assert_eq!(target, Some(expected));
    }
}

#[test]
fn each_name_is_known_and_used() {
    let mut used = BTreeSet::new();
    for call in &DESCRIPTION.calls {
        used.extend(call.makes.as_deref());
        names(&call.arguments, &mut used);
    }
    for structure in DESCRIPTION.structures.values() {
        names(&structure.fields, &mut used);
        for parameter in &structure.parameters {
            assert!(used.remove(&**parameter), "{parameter} is not used");
        }
    }
    for kind in DESCRIPTION.aliases.values() {
        used.insert(&kind.name);
    }
    used.extend(DESCRIPTION.resources.values().map(String::as_str));

    let declared = DESCRIPTION.resources.keys().chain(DESCRIPTION.flags.keys());
    let declared = declared.chain(DESCRIPTION.aliases.keys());
    let declared = declared.chain(DESCRIPTION.structures.keys());
    let declared = declared.map(String::as_str);
    let known: BTreeSet<_> = declared.chain(LANGUAGE).chain(SYZKALLER).collect();
    assert_eq!(used, known);
}

/// Adds the names of types. A length names a field, and a constant names no
/// type.
fn names<'a>(fields: &'a [Field], used: &mut BTreeSet<&'a str>) {
    fn walk<'a>(kind: &'a Type, fields: &[Field], used: &mut BTreeSet<&'a str>) {
        used.insert(&kind.name);
        let inner = kind.options.iter().filter_map(|option| match option {
            Opt::Type(inner) => Some(inner),
            _ => None,
        });
        for (position, inner) in inner.enumerate() {
            match &*kind.name {
                // The type of the length may follow.
                "len" | "bytesize" if position == 0 => {
                    let is = |field: &Field| field.name == inner.name;
                    assert!(fields.iter().any(is), "{} is no neighbour", inner.name);
                }
                "const" if inner.name.starts_with(|it: char| it.is_uppercase()) => {}
                _ => walk(inner, fields, used),
            }
        }
    }
    for field in fields {
        walk(&field.kind, fields, used);
    }
}
