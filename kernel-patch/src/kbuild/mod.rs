//! From a kernel source and the patch series to a built kernel. (A directory named
//! `build` would look generated to many tools.)

pub(crate) mod base;
pub(crate) mod checkout;
pub(crate) mod config;
pub(crate) mod digest;
pub(crate) mod error;
pub(crate) mod kernel;
pub(crate) mod make;
pub(crate) mod mutation;
pub(crate) mod selftests;
pub(crate) mod series;
pub(crate) mod source;
pub(crate) mod tree;
pub(crate) mod variant;

pub use self::base::Base;
pub use self::error::BuildError;
pub use self::kernel::{Kernel, KernelBuilder, build_dir};
pub(crate) use self::make::Make;
pub use self::mutation::Mutation;
pub(crate) use self::series::{Patch, Series};
pub(crate) use self::source::Source;
pub(crate) use self::tree::BUILD;
pub use self::variant::Variant;
