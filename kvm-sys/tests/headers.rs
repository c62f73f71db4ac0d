//! The table held against the patched kernel: its headers, as the C compiler
//! sees them, and its system call table; and docs/calls.md and the manual
//! pages against the table.

#![allow(missing_docs)]
#![cfg(target_arch = "x86_64")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::{env, fs};

use kernel_patch::Kernel;
use kvm_sys::{
    BINDING_CALLS, CALLS, Call, Fd, FlatCall, KVM_ALIAS_SLOTS, KVM_CAP_SYSCALLS, KVM_SYSCALLS_ABI,
    MERGED_CALLS, PROCESS_CALLS, RANGE_CALLS, calls,
};

/// The number and the name of each, and of those that do the same to the bound vCPU,
/// in the order of the numbers.
fn numbered() -> Vec<(i64, String)> {
    let named = calls().map(|call| (call.number, call.name.to_owned()));
    let bound = calls().filter_map(|call| {
        let name = call.name.replacen("kvm_", "kvm_bound_", 1);
        call.bound.map(|number| (number, name))
    });
    let mut numbered: Vec<_> = named.chain(bound).collect();
    numbered.sort_unstable();
    numbered
}

/// The patched kernel, built first if it is not.
fn kernel() -> &'static Kernel {
    static KERNEL: LazyLock<Kernel> = LazyLock::new(|| {
        let kernel = Kernel::builder().wait(true).build();
        kernel.unwrap_or_else(|error| panic!("no patched kernel: {error}"))
    });
    &KERNEL
}

/// What C makes of expressions, by the name that each is given.
fn c_values(include: &Path, expressions: &[(String, String)]) -> BTreeMap<String, u64> {
    let mut source = String::from(
        "#include <stdio.h>\n#include <linux/kvm.h>\n#include <asm/unistd.h>\nint main(void)\n{\n",
    );
    for (name, expression) in expressions {
        writeln!(
            source,
            "printf(\"{name} %llu\\n\", (unsigned long long)({expression}));"
        )
        .unwrap();
    }
    source += "return 0;\n}\n";

    let dir = tempfile::tempdir().unwrap();
    let (file, program) = (dir.path().join("values.c"), dir.path().join("values"));
    fs::write(&file, source).unwrap();
    let output = Command::new("cc")
        .arg("-Werror")
        .arg("-isystem")
        .arg(include)
        .arg("-o")
        .args([&program, &file])
        .output()
        .expect("cc cannot be started");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let output = Command::new(&program).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let value = |line: &str| {
        let (name, value) = line.split_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    output.lines().map(value).collect()
}

#[test]
fn table_matches_the_headers() {
    let mut expected = BTreeMap::new();
    let mut expressions = Vec::new();
    let mut expect = |name: &str, expression: String, value: u64| {
        expected.insert(name.to_owned(), value);
        expressions.push((name.to_owned(), expression));
    };
    for call in calls() {
        let number = format!("__NR_{}", call.name);
        expect(&number, number.clone(), call.number as u64);
        if let Some(request) = call.request {
            expect(call.ioctl, call.ioctl.into(), request);
        }
        if let Some(structure) = call.structure {
            let size = format!("sizeof(struct {})", structure.name);
            expect(structure.name, size, structure.size as u64);
        }
    }
    for (name, request) in kvm_sys::REQUESTS {
        expect(name, (*name).into(), *request);
    }
    for (name, value) in [
        ("KVM_CAP_SYSCALLS", KVM_CAP_SYSCALLS.into()),
        ("KVM_SYSCALLS_ABI", KVM_SYSCALLS_ABI as u64),
        ("KVM_ALIAS_SLOTS", KVM_ALIAS_SLOTS.into()),
        (
            "KVM_VCPU_STATE_SIZE_VER0",
            kvm_sys::KVM_VCPU_STATE_SIZE_VER0 as u64,
        ),
        ("KVM_STATE_REGS", kvm_sys::state::KVM_STATE_REGS),
        ("KVM_STATE_SREGS", kvm_sys::state::KVM_STATE_SREGS),
        ("KVM_STATE_FPU", kvm_sys::state::KVM_STATE_FPU),
        ("KVM_STATE_MSRS", kvm_sys::state::KVM_STATE_MSRS),
        ("KVM_STATE_DEBUGREGS", kvm_sys::state::KVM_STATE_DEBUGREGS),
        (
            "KVM_STATE_VCPU_EVENTS",
            kvm_sys::state::KVM_STATE_VCPU_EVENTS,
        ),
        ("KVM_STATE_XCRS", kvm_sys::state::KVM_STATE_XCRS),
        (
            "KVM_VCPU_STATE_SIZE_VER1",
            kvm_sys::KVM_VCPU_STATE_SIZE_VER1 as u64,
        ),
        ("KVM_STATE_SREGS2", kvm_sys::state::KVM_STATE_SREGS2),
        ("KVM_STATE_XSAVE", kvm_sys::state::KVM_STATE_XSAVE),
        ("KVM_STATE_LAPIC", kvm_sys::state::KVM_STATE_LAPIC),
        ("KVM_STATE_MP_STATE", kvm_sys::state::KVM_STATE_MP_STATE),
        (
            "KVM_STATE_NESTED_STATE",
            kvm_sys::state::KVM_STATE_NESTED_STATE,
        ),
        ("KVM_STATE_CPUID", kvm_sys::state::KVM_STATE_CPUID),
        ("KVM_STATE_TSC_KHZ", kvm_sys::state::KVM_STATE_TSC_KHZ),
        ("KVM_STATE_TSC_OFFSET", kvm_sys::state::KVM_STATE_TSC_OFFSET),
    ] {
        expect(name, name.into(), value);
    }
    assert_eq!(c_values(&kernel().headers(), &expressions), expected);
}

/// Compares where the fields of a structure are with where C has them.
macro_rules! assert_fields {
    ($structure:ident: $($field:ident)+) => {
        let fields = [$((
            stringify!($field),
            std::mem::offset_of!(kvm_sys::$structure, $field),
        )),+];
        let expressions = fields.map(|(name, _)| {
            let structure = stringify!($structure);
            let offset = format!("__builtin_offsetof(struct {structure}, {name})");
            (name.to_owned(), offset)
        });
        let expected = fields
            .map(|(name, offset)| (name.to_owned(), offset as u64))
            .into();
        assert_eq!(c_values(&kernel().headers(), &expressions), expected);
    };
}

#[test]
fn fields_are_where_the_headers_say() {
    assert_fields!(kvm_memory_alias:
        slot flags guest_phys_addr memory_size target_phys_addr);
    assert_fields!(kvm_vcpu_state:
        parts regs sregs fpu msrs debugregs vcpu_events xcrs
        sregs2 xsave lapic mp_state nested_state cpuid tsc_khz tsc_offset);
    assert_fields!(kvm_state_xsave: size pad);
}

#[test]
fn table_matches_the_kernels_table() {
    let table = kernel()
        .source_dir
        .join("arch/x86/entry/syscalls/syscall_64.tbl");
    let table = fs::read_to_string(table).unwrap();
    let dispatched: Vec<_> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(2).is_some_and(|name| name.starts_with("kvm_")))
        .map(|fields| fields.join(" "))
        .collect();
    let expected: Vec<_> = numbered()
        .into_iter()
        .map(|(number, name)| format!("{number} 64 {name} sys_{name}"))
        .collect();
    // `common` would make the calls x32's too, which they may be or not.
    let dispatched: Vec<_> = dispatched
        .iter()
        .map(|line| line.replacen(" common ", " 64 ", 1))
        .collect();
    assert_eq!(dispatched, expected);
}

