//! The names inside the new machine.

/// The ordinary user.
pub(super) const USER: &str = "user";

/// The checkout.
pub(super) const CHECKOUT: &str = "/home/user/checkout";

/// The directory that the checkout is moved to.
pub(super) const ELSEWHERE: &str = "/home/user/elsewhere";

/// Rust's toolchain.
pub(super) const TOOLCHAIN: &str = "/opt/rust";

/// Cargo's directory, for every user.
pub(super) const CARGO_HOME: &str = "/var/cache/cargo";
