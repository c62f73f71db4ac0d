//! Tests of programs of the host in the machine: what they see, what passes through, and
//! that nothing comes back but the output.
//!
//! This executable is the machine's first process in one of them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use kernel_patch::{Accel, BootError, Exit, Kernel, Machine};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::libc::{TIOCSWINSZ, winsize};
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::tcgetattr;

fn main() -> ExitCode {
    kernel_patch::init_if_first();
    let tests: [(&str, fn()); 6] = [
        ("streams_and_status", streams_and_status),
        ("changes_stay_inside", changes_stay_inside),
        ("without_input", without_input),
        ("terminal", terminal),
        ("escape", escape),
        ("refusals", refusals),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok::<_, Failed>(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

fn kernel() -> &'static Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let built = Kernel::builder().wait(true).build();
        built.unwrap_or_else(|error| panic!("{error}"))
    })
}

/// The command line that runs a script in the root of the host.
fn shell(options: &[&str], script: &str) -> Command {
    kernel();
    let mut command = Command::new(kernel_patch::beside("kernel-patch").unwrap());
    command.args(["run", "--wait", "--host-root"]).args(options);
    command.args(["--", "sh", "-c", script]);
    command
}

fn streams_and_status() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("here");
    fs::create_dir(&here).unwrap();
    let script =
        "cat; pwd; echo $SOME; echo no >/dev/stderr; echo left >$KERNEL_PATCH_OUT/file; exit 3";
    let out = dir.path().join("out");
    let mut child = shell(&["--out", out.to_str().unwrap()], script)
        .current_dir(&here)
        .env("SOME", "variable of the host")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // More than fits into the pipes and the queue of a port.
    let input = "line of the input\n".repeat(20_000);
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let expected = format!("{input}{}\nvariable of the host\n", here.display());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "no\n");
    assert!(output.stdout == expected.as_bytes(), "other output");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "left\n");
}

fn changes_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["changed", "removed"] {
        fs::write(dir.path().join(file), "old").unwrap();
    }
    let script = "echo new >changed && rm removed && mkdir made && cat changed && ls -x && \
        test -c /dev/kvm && test -d /proc/self && test -d /sys/module/kvm && \
        unshare --user true && cat /kernel-patch-test/given";
    let file = ["--file", "changed:/kernel-patch-test/given"];
    let output = shell(&file, script).current_dir(dir.path()).output();
    let output = output.unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout, "new\nchanged  made\nold", "{output:?}");
    assert!(!Path::new("/kernel-patch-test").exists());
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["changed", "removed"]);
    assert_eq!(fs::read(dir.path().join("changed")).unwrap(), b"old");
}

/// Another program gives no input unless it says so.
fn without_input() {
    let machine = Machine::new().host_root(true);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["-c", "wc -c; tty; exit 7"].map(String::from);
    let exit = machine.run(kernel(), Path::new("sh"), &args, &mut out, &mut err);
    assert_eq!(exit.unwrap(), Exit::Code(7));
    assert_eq!(String::from_utf8(out).unwrap(), "0\nnot a tty\n");
    assert!(err.is_empty());
}

/// A terminal of the host, with a command on it.
struct OnTerminal {
    ends: OpenptyResult,
    child: Child,
    shown: String,
}

impl OnTerminal {
    fn run(size: (u16, u16), script: &str) -> Self {
        let ends = openpty(Some(&window(size)), None).unwrap();
        let end = || Stdio::from(ends.slave.try_clone().unwrap());
        let child = shell(&[], script)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let shown = String::new();
        Self { ends, child, shown }
    }

    /// Reads what the terminal shows until it shows `text`.
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(300);
        let mut master = File::from(self.ends.master.try_clone().unwrap());
        while !self.shown.contains(text) {
            let ended = self.child.try_wait().unwrap();
            let mut ends = [PollFd::new(self.ends.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ends, 100_u8).unwrap() > 0 {
                let mut bytes = [0; 4096];
                let count = master.read(&mut bytes).unwrap();
                self.shown += &String::from_utf8_lossy(&bytes[..count]);
                continue;
            }
            assert!(
                Instant::now() < deadline && ended.is_none(),
                "no {text:?} in {:?}",
                self.shown
            );
        }
    }

    fn enter(&self, text: &str) {
        let mut master = File::from(self.ends.master.try_clone().unwrap());
        master.write_all(text.as_bytes()).unwrap();
    }

    fn resize(&self, size: (u16, u16)) {
        nix::ioctl_write_ptr_bad!(set_size, TIOCSWINSZ, winsize);
        // SAFETY: the ioctl reads the structure.
        unsafe { set_size(self.ends.master.as_raw_fd(), &window(size)) }.unwrap();
    }

    /// Waits for the end. Returns the exit status.
    fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the command does not end: {:?}", self.shown);
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // A test that fails leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn window((ws_row, ws_col): (u16, u16)) -> winsize {
    winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn terminal() {
    let script = "trap 'stty size' WINCH; trap 'echo interrupted; exit 5' INT; \
        stty size; test -t 2 && tty; read line; echo \"got $line\"; \
        while :; do sleep 0.1; done";
    let mut it = OnTerminal::run((33, 77), script);
    let before = tcgetattr(&it.ends.slave).unwrap();
    it.wait_for("33 77\r\n/dev/pts/0\r\n");
    it.enter("some words\n");
    // The terminal inside echoes, the one outside does not.
    it.wait_for("got some words\r\n");
    assert_eq!(it.shown.matches("some words").count(), 2, "{}", it.shown);
    it.resize((20, 50));
    it.wait_for("20 50\r\n");
    // Ctrl-C is for the program.
    it.enter("\x03");
    it.wait_for("interrupted\r\n");
    assert_eq!(it.end(), Some(5));
    assert_eq!(tcgetattr(&it.ends.slave).unwrap(), before);
}

/// Also a program that takes no Ctrl-C can be ended.
fn escape() {
    let mut it = OnTerminal::run((24, 80), "trap '' INT; echo deaf; cat");
    it.wait_for("deaf\r\n");
    it.enter("\x03\x1d\x1d\x1d");
    it.wait_for("kernel-patch: interrupted\r\n");
    assert_eq!(it.end(), Some(130));
}

fn refusals() {
    let output = Command::new(kernel_patch::beside("kernel-patch").unwrap())
        .args(["run", "--host-root", "--", "no-such-program"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "kernel-patch: no-such-program is not a program in PATH\n"
    );
    let machine = Machine::new().accel(Accel::Bochs).host_root(true);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let error = machine.run(kernel(), Path::new("sh"), &[], &mut out, &mut err);
    let error = error.unwrap_err();
    assert!(matches!(error, BootError::NotByBochs(_)), "{error}");
}
