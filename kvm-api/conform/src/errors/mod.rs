//! The errno of each misuse of each call, over both interfaces. The tables are
//! in `files.rs`, `pointers.rs`, `numbers.rs`, `circumstances.rs` and
//! `conditions.rs`; docs/errors.md is made from them.

mod circumstances;
mod conditions;
#[cfg(test)]
mod docs;
mod expected;
mod files;
mod invocation;
mod misuse;
mod numbers;
mod others;
mod pointers;
mod processes;
mod signals;
mod signature;
mod testbed;
mod threads;

pub use others::Others;
pub use processes::inherited_call;

use anyhow::Result;

use self::expected::Route;
use self::misuse::{Misuse, Trial};
use self::testbed::{BothInterfaces, Testbed};
use crate::cli::Options;
use crate::inside::progress;
use crate::outcome::Outcome;
use crate::property::{Kernels, Property, Test};
use crate::signal;

pub const PROPERTY: Property = Property {
    name: "errors",
    about: "each misuse fails with its documented errno and changes nothing",
    backends: "ioctl, syscall, merged, ranges, bound, process",
    kernels: Kernels::Both,
    test: Test::inside(test),
};

/// A group of misuses, and its heading in docs/errors.md.
type Family = (&'static str, fn() -> Vec<Misuse>);

const FAMILIES: &[Family] = &[
    ("File descriptors", files::cases),
    ("Pointers", pointers::cases),
    ("Numbers", numbers::cases),
    ("Circumstances", circumstances::cases),
    ("Conditions", conditions::cases),
];

fn test(_: &Options) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let both = BothInterfaces::open()?;
    signal::handle(signal::KICK)?;
    for route in Route::ALL {
        for (name, cases) in FAMILIES {
            progress(&format!("{route:?}: {name}"));
            let mut testbed = Testbed::new(&both, route)?;
            let mut trial = Trial::new(&mut testbed)?;
            for case in cases() {
                trial.try_one(&case, &mut outcome)?;
            }
        }
    }
    Ok(outcome)
}
