//! A small VMM, made of the crates that larger VMMs in Rust are made of: kvm-ioctls,
//! vm-memory, linux-loader and vm-superio. It knows nothing of the system calls.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod exits;
mod guest;
mod linux;
mod memory;
mod vm;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Runs a guest by KVM.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Boot Linux, and show its console until it resets the machine
    Boot {
        /// The kernel, a bzImage
        kernel: PathBuf,
        /// The initial RAM disk
        initrd: PathBuf,
        /// The command line of the kernel
        cmdline: String,
    },
    /// Leave the guest in loops, and print for each loop its rounds and the ticks of the
    /// guest's time stamp counter
    Exits {
        /// The rounds of each loop
        rounds: u32,
    },
    /// Log the pages that a guest writes, and replace a memory slot, in rounds
    Memory {
        /// The number of rounds
        rounds: u32,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Boot {
            kernel,
            initrd,
            cmdline,
        } => linux::boot(&kernel, &initrd, &cmdline),
        Command::Exits { rounds } => exits::measure(rounds),
        Command::Memory { rounds } => memory::log(rounds),
    }
}
