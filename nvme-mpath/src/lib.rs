//! The multipath head.
//!
//! A [`Host`] connects to controllers by URL, joins the namespaces that are the same into
//! [`Head`]s, and keeps each head through the loss of its paths: I/O fails over, or waits, and only
//! after a chosen time without any path is the head removed. A path that returns first cancels the
//! removal.
//!
//! - [`Host`], [`HostOptions`]: made first, shut down last; [`Host::connect`] gives a [`Controller`].
//! - [`Channel`]: the I/O of one thread; [`Channel::submit`], [`Channel::poll`].
//! - [`DelayedRemoval`]: how long a head outlives its last path, per host and per head.
//! - [`PinGuard`]: what keeps the library alive; [`Host::pin_count`] must come back to where it was.
//! - [`Events`]: what happened; [`Observer`]: told of it at once.
//! - [`Host::snapshot`]: how everything is at the moment, also as JSON and for Prometheus.
//!
//! This crate names no transport: transports are handed in with [`HostOptions::transport`].

#![forbid(unsafe_code)]

mod channel;
mod clock;
mod control;
mod controller;
mod discovery;
mod error;
mod event;
mod fence;
mod head;
mod hedge;
mod host;
mod ids;
mod latency;
mod letterbox;
mod lifecycle;
mod load;
mod mailbox;
mod memory;
mod numa;
mod observe;
mod options;
mod pin;
mod policy;
mod published;
mod sync;
mod unstopped;
mod view;
mod window;

pub use channel::{BlockingError, Channel, IoCompletion, IoRequest, PassthroughCommand};
pub use clock::MonotonicClock;
pub use controller::Controller;
pub use discovery::DiscoveredSubsystem;
pub use error::{HostError, IoError, IoOp, ParkLimit, SubmitError, SubmitReason};
pub use event::{Event, Events, TimedEvent, TimeoutStep};
pub use fence::{Fence, FencedBy};
pub use head::{Head, HeadState, HeadStats, PathInfo};
pub use hedge::HedgeOptions;
pub use host::Host;
pub use ids::ControllerId;
pub use latency::{LatencyHistogram, PathLatency};
pub use numa::NumaTopology;
pub use nvme_core as core;
pub use observe::Observer;
#[cfg(feature = "tracing")]
pub use observe::TracingObserver;
pub use observe::snapshot::{
    ControllerSnapshot, ErrorCount, HeadSnapshot, PathSnapshot, PinSnapshot, Snapshot,
    SubsystemSnapshot, UnstoppedSnapshot,
};
pub use options::{ChannelOptions, ControllerOptions, HostOptions, OverdueAction, TimeoutPolicy};
pub use pin::{Keep, KeepFor, PinGuard, PinHolder, PinReason, PinsClosed};
pub use policy::{PathPolicy, UnknownPolicy};
pub use unstopped::Unstopped;
pub use view::Geometry;
pub use window::{DelayedRemoval, LossCause, Window};
