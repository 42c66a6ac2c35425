//! What the tests of ways to reach a PCI function have in common: a tiny driver, made of an admin
//! queue and nothing else, to test a backend alone, and verified I/O by the real one.

mod admin;
mod check;
mod failover;
mod io;

pub use admin::Admin;
pub use check::{Abilities, Failure, Result, check};
pub use failover::failover;
pub use io::{head, host, verified_io};
