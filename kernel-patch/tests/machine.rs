//! Tests of the machine from outside: the result of a run, and the error of each failure,
//! which leaves nothing behind.
//!
//! This executable also runs inside: see [`inside`].

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{self, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use kernel_patch::{Accel, BootError, Console, Exit, Kernel, Machine, OUT};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The first argument of this executable inside. The second names the part to run.
const INSIDE: &str = "inside";

fn main() -> ExitCode {
    kernel_patch::init_if_first();
    kernel_patch::answer_if_called(sum);
    let args: Vec<_> = env::args().skip(1).collect();
    if let [first, part, ..] = &args[..]
        && first == INSIDE
    {
        inside(part);
    }
    let tests: [(&str, fn()); 18] = [
        ("exit_status", exit_status),
        ("signal", signal),
        ("files_come_back", files_come_back),
        ("files_go_in", files_go_in),
        ("much_output", much_output),
        ("environment_is_defined", environment_is_defined),
        ("runs_repeat", runs_repeat),
        ("modules", modules),
        ("processors", processors),
        ("panic", panic),
        ("complaint", complaint),
        ("hang", hang),
        ("qemu_refuses", qemu_refuses),
        ("bochs", bochs),
        ("interrupt", interrupt),
        ("not_static", not_static),
        ("call", call),
        ("call_on_the_host", call_on_the_host),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok::<_, Failed>(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

/// Runs a part in the machine.
fn inside(part: &str) -> ! {
    match part {
        "exit" => process::exit(7),
        "abort" => process::abort(),
        // The lock checker prints this, and the kernel continues.
        "complain" => fs::write("/dev/kmsg", "<4>WARNING: possible circular locking").unwrap(),
        "complain and go on" => {
            fs::write("/dev/kmsg", "<4>WARNING: possible circular locking").unwrap();
            // Its clock counts instructions, so that this takes minutes.
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(60) {}
            println!("went on");
        }
        "hang" => loop {
            println!("hanging");
            thread::sleep(Duration::from_secs(3600));
        },
        "files" => {
            fs::create_dir(format!("{OUT}/dir")).unwrap();
            fs::write(format!("{OUT}/dir/file"), vec![7; 1 << 20]).unwrap();
        }
        // Uses all ports, and leaves a process that has them open.
        "ports" => {
            let this = env::current_exe().unwrap();
            Command::new(this).args([INSIDE, "hang"]).spawn().unwrap();
            fs::write(format!("{OUT}/file"), [7; 5000]).unwrap();
            println!("standard output");
            eprintln!("standard error");
            process::exit(7)
        }
        "print" => print!("{}", fs::read_to_string("/etc/file").unwrap()),
        "much" => {
            let line = "x".repeat(999);
            for _ in 0..4000 {
                println!("{line}");
            }
            eprintln!("standard error");
        }
        "environment" => {
            for (name, value) in env::vars() {
                println!("{name}={value}");
            }
        }
        // Nanoseconds since the boot, and so instructions.
        "clock" => println!("{:?}", Instant::now()),
        "processors" => {
            let online = fs::read_to_string("/sys/devices/system/cpu/online");
            print!("{}", online.unwrap());
        }
        "kvm" => println!("{}", fs::exists("/dev/kvm").unwrap()),
        other => panic!("no part {other:?}"),
    }
    process::exit(0)
}

fn kernel() -> &'static Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let built = Kernel::builder().wait(true).build();
        built.unwrap_or_else(|error| panic!("{error}"))
    })
}

/// Runs a part inside. Returns its exit, standard output and standard error.
fn run(machine: &Machine, part: &str) -> Result<(Exit, String, String), BootError> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = run_to(machine, part, &mut out, &mut err)?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ok((exit, text(out), text(err)))
}

fn run_to(
    machine: &Machine,
    part: &str,
    out: &mut Vec<u8>,
    err: &mut Vec<u8>,
) -> Result<Exit, BootError> {
    let this = env::current_exe().unwrap();
    machine.run(kernel(), &this, &[INSIDE.into(), part.into()], out, err)
}

