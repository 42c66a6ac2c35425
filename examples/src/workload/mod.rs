//! A workload that checks what it does.
//!
//! Every block that is written carries a [`stamp`]; a [`ledger`] knows which stamps a read may find
//! at any moment, while writes overlap each other and the read; the [`engine`] makes requests and
//! judges their ends; [`run`] drives it over a channel of the library.
//!
//! It does not matter to it who makes the faults.

pub mod engine;
pub mod ledger;
pub mod plan;
pub mod run;
pub mod stamp;
pub mod tally;

#[cfg(test)]
mod fake;

pub use engine::Engine;
pub use plan::{Pattern, Plan};
pub use run::{Handle, Orders, Progress};
pub use tally::Tally;
