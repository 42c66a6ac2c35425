//! What several backends need of the operating system.

pub(crate) mod address;
pub(crate) mod bar;
pub(crate) mod huge;
pub(crate) mod limits;
pub(crate) mod mapping;
pub(crate) mod pool;
pub(crate) mod shared;

use std::io;

use crate::backend::BackendError;

/// Turns an error of the operating system into one that says what was being done to which function.
pub(crate) fn io_error<E: Into<io::Error>>(
    address: &str,
    what: impl Into<String>,
) -> impl FnOnce(E) -> BackendError {
    move |source| BackendError::Io {
        address: address.into(),
        what: what.into(),
        source: source.into(),
    }
}

/// An error about something that is not as it must be.
pub(crate) fn unusable(address: &str, reason: impl Into<String>) -> BackendError {
    BackendError::Unusable { address: address.into(), reason: reason.into() }
}
