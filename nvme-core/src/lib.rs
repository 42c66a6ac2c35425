//! NVMe wire structures, one controller as a state machine without I/O, and the transport traits.
#![deny(unsafe_code)]

pub mod nqn;
pub mod spec;
