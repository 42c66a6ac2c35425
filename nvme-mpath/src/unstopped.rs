//! Devices that have been given up and do not stop.

use std::sync::Arc;

use nvme_core::time::Instant;

use crate::ids::ControllerId;

/// A device that was given up, and that nothing has stopped yet: it does not answer, or does not obey. It
/// may still write to the buffers of the requests that it has, and still execute them, so that nothing of
/// that is given back, and nothing of it is sent elsewhere, until it is known to have stopped.
/// [`Host::unstopped`](crate::Host::unstopped) lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unstopped {
    /// The controller that it was; it may have been brought up again since, or be gone.
    pub controller: ControllerId,
    /// Its address.
    pub address: Arc<str>,
    /// When it was given up, on the host's clock.
    pub since: Instant,
}
