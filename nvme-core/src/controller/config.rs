//! What a controller is told before it starts.

use crate::nqn::{Nqn, Uuid};
use crate::quirk::QuirkRule;
use crate::time::Duration;

/// The settings of one controller. Defaults are Linux's where it has one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControllerConfig {
    /// Name of this host. One host NQN goes with one host identifier (`NVMe 2.1 §4.5`).
    pub hostnqn: Nqn,
    /// Host identifier.
    pub hostid: Uuid,
    /// The subsystem to connect to. For a memory-based controller: `None`.
    pub subnqn: Option<Nqn>,
    /// Names the path in messages, such as `tcp://192.0.2.7:4420`.
    pub address: String,
    /// Entries of the admin queue. Default 32.
    pub admin_entries: u16,
    /// Entries of each I/O queue, before the controller's `MQES` limits it. Default 128, 16..=1024.
    pub io_entries: u16,
    /// I/O queues asked for by Set Features, 1..=65,534. Default 16. Fewer may be granted.
    pub max_io_queues: u16,
    /// Keep-alive timeout (KATO) sent with Connect. Zero: no keep-alive. Default 5 s.
    pub keep_alive: Duration,
    /// The longest wait between two attempts to reconnect. Waits start at a quarter of it or 1 s,
    /// whichever is less, double with each failure, and vary by a fifth at random. Default 10 s.
    pub reconnect_delay: Duration,
    /// How long after its loss the controller is given up; `None`: never; zero: at once. A start or a
    /// reset that was asked for gets one attempt in any case. Default 600 s.
    pub ctrl_loss_tmo: Option<Duration>,
    /// How long after its loss I/O stops waiting for this controller; `None`: as long as it tries.
    /// Default `None`.
    pub fast_io_fail_tmo: Option<Duration>,
    /// Limit of one admin command. Default 60 s.
    pub admin_timeout: Duration,
    /// Whether an admin command of the user's own that takes longer than `admin_timeout` is aborted
    /// before the controller is reset. Default: no.
    pub abort_admin: bool,
    /// How long such a command, and the Abort for it, may still take. Default 5 s.
    pub abort_timeout: Duration,
    /// Limit of opening one queue and of its Connect command. Default 10 s.
    pub connect_timeout: Duration,
    /// The longest time to wake up that is tolerated when the controller goes to sleep by itself
    /// (`NVMe 2.1 §8.1.17`); zero: its own setting is left alone. Default zero.
    pub apst_latency: Duration,
    /// The largest host memory buffer, in bytes; 0: none. Default 64 MiB.
    pub host_memory: u64,
    /// What the program knows to be wrong with devices, beyond this library's own table. Default: none.
    pub quirks: Vec<QuirkRule>,
    /// Seed of the jitter, so that a simulation can repeat it.
    pub seed: u64,
}

impl ControllerConfig {
    /// Settings with all defaults.
    #[must_use]
    pub fn new(hostnqn: Nqn, hostid: Uuid, subnqn: Option<Nqn>, address: String) -> Self {
        Self {
            hostnqn,
            hostid,
            subnqn,
            address,
            admin_entries: 32,
            io_entries: 128,
            max_io_queues: 16,
            keep_alive: Duration::from_secs(5),
            reconnect_delay: Duration::from_secs(10),
            ctrl_loss_tmo: Some(Duration::from_secs(600)),
            fast_io_fail_tmo: None,
            admin_timeout: Duration::from_secs(60),
            abort_admin: false,
            abort_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            apst_latency: Duration::ZERO,
            host_memory: 64 << 20,
            quirks: Vec::new(),
            seed: 0,
        }
    }

    /// Whether this is a discovery controller: no I/O queues, no namespaces (`NVMe 2.1 §3.1.3.3`).
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        self.subnqn.as_ref().is_some_and(Nqn::is_discovery)
    }
}
