//! What tests that cross crates have in common: the targets that they run on ([`Bed`]), I/O that
//! checks itself ([`Load`]), and waiting for things to happen.
//!
//! Nothing here returns errors: a test that cannot go on panics and says what it was doing.

#![forbid(unsafe_code)]
#![expect(clippy::missing_panics_doc, reason = "helpers of tests panic for what a test must have")]

mod bed;
mod load;
mod pattern;
mod session;
mod wait;

pub use bed::{Bed, GROUPS, Nvmet, PORTS, Software, target_ana};
pub use load::{Load, LoadReport};
pub use pattern::Pattern;
pub use session::{ChannelExt, Removal, Session, eager, host, host_options, persistent};
pub use wait::{LIMIT, MOMENT, wait_for, wait_until};

/// The README's program, run as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
