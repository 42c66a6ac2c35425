//! The parts of an NVMe host that know the specification and nothing else: wire structures
//! ([`spec`]), one controller as a state machine without I/O and without a clock ([`controller`]),
//! and the seam that transports implement ([`transport`]).

#![deny(unsafe_code)]

pub mod ana;
pub mod buffer;
pub mod controller;
pub mod identity;
pub mod list;
pub mod memory;
pub mod nqn;
pub mod quirk;
pub mod spec;
pub mod time;
pub mod transport;