fn exit_status() {
    let (exit, _, _) = run(&Machine::new(), "exit").unwrap();
    assert_eq!((exit, exit.code()), (Exit::Code(7), 7));
}

fn signal() {
    let (exit, _, _) = run(&Machine::new(), "abort").unwrap();
    assert_eq!((exit, exit.code()), (Exit::Signal(6), 134));
}

fn files_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/out");
    let (exit, _, _) = run(&Machine::new().out(&out), "files").unwrap();
    assert!(exit.success());
    assert_eq!(fs::read(out.join("dir/file")).unwrap(), vec![7; 1 << 20]);
}

fn files_go_in() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "from outside").unwrap();
    let machine = Machine::new().file(file.path(), "/etc/file");
    let (_, out, _) = run(&machine, "print").unwrap();
    assert_eq!(out, "from outside");
}

fn much_output() {
    let (exit, out, err) = run(&Machine::new(), "much").unwrap();
    assert!(exit.success());
    assert_eq!((out.len(), out.lines().count()), (4_000_000, 4000));
    assert_eq!(err, "standard error\n");
}

fn environment_is_defined() {
    let machine = Machine::new().env("GIVEN", "a b").env("HOME", "/tmp");
    let (_, out, _) = run(&machine, "environment").unwrap();
    assert!(
        out.contains("GIVEN=a b\n") && out.contains("HOME=/tmp\n"),
        "{out}"
    );
    assert!(out.contains(&format!("KERNEL_PATCH_OUT={OUT}\n")), "{out}");
    assert!(!out.contains("CARGO"), "{out}");
}

fn runs_repeat() {
    let machine = Machine::new();
    let first = run(&machine, "clock").unwrap();
    assert_eq!(first, run(&machine, "clock").unwrap());
}

fn modules() {
    for (load, expected) in [(true, "true\n"), (false, "false\n")] {
        let machine = Machine::new().load_modules(load);
        assert_eq!(run(&machine, "kvm").unwrap().1, expected);
    }
}

fn processors() {
    for accel in [Accel::Tcg, Accel::Mttcg] {
        let machine = Machine::new().accel(accel).smp(2);
        let (_, out, _) = run(&machine, "processors").unwrap();
        assert_eq!(out, "0-1\n", "{accel}");
    }
}

fn panic() {
    let machine = Machine::new().cmdline("rdinit=/nonexistent");
    let error = run(&machine, "exit").unwrap_err();
    let BootError::Panicked(Console { log, tail }) = &error else {
        panic!("{error}");
    };
    assert!(tail.contains("Kernel panic - not syncing"), "{error}");
    assert!(
        fs::read_to_string(log)
            .unwrap()
            .contains(tail.lines().last().unwrap())
    );
    fs::remove_file(log).unwrap();
}

fn complaint() {
    let (exit, _, _) = run(&Machine::new(), "complain").unwrap();
    assert!(exit.success());
    let error = run(&Machine::new().strict(true), "complain").unwrap_err();
    let BootError::Complained(console, report) = &error else {
        panic!("{error}");
    };
    assert!(
        report.starts_with("WARNING: possible circular locking"),
        "{report}"
    );
    fs::remove_file(console).unwrap();
    // The machine ends soon after the report.
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let machine = Machine::new().strict(true);
    let ended = run_to(&machine, "complain and go on", &mut out, &mut err);
    let Err(BootError::Complained(console, _)) = &ended else {
        panic!("{ended:?}");
    };
    assert_eq!(String::from_utf8_lossy(&out), "");
    fs::remove_file(console).unwrap();
    let (exit, _, _) = run(&Machine::new().strict(true), "exit").unwrap();
    assert_eq!(exit, Exit::Code(7));
}

