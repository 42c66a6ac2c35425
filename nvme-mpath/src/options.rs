//! What a program can set.

use std::fmt;
use std::sync::Arc;

use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::quirk::QuirkRule;
use nvme_core::time::{Clock, Duration};
use nvme_core::transport::Transport;

use crate::clock::MonotonicClock;
use crate::fence::Fence;
use crate::numa::NumaTopology;
use crate::observe::Observer;
use crate::pin::{Keep, KeepFor};
use crate::policy::PathPolicy;
use crate::window::DelayedRemoval;

/// Settings of a host.
#[derive(Clone)]
#[non_exhaustive]
pub struct HostOptions {
    /// Name of this host. By default made from `hostid`.
    pub hostnqn: Nqn,
    /// Host identifier. One host identifier goes with one host NQN (`NVMe 2.1 §4.5`): a target may
    /// refuse the same identifier under another name.
    pub hostid: Uuid,
    /// Ways to reach controllers, by URL scheme.
    pub transports: Vec<Arc<dyn Transport>>,
    /// The windows of new heads. Default: off.
    pub delayed_removal: DelayedRemoval,
    /// What becomes of writes that were in flight on a lost path, where neither controller nor head
    /// say it. Default: [`Fence::Auto`].
    pub fence: Fence,
    /// Whether the library runs a control thread. If not, the program must call
    /// [`Host::drive`](crate::Host::drive) again and again. Default: true.
    pub control_thread: bool,
    /// How channels choose among the paths of a head; see also [`Host::set_policy`]. Default:
    /// round-robin.
    ///
    /// [`Host::set_policy`]: crate::Host::set_policy
    pub policy: PathPolicy,
    /// The machine's NUMA nodes; `None`: as the system tells them.
    pub numa: Option<NumaTopology>,
    /// The clock. A simulation brings its own.
    pub clock: Arc<dyn Clock>,
    /// Seed of jitter.
    pub seed: u64,
    /// Called for each pin that is taken and for the control thread; what it returns is dropped when
    /// the pin has been given back, or as the last thing that the thread does. A shared object that
    /// contains this library keeps itself loaded with it. Default: nothing.
    pub keep_alive: Option<Arc<dyn Fn(KeepFor) -> Keep + Send + Sync>>,
    /// What is wrong with certain devices, beyond what this library knows, or is not, in spite of it:
    /// [`ControllerInfo::quirks`](nvme_core::controller::ControllerInfo::quirks) tells what came of it.
    /// For one device alone its URL says it (`quirks=no-sgl,-bogus-ids`). Default: nothing.
    pub quirks: Vec<QuirkRule>,
    /// Who is told of each event as it happens; see [`Observer`]. Default: nobody.
    pub observer: Option<Arc<dyn Observer>>,
}

impl fmt::Debug for HostOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostOptions")
            .field("hostnqn", &self.hostnqn)
            .field("hostid", &self.hostid)
            .field("transports", &self.transports)
            .field("delayed_removal", &self.delayed_removal)
            .field("control_thread", &self.control_thread)
            .finish_non_exhaustive()
    }
}

impl HostOptions {
    /// Settings with all defaults.
    #[must_use]
    pub fn new(hostid: Uuid) -> Self {
        Self {
            hostnqn: Nqn::from_uuid(hostid),
            hostid,
            transports: Vec::new(),
            delayed_removal: DelayedRemoval::OFF,
            fence: Fence::Auto,
            control_thread: true,
            policy: PathPolicy::RoundRobin,
            numa: None,
            clock: Arc::new(MonotonicClock::new()),
            seed: u64::from_le_bytes(hostid.0[..8].try_into().unwrap_or_default()),
            keep_alive: None,
            quirks: Vec::new(),
            observer: None,
        }
    }

    /// Adds a transport.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport + 'static) -> Self {
        self.transports.push(Arc::new(transport));
        self
    }
}

/// Settings of one connection. Defaults are Linux's where it has one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControllerOptions {
    /// Keep-alive timeout; zero: none. Default 5 s.
    pub keep_alive: Duration,
    /// Longest wait between two attempts to reconnect. Default 10 s.
    pub reconnect_delay: Duration,
    /// How long after its loss a controller is given up, and its paths leave; zero: at once;
    /// `None`: never. Default 600 s.
    pub ctrl_loss_tmo: Option<Duration>,
    /// How long after its loss I/O stops waiting for a controller; `None`: as long as it tries.
    pub fast_io_fail_tmo: Option<Duration>,
    /// Begin again, this long after the controller was given up, as if the program had connected
    /// anew; `None`: leave that to the program. Default `None` (on Linux, udev does it).
    pub reattach_delay: Option<Duration>,
    /// What becomes of writes that were in flight when this controller is lost; `None`: what the host
    /// says. A head may say something else. Default `None`.
    pub fence: Option<Fence>,
    /// How long after its loss this controller may still execute commands; `None`: as long as its
    /// keep-alive timeout and quiesce time allow. Without a keep-alive timeout nothing bounds that, and
    /// one of 5 s is assumed. Default `None`.
    pub fence_time: Option<Duration>,
    /// Entries of each I/O queue, 16..=1,024. Default 128.
    pub io_entries: u16,
    /// I/O queues to ask for, 1..=65,534: at most this many channels can use the controller.
    /// Default 16.
    pub max_io_queues: u16,
    /// The NUMA node that the controller is near; `None`: as the transport tells, if it does.
    pub numa_node: Option<u32>,
    /// Begin as marginal; see [`Controller::set_marginal`](crate::Controller::set_marginal).
    /// Default: false.
    pub marginal: bool,
    /// Limit of one admin command. Default 60 s.
    pub admin_timeout: Duration,
    /// What is done about commands that are not answered in time. By default I/O is aborted, and
    /// the controller reset if that does not end it; an admin command means a reset at once.
    pub on_timeout: TimeoutPolicy,
    /// Limit of opening one queue. Default 10 s.
    pub connect_timeout: Duration,
    /// Let the controller go to sleep by itself when it is idle (APST, `NVMe 2.1 §8.1.17`), to states
    /// that it leaves within this time: after 100 ms to one that takes up to 15 ms to enter and leave,
    /// after 2 s to one that takes up to 100 ms, as Linux does. Zero, the default: the controller's own
    /// setting is left as it is. A library does not know whether its program saves power or time;
    /// Linux, which is made for laptops as well, takes 100 ms.
    pub apst_latency: Duration,
    /// The largest host memory buffer that a controller without memory of its own is given
    /// (`NVMe 2.1 §8.2.3`), in bytes; 0: none. The memory stays pinned for as long as the controller
    /// is used, and counts against `RLIMIT_MEMLOCK`; if that is in the way, the controller goes
    /// without. Default 64 MiB, which is what such drives ask for; most of them ask for nothing.
    pub host_memory: u64,
}

