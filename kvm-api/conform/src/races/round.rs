//! A round of a race, and the interfaces that it uses.

use std::fmt::{self, Display};

use kvm_api::Form;
use kvm_api::ioctl::Ioctl;
use kvm_api::syscall::Syscall;

use super::guest::{Guest, SharedKvm};
use super::random::Random;
use crate::trait_calls::complete_forms;

/// The interfaces that race with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// The calls of one form with each other.
    One(Form),
    /// The system calls with the ioctls, in alternating roles.
    Mixed,
}

impl Pairing {
    pub fn all() -> impl Iterator<Item = Self> {
        complete_forms().map(Self::One).chain([Self::Mixed])
    }
}

impl Display for Pairing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One(form) => form.name(),
            Self::Mixed => "mixed",
        })
    }
}

pub struct Round {
    /// The number of the round, from 0 on.
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
            // A backend that has not seen any VMs yet.
            ioctl: Ioctl::open().unwrap(),
        }
    }

    /// The interface of the n-th of several that race.
    pub fn interface(&self, n: usize) -> &SharedKvm {
        match self.flat(n) {
            Some(_) => &self.syscall,
            None => &self.ioctl,
        }
    }

    /// The system calls, if they are the interface of the n-th.
    pub fn flat(&self, n: usize) -> Option<Syscall> {
        let flat = match self.pairing {
            Pairing::One(form) => form != Form::Ioctl,
            Pairing::Mixed => (self.number as usize + n).is_multiple_of(2),
        };
        flat.then_some(self.syscall)
    }

    /// The interface that creates and runs vCPUs.
    pub fn runner(&self) -> &SharedKvm {
        self.interface(0)
    }

    /// The interface of the concurrent operations.
    pub fn other(&self) -> &SharedKvm {
        self.interface(1)
    }

    /// A guest that the runner creates.
    pub fn guest(&self, program: &[u8]) -> Guest {
        Guest::new(self.runner(), program)
    }

    /// A guest that counts in its memory and never exits.
    pub fn counting(&self) -> Guest {
        Guest::counting(self.runner())
    }

    pub fn pause(&self) {
        self.random.pause();
    }
}
