//! What each call into KVM costs, interface by interface.
//!
//! A [`Case`] is a row: a call, a kind of exit, or larger work. A [`Column`] is an
//! interface: a form of `kvm-api`, or `kvm-ioctls` for comparison. Where both meet, a
//! [`Workload`] makes the call again and again, and [`measure()`] counts its instructions
//! ([`exact`]), and has criterion estimate the mean ([`estimate`]).

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod case;
pub mod cases;
pub mod chart;
pub mod counter;
pub mod cycles;
pub mod diff;
pub mod estimate;
pub mod exact;
mod fixture;
mod form;
pub mod grid;
pub mod hosts;
mod interface;
mod interfaces;
mod layout;
pub mod legend;
mod measure;
pub mod output;
pub mod parts;
mod peer;
pub mod place;
mod processors;
pub mod profiles;
pub mod record;
pub mod report;
pub mod seccomp;
pub mod table;
pub mod vendors;
pub mod vmm;
mod workload;

use guests::counting as guest;

pub use case::Case;
pub use form::{Files, StaticForm};
pub use interface::{Column, INTERFACES};
pub use interfaces::{Interfaces, Named};
pub use measure::{CRITERION, Selection, measure};
pub use workload::Workload;
