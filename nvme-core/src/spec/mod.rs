//! The structures and codes of the NVMe specifications as they travel on the wire.
//!
//! Everything here is a plain view of bytes: no I/O, no policy. Section numbers are those of NVM Express Base
//! Specification 2.1 (`NVMe`), NVM Command Set Specification 1.1 (`NVM`) and NVMe/TCP Transport Specification
//! 1.1 (`TCP`).
//!
//! Three habits run through the module:
//! - integers of several bytes are `zerocopy::little_endian` types, so a structure has alignment 1 and can be
//!   borrowed straight out of a receive buffer (the submission entry alone is aligned to 8);
//! - codes are open: a newtype over the integer with named constants, so a value that a newer peer sends is kept
//!   and can be printed, and never has to be rejected by a conversion;
//! - whatever has a variable length is read by a parser which checks every bound and whose error names the
//!   offset at which the bytes stopped making sense.

#[macro_use]
mod macros;

pub mod aen;
pub mod command;
pub mod completion;
mod error;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod log;
pub mod opcode;
pub mod registers;
pub mod status;
pub mod tcp;
mod text;

pub use command::{BlockCount, CommandError, SglDescriptor, Sqe};
pub use completion::Cqe;
pub use error::WireError;
pub use status::Status;

/// The namespace identifier that addresses every namespace of a controller (NVMe 2.1 §3.2.1.2).
pub const NSID_ALL: u32 = 0xffff_ffff;
