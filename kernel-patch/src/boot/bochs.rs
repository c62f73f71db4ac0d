//! Bochs: its configuration, its boot disc, and its terminal.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{io, thread};

use nix::pty::openpty;

use super::error::{BootError, Result};
use crate::boot::machine::Machine;
use crate::boot::run_dir::RunDir;
use crate::host::{IoContext, needs, process};

/// The program of the emulator.
pub(crate) const PROGRAM: &str = needs::BOCHS_PROGRAM.name;

/// The plugins that a machine needs.
const PLUGINS: [&str; 4] = ["unmapped", "biosdev", "extfpuirq", "serial"];
/// The display that needs no window.
const DISPLAY: &str = "term";
const BIOS: &str = needs::BOCHS_BIOS.name;
const VGA_BIOS: &str = needs::BOCHS_VGA_BIOS.name;
const MKISOFS: &str = needs::GENISOIMAGE.name;

/// The kernel's name of the serial line that carries the ports.
pub(crate) const LINE: &str = "ttyS1";

/// The number of instructions in a second of the machine's time: about as many as Bochs
/// executes in a real second, so that the kernel's timeouts fit.
const IPS: u32 = 50_000_000;

/// Makes a disc and a configuration, and returns the command that boots `image` with them.
/// `line` is the file that receives the bytes of the line.
pub(crate) fn command(
    machine: &Machine,
    image: &Path,
    cmdline: &str,
    dir: &RunDir,
    line: &Path,
) -> Result<Command> {
    let disc = disc(image, cmdline, dir)?;
    let config = file(dir, "bochsrc", &config(machine, dir, line, &disc)?)?;
    // Debian's build includes a debugger, which waits for this command.
    let debugger = file(dir, "debugger", "continue\n")?;
    let mut command = process::tool(PROGRAM);
    command.env("TERM", "vt100");
    command.args(["-q", "-f"]).arg(config);
    command.arg("-rc").arg(debugger);
    Ok(command)
}

fn file(dir: &RunDir, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.path().join(name);
    fs::write(&path, text).cannot("write", &path)?;
    Ok(path)
}

/// Makes a disc that boots the kernel.
fn disc(image: &Path, cmdline: &str, dir: &RunDir) -> Result<PathBuf> {
    let files = dir.path().join("disc");
    fs::create_dir(&files).cannot("make", &files)?;
    let config =
        format!("default linux\nlabel linux\nkernel linux\ninitrd initrd\nappend {cmdline}\n");
    file(dir, "disc/isolinux.cfg", &config)?;
    for (from, name) in [
        (Path::new(needs::ISOLINUX.name), "isolinux.bin"),
        (Path::new(needs::LDLINUX.name), "ldlinux.c32"),
        (image, "linux"),
        (&dir.initramfs(), "initrd"),
    ] {
        let to = files.join(name);
        fs::copy(from, &to).cannot("write", &to)?;
    }
    let disc = dir.path().join("disc.iso");
    let mut command = process::tool(MKISOFS);
    command
        .args(["-quiet", "-R", "-b", "isolinux.bin", "-c", "boot.cat"])
        .args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"])
        .arg("-o")
        .arg(&disc)
        .arg(&files);
    process::run(&mut command, MKISOFS, &dir.path().join("genisoimage.log"))?;
    Ok(disc)
}

fn config(machine: &Machine, dir: &RunDir, line: &Path, disc: &Path) -> Result<String> {
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    let plugins = PLUGINS.map(|name| format!("{name}=1")).join(", ");
    Ok(format!(
        "config_interface: textconfig\n\
         display_library: {DISPLAY}\n\
         plugin_ctrl: {plugins}\n\
         romimage: file={BIOS}\n\
         vgaromimage: file={VGA_BIOS}\n\
         megs: {}\n\
         cpu: model={}, count={}, ips={IPS}, reset_on_triple_fault=0\n\
         clock: sync=none, time0=1704067200\n\
         ata0-master: type=cdrom, path={}, status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=file, dev={}\n\
         com2: enabled=1, mode=file, dev={}\n\
         log: {}\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=ignore\n\
         debug: action=ignore\n",
        megabytes(&machine.memory)?,
        machine.model(),
        machine.smp,
        quoted(disc),
        quoted(&dir.console()),
        quoted(line),
        quoted(&dir.log()),
    ))
}

/// Converts a size of memory from QEMU's notation to megabytes.
fn megabytes(size: &str) -> Result<u32> {
    let megabytes = match size.strip_suffix('G') {
        Some(number) => number.parse().ok().and_then(|it: u32| it.checked_mul(1024)),
        None => size.strip_suffix('M').unwrap_or(size).parse().ok(),
    };
    megabytes.ok_or_else(|| BootError::BadMemory(size.into()))
}

/// Opens a terminal on which Bochs draws the machine's screen. Its output is discarded.
pub(crate) fn terminal() -> Result<OwnedFd> {
    let pty = openpty(None, None).cannot_named("open", "a terminal for Bochs")?;
    let mut master = File::from(pty.master);
    // The copy ends when the other side is closed.
    thread::spawn(move || io::copy(&mut master, &mut io::sink()));
    Ok(pty.slave)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::host::packages;

    /// The files that a configuration names: those after `=` or `: `, and the plugins.
    fn named(config: &str) -> BTreeSet<PathBuf> {
        let words = config.split([' ', '=', ',', '"', '\n']);
        let mut files: BTreeSet<_> = words
            .filter(|word| word.starts_with('/'))
            .map(PathBuf::from)
            .collect();
        let value = |key: &str| {
            let mut lines = config.lines();
            lines.find_map(|line| line.strip_prefix(key)).unwrap()
        };
        let plugins = value("plugin_ctrl: ").split(", ");
        let plugins = plugins.map(|plugin| plugin.strip_suffix("=1").unwrap().to_owned());
        let display = format!("{}_gui", value("display_library: "));
        let directory = Path::new(needs::BOCHS_TERMINAL.name).parent().unwrap();
        files.extend(
            plugins
                .chain([display])
                .map(|name| directory.join(format!("libbx_{name}.so"))),
        );
        files
    }

    /// The list of needs contains all files that Bochs opens on the host, and each of them
    /// opens once the needs are met.
    #[test]
    fn the_needs_contain_the_files_of_the_configuration() {
        packages::ensure(needs::BOCHS).unwrap();
        let dir = RunDir::make().unwrap();
        let ours = |name: &str| dir.path().join(name);
        let config = config(&Machine::new(), &dir, &ours("line"), &ours("disc")).unwrap();
        let hosts = named(&config);
        let hosts: Vec<_> = hosts
            .iter()
            .filter(|it| !it.starts_with(dir.path()))
            .collect();
        assert_eq!(hosts.len(), 2 + PLUGINS.len() + 1, "{config}");
        let asked: Vec<_> = needs::BOCHS.iter().filter_map(|need| need.file()).collect();
        for file in hosts {
            assert!(asked.contains(&file.as_path()), "{}", file.display());
            File::open(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }

    #[test]
    fn sizes_of_memory() {
        for (size, megabytes) in [("1G", Some(1024)), ("512M", Some(512)), ("64", Some(64))] {
            assert_eq!(self::megabytes(size).ok(), megabytes, "{size}");
        }
        for size in ["", "G", "1T", "-1M", "9999999G", "1é"] {
            assert!(megabytes(size).is_err(), "{size}");
        }
    }
}