#[test]
fn each_call_has_its_own_row() {
    for (call, row) in FlatCall::ALL.iter().zip(&CALLS) {
        assert_eq!(format!("{call:?}"), row.name);
        assert_eq!(call.number, row.number);
    }
}

#[test]
fn numbers_follow_one_another() {
    let numbered = numbered();
    let numbers = numbered.iter().map(|(number, _)| *number);
    assert!(numbers.eq(600..600 + numbered.len() as i64));
}

/// docs/calls.md, made of the table.
fn calls_md() -> String {
    let mut page = String::from(
        "# The calls\n\n\
         Generated from the table of `kvm-sys`: `UPDATE_DOCS=1 cargo test -p kvm-sys docs` \
         writes it anew.\n\n\
         The order is that of the proposal of July 2007: first its 21 calls, then those that the \
         answer to it adds: three more of the same kind, the merged calls, the calls for ranges of \
         memory, and the calls that bind a vCPU to a task. A second number belongs to the call on \
         the bound vCPU. That call has `bound` in its name, takes no file descriptor, and fails \
         with `ENXIO` if the caller has bound no vCPU.\n\n\
         A call that takes a file descriptor also fails with `EBADF` (closed), `ENOTTY` (not one \
         of KVM's, or a virtual machine instead of another kind), `EINVAL` (a vCPU or `/dev/kvm` \
         instead of another kind) or `EIO` (made by another process, or dead). A call that takes a \
         pointer also fails with `EFAULT`, and any call with `ENOMEM`. A kernel without the calls, \
         or with kvm not loaded, returns `ENOSYS`.\n\n\
         The [manual pages](man) kvm_create_vm(2), kvm_get_state(2), kvm_map_range(2) and \
         kvm_bind(2) describe the calls.\n\n\
         An ioctl in parentheses is the ioctl of 2007, which Linux has removed.\n\n\
         | number | call | ioctl | structure (bytes) | fd | errors | note |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for call in calls() {
        let ioctl = match call.request {
            Some(request) => format!("`{}` ({request:#x})", call.ioctl),
            None if call.ioctl.is_empty() => String::new(),
            None => format!("(`{}`)", call.ioctl),
        };
        let structure = call.structure.map_or_else(String::new, |structure| {
            format!("`{}` ({})", structure.name, structure.size)
        });
        let fd = match call.fd {
            Fd::None => "",
            Fd::System => "VM or `/dev/kvm`",
            Fd::Vm => "VM",
            Fd::Vcpu => "vcpu",
            Fd::VcpuOrTask => "vcpu or pidfd",
        };
        let errors: Vec<_> = call
            .errors
            .iter()
            .map(|errno| format!("`{errno:?}`"))
            .collect();
        let Call {
            number,
            name,
            parameters,
            note,
            ..
        } = call;
        let errors = errors.join(" ");
        let bound = call
            .bound
            .map_or_else(String::new, |bound| format!(", {bound}"));
        writeln!(
            page,
            "| {number}{bound} | `int {name}({parameters})` | {ioctl} | {structure} | {fd} | {errors} | {note} |",
        )
        .unwrap();
    }
    page += "\nReaching memory that `kvm_set_memory_region` has made is no call of its own: it is \
             `mmap` of the virtual machine's file descriptor at the guest physical address.\n";
    page
}

