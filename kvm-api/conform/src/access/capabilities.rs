//! The capabilities of a process.

use anyhow::Result;
use kvm_api::Errno;

/// One bit for each capability.
pub type Set = u64;

/// The capability to open files whatever their permissions say.
pub const DAC_OVERRIDE: Set = 1 << 1;

/// The capability to administer the system.
pub const SYS_ADMIN: Set = 1 << 21;

/// The version of the two system calls: 64 capabilities, as pairs of words.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The permitted capabilities of this process.
pub fn permitted() -> Result<Set> {
    let mut words = [Word::default(); 2];
    // SAFETY: both structures are as the call takes them.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &header(), words.as_mut_ptr()) })?;
    Ok(Set::from(words[0].permitted) | Set::from(words[1].permitted) << 32)
}

/// Drops all capabilities except this one.
pub fn keep(permitted: Set, effective: Set) -> Result<()> {
    let half = |set: Set, index: usize| (set >> (32 * index)) as u32;
    let words = [0, 1].map(|index| Word {
        effective: half(effective, index),
        permitted: half(permitted, index),
        inheritable: 0,
    });
    // SAFETY: both structures are as the call takes them.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &header(), words.as_ptr()) })?;
    Ok(())
}

fn header() -> Header {
    Header {
        version: VERSION,
        pid: 0,
    }
}