fn hang() {
    let name = format!("hang-{}", process::id());
    let machine = Machine::new()
        .timeout(Duration::from_secs(20))
        .qemu_arg("-name")
        .qemu_arg(&name);
    let error = run(&machine, "hang").unwrap_err();
    let BootError::TimedOut(_, console) = &error else {
        panic!("{error}");
    };
    fs::remove_file(&console.log).unwrap();
    assert_eq!(processes(&name), [0; 0]);
}

fn qemu_refuses() {
    let error = run(&Machine::new().memory("nothing"), "exit").unwrap_err();
    let BootError::EmulatorFailed { output, .. } = &error else {
        panic!("{error}");
    };
    assert!(output.contains("nothing"), "{error}");
}

/// Another emulator has one line for all ports.
fn bochs() {
    let out = tempfile::tempdir().unwrap();
    let machine = Machine::new().accel(Accel::Bochs).memory("256M");
    let (exit, stdout, stderr) = run(&machine.clone().out(out.path()), "ports").unwrap();
    assert_eq!(exit, Exit::Code(7));
    assert!(stdout.contains("standard output\n"), "{stdout}");
    assert_eq!(stderr, "standard error\n");
    assert_eq!(fs::read(out.path().join("file")).unwrap(), [7; 5000]);

    let error = run(&machine.memory("nothing"), "exit").unwrap_err();
    assert!(matches!(error, BootError::BadMemory(_)), "{error}");
}

fn interrupt() {
    kernel();
    let parameter = format!("interrupt={}", process::id());
    let mut child = Command::new(kernel_patch::beside("kernel-patch").unwrap())
        .args(["run", "--wait", "--cmdline", &parameter, "--"])
        .arg(env::current_exe().unwrap())
        .args([INSIDE, "hang"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 8];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    assert_eq!(&first, b"hanging\n");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(130),
        "{:?}",
        output.status.signal()
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "kernel-patch: interrupted\n"
    );
    assert_eq!(processes(&parameter), [0; 0]);
}

/// Returns a sum to the caller, and leaves a file beside it.
fn sum(terms: Vec<u32>, out: &Path) -> Result<u32, String> {
    eprintln!("adding");
    fs::write(out.join("file"), "left").map_err(|error| error.to_string())?;
    terms
        .into_iter()
        .try_fold(0_u32, u32::checked_add)
        .ok_or_else(|| "overflow".into())
}

fn call() {
    let out = tempfile::tempdir().unwrap();
    let machine = Machine::new().out(out.path());
    let mut lines = Vec::new();
    let mut show = |line: &str| lines.push(line.to_owned());
    let sum: u32 = machine
        .call(kernel(), "adding", &[1_u32, 2], &mut show)
        .unwrap();
    assert_eq!((sum, lines), (3, vec!["adding".to_owned()]));
    assert_eq!(fs::read_to_string(out.path().join("file")).unwrap(), "left");
    let call = machine.call::<_, u32>(kernel(), "adding", &[u32::MAX, 2], &mut |_| ());
    assert!(call.unwrap_err().to_string().contains("error: overflow"));
}

fn call_on_the_host() {
    let out = tempfile::tempdir().unwrap();
    let minute = Duration::from_secs(60);
    let sum = |terms: &[u32]| {
        kernel_patch::call_here::<_, u32>("adding here", terms, out.path(), minute, &mut |_| ())
    };
    assert_eq!(sum(&[1, 2]).unwrap(), 3);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
    assert!(
        sum(&[u32::MAX, 2])
            .unwrap_err()
            .to_string()
            .contains("error: overflow")
    );
}

fn not_static() {
    let output = Command::new(kernel_patch::beside("kernel-patch").unwrap())
        .args(["run", "--wait", "--", "/bin/true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("/bin/true is linked dynamically"),
        "{stderr}"
    );
}

/// The processes with `text` in their command line.
fn processes(text: &str) -> Vec<u32> {
    let has = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    };
    let entries = fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(has)
        .collect()
}