#[test]
fn docs_match_the_table() {
    let file = kernel_patch::workspace_dir().unwrap().join("docs/calls.md");
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, calls_md()).unwrap();
    }
    let page = fs::read_to_string(&file).unwrap();
    assert!(
        page == calls_md(),
        "docs/calls.md is old: UPDATE_DOCS=1 cargo test -p kvm-sys docs"
    );
}

/// The calls that a manual page is about, by the page.
fn paged() -> impl Iterator<Item = (&'static Call, &'static str)> {
    use FlatCall::{kvm_check_extension, kvm_create_vcpu, kvm_create_vm};
    let creating = [kvm_create_vm, kvm_create_vcpu, kvm_check_extension].map(FlatCall::row);
    let page = |page| move |call| (call, page);
    creating
        .into_iter()
        .map(page("kvm_create_vm.2"))
        .chain(BINDING_CALLS.iter().map(page("kvm_bind.2")))
        .chain(MERGED_CALLS.iter().map(page("kvm_get_state.2")))
        .chain(RANGE_CALLS.iter().map(page("kvm_map_range.2")))
        .chain(PROCESS_CALLS.iter().map(page("kvm_bind_vm.2")))
}

fn page(name: &str) -> String {
    let dir = kernel_patch::workspace_dir().unwrap().join("docs/man");
    fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The prototypes of a page, without fonts and white space.
fn synopsis(page: &str) -> String {
    let (_, rest) = page.split_once(".SH SYNOPSIS\n").unwrap();
    let (synopsis, _) = rest.split_once(".SH DESCRIPTION\n").unwrap();
    let lines = synopsis.lines().map(|line| {
        let word = line.split_once(' ').filter(|it| it.0.starts_with('.'));
        word.map_or(line, |(_, rest)| rest)
    });
    let text: String = lines.collect();
    text.replace(['"', ' '], "")
}

fn prototype(name: &str, parameters: &[&str]) -> String {
    let arguments: String = parameters.iter().map(|it| format!(",{it}")).collect();
    format!("syscall(__NR_{name}{arguments});").replace(' ', "")
}

#[test]
fn pages_have_the_prototypes_of_the_table() {
    let parameters = |call: &Call| -> Vec<&'static str> {
        let all = call.parameters.split(", ");
        all.filter(|it| *it != "void").collect()
    };
    for (call, name) in paged() {
        let prototype = prototype(call.name, &parameters(call));
        assert!(
            synopsis(&page(name)).contains(&prototype),
            "{name}: {prototype}"
        );
    }
    for call in calls().filter(|call| call.bound.is_some()) {
        let name = call.name.replacen("kvm_", "kvm_bound_", 1);
        let prototype = prototype(&name, &parameters(call)[1..]);
        assert!(
            synopsis(&page("kvm_bind.2")).contains(&prototype),
            "{prototype}"
        );
    }
}

#[test]
fn pages_have_the_errors_of_the_table() {
    for (call, name) in paged() {
        let page = page(name);
        let own = call.errors.iter().map(|errno| format!("{errno:?}"));
        let fd = match call.fd {
            Fd::None | Fd::VcpuOrTask => &[][..],
            _ => &["EBADF", "EINVAL", "EIO", "ENOTTY"],
        };
        let pointer = call.parameters.contains('*').then_some("EFAULT");
        let others = fd.iter().copied().chain(pointer).chain(["ENOSYS"]);
        for errno in own.chain(others.map(String::from)) {
            let entry = format!("\n.TP\n.B {errno}\n");
            assert!(page.contains(&entry), "{name}: no {errno} of {}", call.name);
        }
    }
}
