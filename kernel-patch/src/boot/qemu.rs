//! QEMU: its command line and its version.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{BootError, Result};
use super::executable;
use crate::boot::accel::Accel;
use crate::boot::machine::Machine;
use crate::boot::run_dir::RunDir;
use crate::host::{needs, packages, process};
use crate::wire::job::HOST_TAG;

/// The emulator's program.
pub(crate) const PROGRAM: &str = needs::QEMU.name;

/// Returns the path of QEMU's program. Installs QEMU if it is missing and the user may
/// install packages.
///
/// # Errors
///
/// QEMU is still missing.
pub fn program() -> Result<PathBuf> {
    packages::ensure(needs::RUN)?;
    executable::find(Path::new(PROGRAM))
}

impl Machine {
    /// A description for a report: the emulator (with QEMU's version), what executes the
    /// instructions, and the processor.
    ///
    /// # Errors
    ///
    /// QEMU cannot be run.
    pub fn describe(&self) -> Result<String> {
        let emulator = match self.accel {
            Accel::Bochs => self.accel.emulator().into(),
            accel => format!("{}, {}", version()?, accel.qemu_args()),
        };
        Ok(format!("{emulator}, {}", self.model()))
    }
}

pub(crate) fn version() -> Result<String> {
    let text = output("--version")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn output(option: &str) -> Result<String> {
    Ok(process::stdout(Command::new(PROGRAM).arg(option), PROGRAM)?)
}

/// Fails unless QEMU supports plugins, which some builds of it do not.
pub(crate) fn check_plugins() -> Result<()> {
    let help = output("--help")?;
    if help.lines().any(|it| it.starts_with("-plugin ")) {
        return Ok(());
    }
    Err(BootError::NoPlugins(version()?))
}

/// Returns the command that boots `image` in QEMU. Each of `ports` has its name and the
/// file that receives its bytes, each of `inputs` its name and QEMU's description of where
/// its bytes come from.
pub(crate) fn command(
    machine: &Machine,
    image: &Path,
    cmdline: &str,
    dir: &RunDir,
    ports: &[(&str, PathBuf)],
    inputs: &[(&str, String)],
) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["-M", "pc", "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none"])
        .args(machine.accel.qemu_args().split(' '))
        .args(["-cpu", machine.model()])
        // The kernel finds processors in SeaBIOS' MP table, which has an entry for
        // each socket, not for each core.
        .args(["-smp", &format!("{0},sockets={0}", machine.smp)])
        .args(["-m", &machine.memory])
        // The same random numbers each time.
        .args(["-seed", "1", "-rtc", rtc(machine)])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(dir.initramfs())
        .args(["-append", cmdline])
        .arg("-chardev")
        .arg(to_file("console", &dir.console()))
        .args(["-serial", "chardev:console"])
        // Without ioeventfd a write ends with the instruction that notifies the
        // device, and nothing depends on the host's threads.
        .args(["-device", "virtio-serial-pci,ioeventfd=off"]);
    for (name, path) in ports {
        let device = format!("virtserialport,chardev={name},name={name}");
        command.arg("-chardev").arg(to_file(name, path));
        command.args(["-device", &device]);
    }
    if machine.host_root {
        let root = "local,path=/,security_model=none,readonly=on,multidevs=remap";
        let id = HOST_TAG;
        command.args(["-fsdev", &format!("{root},id={id}")]);
        let device = format!("virtio-9p-pci,fsdev={id},mount_tag={id},ioeventfd=off");
        command.args(["-device", &device]);
    }
    for (name, chardev) in inputs {
        let device = format!("virtserialport,chardev={name},name={name}");
        command.args(["-chardev", chardev, "-device", &device]);
    }
    if let Some((library, out)) = &machine.plugin {
        let (library, out) = (escaped(library), escaped(out));
        command.args(["-plugin", &format!("{library},out={out}")]);
    }
    command.args(&machine.qemu_args);
    command
}

/// The clock: the same date each time, except where the times of the host's files matter
/// and nothing repeats anyway.
fn rtc(machine: &Machine) -> &'static str {
    match machine.accel {
        Accel::Mttcg | Accel::Kvm if machine.host_root => "base=utc,clock=vm",
        _ => "base=2024-01-01,clock=vm",
    }
}

fn to_file(id: &str, path: &Path) -> String {
    format!("file,id={id},path={}", escaped(path))
}

/// Doubles commas, which would otherwise end the path.
pub(super) fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
