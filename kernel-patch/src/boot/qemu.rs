//! The command line of QEMU.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{BootError, Result};
use crate::host::{needs, process};
use crate::wire::job::port;

/// The emulator's program.
pub(crate) const PROGRAM: &str = needs::QEMU.name();

pub(crate) fn version() -> Result<String> {
    let text = says("--version")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn says(option: &str) -> Result<String> {
    let output = process::output(Command::new(PROGRAM).arg(option), PROGRAM)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fails unless QEMU supports plugins, which some builds of it do not.
pub(crate) fn check_plugins() -> Result<()> {
    if says("--help")?.lines().any(|it| it.starts_with("-plugin ")) {
        Ok(())
    } else {
        Err(BootError::NoPlugins(version()?))
    }
}

/// The command line of QEMU.
pub(crate) struct QemuCommand<'a> {
    /// The options that choose what executes the instructions.
    pub(crate) accel: &'a [&'a str],
    pub(crate) cpu: &'a str,
    pub(crate) smp: u32,
    pub(crate) memory: &'a str,
    pub(crate) image: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) cmdline: &'a str,
    pub(crate) console: &'a Path,
    /// A plugin, and the file that it writes.
    pub(crate) plugin: Option<&'a (PathBuf, PathBuf)>,
    /// The file that receives the bytes of each port.
    pub(crate) ports: [(&'static str, OsString); port::ALL.len()],
    pub(crate) more: &'a [OsString],
}

impl QemuCommand<'_> {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["-M", "pc", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .args(self.accel)
            .args(["-cpu", self.cpu])
            // The kernel finds processors in SeaBIOS' MP table, which has an entry for
            // each socket, not for each core.
            .args(["-smp", &format!("{0},sockets={0}", self.smp)])
            .args(["-m", self.memory])
            // The same random numbers and the same date each time.
            .args(["-seed", "1", "-rtc", "base=2024-01-01,clock=vm"])
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", self.cmdline])
            .arg("-chardev")
            .arg(to_file("console", self.console.as_os_str()))
            .args(["-serial", "chardev:console"])
            // Without ioeventfd a write ends with the instruction that notifies the
            // device, and nothing depends on the host's threads.
            .args(["-device", "virtio-serial-pci,ioeventfd=off"]);
        for (name, path) in &self.ports {
            command.arg("-chardev").arg(to_file(name, path)).args([
                "-device",
                &format!("virtserialport,chardev={name},name={name}"),
            ]);
        }
        if let Some((library, out)) = self.plugin {
            let mut arg = escaped(library);
            arg.push(",out=");
            arg.push(escaped(out));
            command.arg("-plugin").arg(arg);
        }
        command.args(self.more);
        command
    }
}

fn to_file(id: &str, path: &std::ffi::OsStr) -> OsString {
    let mut text = OsString::from(format!("file,id={id},path="));
    text.push(escaped(Path::new(path)));
    text
}

/// Doubles commas, which would otherwise end the path.
fn escaped(path: &Path) -> OsString {
    path.to_string_lossy().replace(',', ",,").into()
}
