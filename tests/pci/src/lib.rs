//! What the tests of ways to reach a PCI function have in common: a tiny driver, made of an admin
//! queue and nothing else, to test a backend alone, and verified I/O by the real one.

mod admin;
mod attach;
mod check;
mod failover;
mod identity;
mod io;
mod metadata;
mod places;
mod stall;

pub use admin::Admin;
pub use attach::attach;
pub use check::{Abilities, Failure, Result, check};
pub use failover::failover;
pub use identity::identity;
pub use io::{Ways, head, host, verified_io};
pub use metadata::with_metadata;
pub use places::every_place;
pub use stall::stall;
