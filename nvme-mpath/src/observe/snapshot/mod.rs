//! How everything of a host is at one moment, as plain values.

#[cfg(feature = "serde")]
mod encode;
mod prometheus;
mod take;

use nvme_core::ana::AnaState;
use nvme_core::controller::State;
use nvme_core::spec::Status;
use nvme_core::time::Duration;

use crate::head::{HeadState, HeadStats};
use crate::latency::PathLatency;
use crate::policy::PathPolicy;

/// What [`Host::snapshot`](crate::Host::snapshot) gives.
///
/// Counts are read one after the other while channels go on: each is right by itself, and sums of them
/// are right when nothing moves. With the feature `serde` all of it can be serialized: times are numbers
/// of seconds, states their names, and a histogram an object of `count`, the quantiles `p50`, `p99` and
/// `p999`, and `buckets`, pairs of an upper end and a count. [`Snapshot::to_prometheus`] gives the same data as text.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// Time on the host's clock, since that clock's origin.
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::seconds"))]
    pub at: Duration,
    /// The host's NQN.
    pub hostnqn: String,
    /// Subsystems of which there is a controller or a head, by NQN.
    pub subsystems: Vec<SubsystemSnapshot>,
    /// Controllers that are not gone for good, oldest first.
    pub controllers: Vec<ControllerSnapshot>,
    /// Devices that were given up and that nothing has stopped, oldest first.
    pub unstopped: Vec<UnstoppedSnapshot>,
    /// Heads that are not gone, oldest first.
    pub heads: Vec<HeadSnapshot>,
    /// Pins that are out, oldest first.
    pub pins: Vec<PinSnapshot>,
    /// The most pins that were ever out at once.
    pub pins_peak: usize,
}

/// One subsystem.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SubsystemSnapshot {
    /// Its NQN.
    pub nqn: String,
    /// Its controllers, by [`ControllerSnapshot::id`].
    pub controllers: Vec<u32>,
    /// Its heads, by [`HeadSnapshot::instance`].
    pub heads: Vec<u32>,
}

/// One controller.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ControllerSnapshot {
    /// Its number, [`ControllerId::as_u32`](crate::ControllerId::as_u32).
    pub id: u32,
    /// Its address.
    pub address: String,
    /// NQN of its subsystem; `None` until it was live for the first time, as the next three.
    pub subsystem: Option<String>,
    /// Controller ID.
    pub cntlid: Option<u16>,
    /// I/O queues granted on the last association.
    pub io_queues: Option<u16>,
    /// Entries of each of them.
    pub io_entries: Option<u16>,
    /// What the bus says that it is, such as `1b36:0010:1af4:1100`; `None` over fabrics.
    pub device: Option<String>,
    /// Names of what is known to be wrong with it
    /// ([`ControllerInfo::quirks`](nvme_core::controller::ControllerInfo::quirks)).
    pub quirks: Vec<&'static str>,
    /// Its state.
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::text"))]
    pub state: State,
    /// Time since its state last changed.
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::seconds"))]
    pub state_for: Duration,
    /// Time since the program connected.
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::seconds"))]
    pub age: Duration,
    /// Times that it came back after a loss.
    pub reconnects: u64,
    /// Why it was last lost, or did not come up; `None` while it is live.
    pub last_error: Option<String>,
    /// Its paths are used last.
    pub marginal: bool,
    /// Bytes of the host memory buffer that it uses.
    pub host_memory: u64,
    /// I/O commands in flight, over all namespaces and channels, when the channels last polled.
    pub in_flight: u64,
    /// I/O commands that ended, however, since the program connected.
    pub commands: u64,
    /// How long I/O took, from channels that count it
    /// ([`ChannelOptions::latency_histograms`](crate::ChannelOptions::latency_histograms)).
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::latency"))]
    pub latency: PathLatency,
}

impl Default for ControllerSnapshot {
    /// A controller that was just made.
    fn default() -> Self {
        Self {
            id: 0,
            address: String::new(),
            subsystem: None,
            cntlid: None,
            io_queues: None,
            io_entries: None,
            device: None,
            quirks: Vec::new(),
            state: State::New,
            state_for: Duration::ZERO,
            age: Duration::ZERO,
            reconnects: 0,
            last_error: None,
            marginal: false,
            host_memory: 0,
            in_flight: 0,
            commands: 0,
            latency: PathLatency::default(),
        }
    }
}

/// One device that was given up and does not stop: what it has is kept.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct UnstoppedSnapshot {
    /// The controller that it was, by [`ControllerSnapshot::id`]; it may be gone.
    pub controller: u32,
    /// Its address.
    pub address: String,
    /// Time since it was given up.
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::seconds"))]
    pub unstopped_for: Duration,
}

/// One head.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HeadSnapshot {
    /// [`Head::instance`](crate::Head::instance).
    pub instance: u32,
    /// `SUBNQN/NSID`.
    pub name: String,
    /// NQN of its subsystem.
    pub subsystem: String,
    /// Namespace ID.
    pub nsid: u32,
    /// Bytes in a logical block.
    pub block_size: u32,
    /// Size in logical blocks.
    pub blocks: u64,
    /// How it is doing; with the time left while its removal is pending.
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::head_state"))]
    pub state: HeadState,
    /// How channels choose among its paths.
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::text"))]
    pub policy: PathPolicy,
    /// Its paths, in the order in which they were found.
    pub paths: Vec<PathSnapshot>,
    /// Its counters.
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::stats"))]
    pub stats: HeadStats,
    /// Answers that were no success, by status. A request that is retried is counted each time.
    pub errors: Vec<ErrorCount>,
}

impl Default for HeadSnapshot {
    /// A head that is live and has no paths yet.
    fn default() -> Self {
        Self {
            instance: 0,
            name: String::new(),
            subsystem: String::new(),
            nsid: 0,
            block_size: 512,
            blocks: 0,
            state: HeadState::Live,
            policy: PathPolicy::default(),
            paths: Vec::new(),
            stats: HeadStats::default(),
            errors: Vec::new(),
        }
    }
}

/// One path of a head.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PathSnapshot {
    /// Its controller, by [`ControllerSnapshot::id`]. What is in flight, and latencies, are there.
    pub controller: u32,
    /// The controller's address.
    pub address: String,
    /// ANA state of the namespace's group.
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::text"))]
    pub ana: AnaState,
    /// Whether I/O may be sent on it.
    pub usable: bool,
    /// Whether it is used last.
    pub marginal: bool,
    /// Writes that are held until its lost controller is fenced.
    pub held: u64,
}

/// How often one status was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ErrorCount {
    /// Status code type (`NVMe 2.1 §4.2.3`).
    pub sct: u8,
    /// Status code.
    pub sc: u8,
    /// Its name, if it has one.
    pub name: Option<&'static str>,
    /// How often.
    pub count: u64,
}

impl ErrorCount {
    fn new(status: Status, count: u64) -> Self {
        Self { sct: status.sct(), sc: status.sc(), name: status.name(), count }
    }
}

/// One pin that is out.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PinSnapshot {
    /// Who holds it, and why.
    pub holder: String,
    /// For how long.
    #[cfg_attr(feature = "serde", serde(serialize_with = "encode::seconds"))]
    pub held_for: Duration,
}

impl Snapshot {
    /// The controller with this number.
    #[must_use]
    pub fn controller(&self, id: u32) -> Option<&ControllerSnapshot> {
        self.controllers.iter().find(|c| c.id == id)
    }
}
