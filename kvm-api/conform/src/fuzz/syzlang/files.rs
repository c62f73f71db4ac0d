//! The other calls: those on a vCPU's files, and mmap.

use std::collections::BTreeSet;

use kvm_api::files::File;

use super::DESCRIPTION;
use super::parse::{Call, Opt, Type};
use crate::fuzz::step::{OTHERS, Target};

fn calls(name: &str) -> impl Iterator<Item = &'static Call> {
    DESCRIPTION
        .calls
        .iter()
        .filter(move |call| call.name == name)
}

/// The structure that passes through a file.
fn structure(file: File) -> &'static str {
    match file {
        File::Regs => "kvm_regs",
        File::Sregs => "kvm_sregs",
        File::Fpu => "kvm_fpu",
        File::Msrs => "kvm_msrs",
        File::Cpuid => "kvm_cpuid2",
        File::Sigmask => "kvm_signal_mask",
        File::Debug => "kvm_guest_debug",
        File::Interrupt => "kvm_irq",
        File::Xcrs => "kvm_xcrs",
        File::Debugregs => "kvm_debugregs",
        File::Events => "kvm_vcpu_events",
        File::MpState => "kvm_mp_state",
        File::Lapic => "kvm_lapic_state",
        File::Xsave => "kvm_xsave",
        File::ChosenMsrs => "kvm_msr_list",
    }
}

/// The argument at an index.
fn kind(call: &Call, nth: usize) -> &Type {
    &call.arguments[nth].kind
}

#[test]
fn each_other_call_of_the_fuzzer_is_described() {
    let made = OTHERS.iter().filter_map(|(_, target)| match target {
        Target::Map => Some("mmap"),
        Target::Open => Some("openat"),
        Target::Read => Some("pread64"),
        Target::Write => Some("pwrite64"),
        Target::List => Some("getdents64"),
        // This is not a call.
        Target::Poke => None,
        Target::Call(_) | Target::Ioctl(_) | Target::Number(_) => unreachable!("it has no name"),
    });
    let made: BTreeSet<_> = made.collect();
    let described = DESCRIPTION.calls.iter().map(|call| &*call.name);
    let described: BTreeSet<_> = described.filter(|it| !it.starts_with("kvm_")).collect();
    assert_eq!(described, made);
}

#[test]
fn each_file_is_opened() {
    let opened = calls("openat").map(|call| {
        assert_eq!(kind(call, 0).name, "fd_kvmcpu");
        let name = kind(call, 1).inner(1).and_then(|name| name.options.first());
        let Some(Opt::Text(name)) = name else {
            panic!("{} opens no file", call.variant);
        };
        assert_eq!(call.variant, format!("kvmcpu_{name}"));
        assert_eq!(call.makes, Some(format!("fd_kvmcpu_{name}")));
        name.as_str()
    });
    let opened: Vec<_> = opened.collect();
    assert_eq!(opened, File::ALL.map(|file| file.name().to_str().unwrap()));
}

#[test]
fn each_file_is_read_and_written_as_it_can_be() {
    let passed = |name, direction: &str, passes: fn(File) -> bool| {
        let there: Vec<_> = calls(name)
            .map(|call| {
                assert_eq!(call.arguments.len(), 4);
                let buffer = kind(call, 1);
                let by = buffer.inner(0).map(|it| &*it.name);
                assert_eq!(by, Some(direction), "{name}${}", call.variant);
                let target = buffer.inner(1).map(|it| &*it.name);
                (&*call.variant, &*kind(call, 0).name, target)
            })
            .collect();
        let files = File::ALL.into_iter().filter(|file| passes(*file));
        let expected: Vec<_> = files
            .map(|file| {
                let name = file.name().to_str().unwrap();
                // The buffer of a list has no structure before the call.
                let is_list = matches!(file, File::Msrs | File::Cpuid | File::ChosenMsrs);
                let target = (direction == "in" || !is_list).then(|| structure(file));
                (
                    format!("kvmcpu_{name}"),
                    format!("fd_kvmcpu_{name}"),
                    target,
                )
            })
            .collect();
        let expected: Vec<_> = expected.iter().map(|it| (&*it.0, &*it.1, it.2)).collect();
        assert_eq!(there, expected);
    };
    passed("pread64", "out", File::is_readable);
    passed("pwrite64", "in", |_| true);
}
