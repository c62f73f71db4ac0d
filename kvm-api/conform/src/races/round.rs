//! What each round of a race has: the interfaces by which it is made.

use std::fmt::{self, Display};

use kvm_api::Kvm;
use kvm_api::ioctl::Ioctl;
use kvm_api::syscall::Syscall;

use super::random::Random;

/// An interface that threads share.
pub type Interface = dyn Kvm + Sync;

/// Which interfaces race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// The system calls with themselves.
    Syscall,
    /// The ioctls with themselves.
    Ioctl,
    /// The one with the other; which is which takes turns.
    Mixed,
}

impl Pairing {
    pub const ALL: [Self; 3] = [Self::Syscall, Self::Ioctl, Self::Mixed];
}

impl Display for Pairing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syscall => "syscall",
            Self::Ioctl => "ioctl",
            Self::Mixed => "mixed",
        })
    }
}

/// One round.
pub struct Round {
    /// Which it is, from 0 on.
    pub number: u64,
    pub pairing: Pairing,
    pub random: Random,
    syscall: Syscall,
    ioctl: Ioctl,
}

impl Round {
    pub fn new(number: u64, pairing: Pairing, random: Random) -> Self {
        Self {
            number,
            pairing,
            random,
            syscall: Syscall::open().unwrap(),
            // One that has seen no machines yet.
            ioctl: Ioctl::open().unwrap(),
        }
    }

    /// The interface of the n-th of several that race.
    pub fn interface(&self, n: usize) -> &Interface {
        match self.pairing {
            Pairing::Syscall => &self.syscall,
            Pairing::Ioctl => &self.ioctl,
            Pairing::Mixed if (self.number as usize + n).is_multiple_of(2) => &self.syscall,
            Pairing::Mixed => &self.ioctl,
        }
    }

    /// What vcpus are made and run by.
    pub fn runner(&self) -> &Interface {
        self.interface(0)
    }

    /// What is done to them meanwhile.
    pub fn other(&self) -> &Interface {
        self.interface(1)
    }

    /// Waits for a random while.
    pub fn pause(&self) {
        self.random.pause();
    }
}
