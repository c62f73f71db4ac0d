//! A small program with the library preloaded as a user does it: its report, and what it
//! sees of the library. No test needs a kernel with the calls.

use std::fs;
use std::io::{Read, pipe};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use kvm_preload::{BIND_VARIABLE, REPORT_VARIABLE, WITH_FD, WITHOUT_FD};
use tempfile::TempDir;

/// The lines of a report, if the kernel lacks the calls or the descriptor is none.
const REQUESTS: [&str; 2] = ["3 KVM_RUN ioctl:", "1 KVM_NMI ioctl: no call replaces it"];

/// The library and the program.
struct Built {
    library: PathBuf,
    program: PathBuf,
    _dir: TempDir,
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let here = kernel_patch::workspace_dir()
            .unwrap()
            .join("kvm-api/preload");
        let library = kernel_patch::cdylib(&here, &["interpose"]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let source = here.join("tests/program.c");
        let mut compiler = Command::new("cc");
        let done = compiler.arg("-o").args([&program, &source]).status();
        assert!(done.unwrap().success());
        Built {
            library: library.join("libkvm_preload.so"),
            program,
            _dir: dir,
        }
    })
}

/// The program with these arguments, in a directory.
fn program(arguments: &str, report: &str, dir: &Path) -> Command {
    let Built {
        library, program, ..
    } = built();
    let mut command = Command::new(program);
    command
        .args(arguments.split(' '))
        .current_dir(dir)
        .env_clear()
        .env("LD_PRELOAD", library)
        .env(REPORT_VARIABLE.to_str().unwrap(), report)
        .stdin(Stdio::null());
    command
}

/// Runs the program with its report on the standard error.
fn run(arguments: &str) -> (ExitStatus, String) {
    let dir = tempfile::tempdir().unwrap();
    let output = program(arguments, "-", dir.path()).output().unwrap();
    assert_eq!(output.stdout, b"");
    (output.status, String::from_utf8(output.stderr).unwrap())
}

/// The number of whole reports in a text that has nothing else.
#[track_caller]
fn reports(text: &str) -> usize {
    let lines: Vec<_> = text.lines().collect();
    for report in lines.chunks(4) {
        assert!(
            report[0].starts_with("kvm-preload: 0 of 4 KVM ioctls"),
            "{text}"
        );
        assert!(report[0].contains("(program)"), "{text}");
        for (line, expected) in report[2..].iter().zip(REQUESTS) {
            let words: Vec<_> = line.split_whitespace().collect();
            assert!(words.join(" ").starts_with(expected), "{text}");
        }
    }
    lines.len().div_ceil(4)
}

#[test]
fn a_process_reports_once_however_it_exits() {
    for arguments in ["requests", "requests _exit", "vfork requests vfork"] {
        let (status, report) = run(arguments);
        assert_eq!((status.code(), reports(&report)), (Some(7), 1));
    }
    let (status, report) = run("requests exec");
    assert_eq!((status.code(), reports(&report)), (Some(7), 1));
}

#[test]
fn a_process_that_is_killed_or_makes_no_request_reports_nothing() {
    assert_eq!(run("none").1, "");
    let (status, report) = run("requests abort");
    assert_eq!((status.signal(), &*report), (Some(libc::SIGABRT), ""));
}

#[test]
fn parent_and_child_each_report_their_own() {
    assert_eq!(reports(&run("fork requests").1), 2);
    // The child has made no request.
    assert_eq!(reports(&run("requests fork").1), 1);
    assert_eq!(reports(&run("requests fork _exit").1), 1);
}

#[test]
fn a_file_has_the_reports_of_all_processes() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let output = program("chdir fork requests", "report", dir.path()).output();
        let output = output.unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(7), &b""[..]));
    }
    let report = fs::read_to_string(dir.path().join("report")).unwrap();
    assert_eq!(reports(&report), 4);
}

#[test]
fn a_file_that_cannot_be_written_ends_the_program_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let output = program("requests", "missing/report", dir.path()).output();
    let output = output.unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
    assert_eq!(output.stderr, b"kvm-preload: cannot write the report\n");
}

#[test]
fn a_standard_error_that_is_another_file_now_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in ["close requests", "reuse requests"] {
        let output = program(arguments, "-", dir.path()).output().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(7), &b""[..]));
    }
    assert_eq!(fs::read(dir.path().join("other")).unwrap(), b"");
}

#[test]
fn a_standard_error_that_nobody_reads_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut command = program("requests", "-", dir.path());
    let status = command.stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(7));
    // The report goes to whoever has the pipe at the end.
    let (mut reader, writer) = pipe().unwrap();
    let mut command = program("requests", "-", dir.path());
    let status = command.stderr(writer).status().unwrap();
    drop(command);
    let mut report = String::new();
    reader.read_to_string(&mut report).unwrap();
    assert_eq!((status.code(), reports(&report)), (Some(7), 1));
}

#[test]
fn functions_that_change_descriptors_do_what_they_do() {
    for mode in [None, Some(WITH_FD), Some(WITHOUT_FD)] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = program("descriptors vfork requests", "-", dir.path());
        if let Some(mode) = mode {
            command.env(BIND_VARIABLE.to_str().unwrap(), mode.to_str().unwrap());
        }
        let output = command.output().unwrap();
        let report = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), reports(&report)), (Some(7), 1));
    }
}

#[test]
fn another_way_to_bind_ends_the_program_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = program("requests", "-", dir.path());
    let output = command.env(BIND_VARIABLE.to_str().unwrap(), "1").output();
    let output = output.unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
    let expected = "kvm-preload: KVM_PRELOAD_BIND is neither with-fd nor without-fd\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
}
