//! What tests that cross crates have in common.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use nvme_core::nqn::Uuid;
use nvme_mpath::{Host, HostOptions};
use nvme_tcp::TcpTransport;

/// Long enough for anything that should happen at all on a slow, shared machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The options of a host that speaks TCP.
#[must_use]
pub fn host_options() -> HostOptions {
    HostOptions::new(Uuid(*b"nvme-host-tests!")).transport(TcpTransport::default())
}

/// A host that speaks TCP.
///
/// # Panics
/// When the operating system gives no thread.
#[must_use]
pub fn host() -> Host {
    Host::new(host_options()).expect("a host")
}

/// Waits until `look` finds something, at most [`LIMIT`].
///
/// # Panics
/// When it does not.
pub fn wait_for<R>(what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {LIMIT:?} for {what}");
        std::thread::yield_now();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The README's program, run as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
