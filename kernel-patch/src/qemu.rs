//! The command line of QEMU.

use std::ffi::OsString;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use crate::job::port;
use crate::{Error, Result};

/// The emulator's program.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// What runs the machine's instructions.
///
/// `/dev/kvm` has no say in it: there are hosts whose KVM has no hardware
/// behind it and runs no kernel, and a count of instructions needs emulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    /// Emulation; one instruction is one nanosecond of the machine's time.
    #[default]
    Tcg,
    /// Emulation in real time, each processor a thread of its own: nothing is
    /// counted, no two runs are alike, and processors race.
    Mttcg,
    /// Hardware virtualization, and nested for what runs inside.
    Kvm,
}

impl Accel {
    /// The processor that the machine sees, in QEMU's words.
    #[must_use]
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Tcg | Self::Mttcg => "EPYC,+svm,+npt",
            Self::Kvm => "host",
        }
    }

    /// What it is, in words for a report: QEMU's version, what runs the
    /// instructions, and the processor.
    ///
    /// # Errors
    ///
    /// When QEMU does not say its version.
    pub fn describe(self) -> Result<String> {
        let version = version()?;
        let args = self.args().join(" ");
        Ok(format!("{version}, {args}, {}", self.cpu()))
    }

    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Tcg => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
            ],
            Self::Mttcg => &["-accel", "tcg,thread=multi"],
            Self::Kvm => &["-accel", "kvm"],
        }
    }
}

impl Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcg => "tcg",
            Self::Mttcg => "mttcg",
            Self::Kvm => "kvm",
        })
    }
}

impl FromStr for Accel {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "tcg" => Ok(Self::Tcg),
            "mttcg" => Ok(Self::Mttcg),
            "kvm" => Ok(Self::Kvm),
            _ => Err("none of tcg, mttcg and kvm".into()),
        }
    }
}

fn version() -> Result<String> {
    let text = says("--version")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn says(option: &str) -> Result<String> {
    let output = Command::new(PROGRAM)
        .arg(option)
        .output()
        .map_err(|source| Error::Spawn {
            what: PROGRAM.into(),
            source,
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fails unless QEMU loads plugins, which is left out of it in some builds.
pub(crate) fn check_plugins() -> Result<()> {
    if says("--help")?.lines().any(|it| it.starts_with("-plugin ")) {
        Ok(())
    } else {
        Err(Error::NoPlugins(version()?))
    }
}

/// All that one boot needs.
pub(crate) struct Boot<'a> {
    pub(crate) accel: Accel,
    pub(crate) smp: u32,
    pub(crate) memory: &'a str,
    pub(crate) image: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) cmdline: &'a str,
    pub(crate) console: &'a Path,
    /// A plugin, and where it writes.
    pub(crate) plugin: Option<&'a (PathBuf, PathBuf)>,
    /// Where the bytes of each port go.
    pub(crate) ports: [(&'static str, OsString); port::ALL.len()],
    pub(crate) more: &'a [OsString],
}

impl Boot<'_> {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["-M", "pc", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .args(self.accel.args())
            .args(["-cpu", self.accel.cpu()])
            // The kernel finds processors by SeaBIOS' MP table, which has an entry
            // a socket, not one a core.
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
            // Without ioeventfd a write is done when the instruction that
            // kicked the device is: nothing depends on the host's threads.
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

/// QEMU takes a comma for the end of the path unless it is doubled.
fn escaped(path: &Path) -> OsString {
    path.to_string_lossy().replace(',', ",,").into()
}
