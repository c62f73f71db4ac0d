//! The work of whole VMMs by ioctls and by the calls: the table of the work, the record of
//! a measurement, and its documents.

pub mod documents;
pub mod record;
pub mod way;
pub mod work;
