//! What each call into KVM costs, interface by interface.
//!
//! A [`Case`] is a row: a call, a kind of exit, or work made of several. An
//! [`Interface`] is a column: a backend of [`kvm_api::Kvm`], or `kvm-ioctls` for
//! comparison. Where both meet, a [`Workload`] makes the call again and again,
//! and [`measure()`] counts what it takes, by itself ([`exact`]) and with
//! criterion ([`estimate`]).

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod backend;
pub mod batch;
mod cases;
pub mod chart;
pub mod counter;
pub mod diff;
pub mod estimate;
pub mod exact;
mod fixture;
pub mod grid;
mod interface;
pub mod legend;
mod measure;
pub mod parts;
mod peer;
pub mod place;
pub mod profiles;
pub mod record;
pub mod report;
pub mod seccomp;
pub mod table;
mod workload;

use guests::counting as guest;

pub use backend::{Bound, Files, Merged, StaticForm};
pub use cases::Case;
pub use interface::{Column, INTERFACES, Interface, Interfaces, Named};
pub use measure::{Selection, measure};
pub use workload::Workload;
