//! The table held against the patched kernel: its headers, as the C compiler
//! sees them, and its system call table; and docs/calls.md against the table.

#![allow(missing_docs)]
#![cfg(target_arch = "x86_64")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::{env, fs};

use kernel_patch::Kernel;
use kvm_sys::{CALLS, Call, Fd, KVM_ALIAS_SLOTS, KVM_CAP_SYSCALLS, KVM_SYSCALLS_ABI};

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
fn table_is_what_the_headers_say() {
    let mut expected = BTreeMap::new();
    let mut expressions = Vec::new();
    let mut expect = |name: &str, expression: String, value: u64| {
        expected.insert(name.to_owned(), value);
        expressions.push((name.to_owned(), expression));
    };
    for call in &CALLS {
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
    for (name, value) in [
        ("KVM_CAP_SYSCALLS", KVM_CAP_SYSCALLS.into()),
        ("KVM_SYSCALLS_ABI", KVM_SYSCALLS_ABI as u64),
        ("KVM_ALIAS_SLOTS", KVM_ALIAS_SLOTS.into()),
        ("KVM_GET_API_VERSION", kvm_sys::KVM_GET_API_VERSION),
    ] {
        expect(name, name.into(), value);
    }
    assert_eq!(c_values(&kernel().headers(), &expressions), expected);
}

#[test]
fn fields_of_the_alias_are_where_the_headers_say() {
    use kvm_sys::kvm_memory_alias as alias;
    use std::mem::offset_of;
    let fields = [
        ("slot", offset_of!(alias, slot)),
        ("flags", offset_of!(alias, flags)),
        ("guest_phys_addr", offset_of!(alias, guest_phys_addr)),
        ("memory_size", offset_of!(alias, memory_size)),
        ("target_phys_addr", offset_of!(alias, target_phys_addr)),
    ];
    let expressions = fields.map(|(name, _)| {
        let offset = format!("__builtin_offsetof(struct kvm_memory_alias, {name})");
        (name.to_owned(), offset)
    });
    let expected = fields
        .map(|(name, offset)| (name.to_owned(), offset as u64))
        .into();
    assert_eq!(c_values(&kernel().headers(), &expressions), expected);
}

#[test]
fn table_is_what_the_kernel_dispatches() {
    let table = kernel()
        .source_dir()
        .join("arch/x86/entry/syscalls/syscall_64.tbl");
    let table = fs::read_to_string(table).unwrap();
    let dispatched: Vec<_> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(2).is_some_and(|name| name.starts_with("kvm_")))
        .map(|fields| fields.join(" "))
        .collect();
    let expected: Vec<_> = CALLS
        .iter()
        .map(|Call { number, name, .. }| (number, name))
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
fn numbers_follow_one_another() {
    let numbers = CALLS.iter().map(|call| call.number);
    assert!(numbers.eq(600..600 + CALLS.len() as i64));
}

/// docs/calls.md, made of the table.
fn calls_md() -> String {
    let mut page = String::from(
        "# The calls\n\n\
         Generated from the table of `kvm-sys`: `UPDATE_DOCS=1 cargo test -p kvm-sys docs` \
         writes it anew.\n\n\
         The order is that of the proposal of July 2007: its 21 calls, then what the answer to it \
         adds. Beside its own errors a call that takes a file descriptor fails with `EBADF` \
         (closed), `ENOTTY` (not KVM's, or a virtual machine's where another kind is wanted), \
         `EINVAL` (a vcpu's or `/dev/kvm` where another kind is wanted) or `EIO` (made by another \
         process, or dead); one that takes a pointer with `EFAULT`; and any with `ENOMEM`. \
         A kernel without the calls, or with kvm not loaded, answers `ENOSYS`.\n\n\
         An ioctl in parentheses is the one of 2007, which Linux has removed.\n\n\
         | number | call | ioctl | structure (bytes) | fd | errors | note |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for call in &CALLS {
        let ioctl = match call.request {
            Some(request) => format!("`{}` ({request:#x})", call.ioctl),
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
        writeln!(
            page,
            "| {number} | `int {name}({parameters})` | {ioctl} | {structure} | {fd} | {errors} | {note} |",
        )
        .unwrap();
    }
    page += "\nReaching memory that `kvm_set_memory_region` has made is no call of its own: it is \
             `mmap` of the virtual machine's file descriptor at the guest physical address.\n";
    page
}

#[test]
fn docs_are_what_the_table_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/calls.md");
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, calls_md()).unwrap();
    }
    let page = fs::read_to_string(&file).unwrap();
    assert!(
        page == calls_md(),
        "docs/calls.md is old: UPDATE_DOCS=1 cargo test -p kvm-sys docs"
    );
}