/// What is done about a command that is not answered in time, after its queue has been looked at once
/// more. No buffer comes back before its command has ended or the controller has been stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverdueAction {
    /// Abort it (`NVMe 2.1 §5.1.1`). If it has not ended after
    /// [`abort_wait`](TimeoutPolicy::abort_wait), or Abort is not answered within that time either,
    /// reset the controller. An aborted request is retried, on another path if there is one; each
    /// time counts as one of its [`max_retries`](ChannelOptions::max_retries).
    AbortThenReset,
    /// Reset the controller.
    Reset,
}

/// What is done about commands that are not answered in time, by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeoutPolicy {
    /// Requests that change nothing: reads, compares.
    pub reads: OverdueAction,
    /// All other I/O requests.
    pub writes: OverdueAction,
    /// Admin commands of the program. Those of the library itself always lead to a reset.
    pub admin: OverdueAction,
    /// How long an aborted command may take to end. Default 5 s; for I/O requests at most the
    /// channel's [`io_timeout`](ChannelOptions::io_timeout).
    pub abort_wait: Duration,
}

impl TimeoutPolicy {
    /// The same for all classes.
    #[must_use]
    pub const fn all(action: OverdueAction) -> Self {
        let abort_wait = Duration::from_secs(5);
        Self { reads: action, writes: action, admin: action, abort_wait }
    }
}

impl Default for TimeoutPolicy {
    fn default() -> Self {
        Self { admin: OverdueAction::Reset, ..Self::all(OverdueAction::AbortThenReset) }
    }
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            reconnect_delay: Duration::from_secs(10),
            ctrl_loss_tmo: Some(Duration::from_secs(600)),
            fast_io_fail_tmo: None,
            reattach_delay: None,
            fence: None,
            fence_time: None,
            io_entries: 128,
            max_io_queues: 16,
            numa_node: None,
            marginal: false,
            admin_timeout: Duration::from_secs(60),
            on_timeout: TimeoutPolicy::default(),
            connect_timeout: Duration::from_secs(10),
            apst_latency: Duration::ZERO,
            host_memory: 64 << 20,
        }
    }
}

/// Settings of a channel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelOptions {
    /// Requests under way at once, parked ones included, 1..=65,536. Default 256.
    pub depth: usize,
    /// Limit of one request on one path; then the request is aborted, or the path's controller is
    /// reset ([`ControllerOptions::on_timeout`]), and the request goes elsewhere. Default 30 s.
    pub io_timeout: Duration,
    /// Retries of a request on account of its status, not counting failovers. Default 5.
    pub max_retries: u32,
    /// Buffers that hedged reads may have out at once; see [`HedgeOptions`](crate::HedgeOptions).
    /// Default 128.
    pub hedge_buffers: u16,
    /// Count latencies, for [`Controller::latency`](crate::Controller::latency). Costs a look at
    /// the clock for each batch of requests and a few instructions for each request. Default: false.
    pub latency_histograms: bool,
    /// How long [`Channel::wait`](crate::Channel::wait) looks for answers before it sleeps, 0..=10 ms.
    /// It does so only while requests are under way, and while answers have lately come within about
    /// that time. Default 50 µs.
    pub busy_poll: Duration,
    /// The NUMA node of the thread that will use the channel; `None`: the one of the processor on
    /// which the channel is made.
    pub numa_node: Option<u32>,
    /// Most requests that may be parked for want of a path. Default: the depth.
    pub max_parked_requests: usize,
    /// Most bytes that may be parked. Default 256 MiB.
    pub max_parked_bytes: usize,
    /// Longest time that a request may be parked; `None`: as long as the head waits. Default 600 s.
    pub max_parked_age: Option<Duration>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            depth: 256,
            hedge_buffers: 128,
            latency_histograms: false,
            busy_poll: Duration::from_micros(50),
            numa_node: None,
            io_timeout: Duration::from_secs(30),
            max_retries: 5,
            max_parked_requests: usize::MAX,
            max_parked_bytes: 256 << 20,
            max_parked_age: Some(Duration::from_secs(600)),
        }
    }
}
