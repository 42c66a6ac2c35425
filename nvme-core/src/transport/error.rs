//! What is wrong with a URL, and why an association or a queue ended.

use crate::time::Duration;

/// A URL that a transport cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {reason}")]
pub struct UrlError {
    /// The URL as given.
    pub url: String,
    /// What is wrong with which part.
    pub reason: String,
}

/// Why an association or a queue ended. The text says what was being done to what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address could not be reached.
    #[error("connecting to {address}: {reason}")]
    Connect {
        /// The peer.
        address: String,
        /// The operating system's or resolver's answer.
        reason: String,
    },
    /// Something took longer than allowed.
    #[error("{address}: {what} took longer than {limit:?}")]
    Timeout {
        /// The peer.
        address: String,
        /// What was waited for.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The peer closed the connection, or it broke.
    #[error("{address}: connection lost: {reason}")]
    Lost {
        /// The peer.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// The device has been taken away. It will not answer under this address again unless somebody
    /// puts it back, so that trying again is of no use until then.
    #[error("{address}: the device is gone: {reason}")]
    Gone {
        /// The device.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// Memory could not be had, or could not be made reachable.
    #[error("memory for {address}: {reason}")]
    Memory {
        /// The device, or the kind of device.
        address: String,
        /// What was tried and what is in the way.
        reason: String,
    },
    /// The peer broke the protocol.
    #[error("{address}: protocol error: {reason}")]
    Protocol {
        /// The peer.
        address: String,
        /// Which field of which unit was wrong.
        reason: String,
    },
    /// This side ended it: the association was killed.
    #[error("{address}: closed by this host")]
    Closed {
        /// The peer.
        address: String,
    },
}
