//! What a subsystem reports and allows.

use std::time::Duration;

use nvme_core::nqn::Nqn;

use crate::error::TargetError;
use crate::namespace::NamespaceConfig;

/// Describes a subsystem. The defaults are what Linux's target reports.
#[derive(Debug)]
pub struct SubsystemConfig {
    pub(crate) nqn: Nqn,
    pub(crate) namespaces: Vec<NamespaceConfig>,
    pub(crate) limits: Limits,
}

/// The part of a description that controllers look at while they run.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub serial: String,
    pub model: String,
    pub firmware: String,
    pub version: u32,
    pub mdts: u8,
    pub in_capsule: u32,
    pub queues: u16,
    pub queue_entries: u16,
    pub controllers: usize,
    pub keep_alive_grace: Duration,
    pub ana_transition: u8,
    pub hosts: Option<Vec<Nqn>>,
    pub cntlids: (u16, u16),
    pub retry_delays: [u16; 3],
    pub quiesce_time: Duration,
    pub cross_resets: u8,
    pub power_states: Vec<PowerState>,
    pub instance_seed: Option<u64>,
}

/// A power state that controllers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerState {
    /// MP: power in units of 0.01 W.
    pub power: u16,
    /// NOPS: no I/O is done in it.
    pub non_operational: bool,
    /// ENLAT: microseconds to enter it.
    pub entry_us: u32,
    /// EXLAT: microseconds to leave it.
    pub exit_us: u32,
}

impl SubsystemConfig {
    /// A subsystem without namespaces.
    ///
    /// # Errors
    /// [`TargetError::Nqn`] if the name is none.
    pub fn new(nqn: &str) -> Result<Self, TargetError> {
        let nqn =
            Nqn::new(nqn).map_err(|source| TargetError::Nqn { name: nqn.to_owned(), source })?;
        Ok(Self::named(nqn))
    }

    pub(crate) fn named(nqn: Nqn) -> Self {
        let limits = Limits {
            serial: "0123456789abcdef".into(),
            model: "nvme-target".into(),
            firmware: env!("CARGO_PKG_VERSION").into(),
            version: 0x0001_0300,
            mdts: 8,
            in_capsule: 16 << 10,
            queues: 128,
            queue_entries: 1024,
            controllers: 1024,
            keep_alive_grace: Duration::from_millis(250),
            ana_transition: 10,
            hosts: None,
            cntlids: (1, 0xffef),
            retry_delays: [0; 3],
            quiesce_time: Duration::ZERO,
            cross_resets: 0,
            power_states: Vec::new(),
            instance_seed: None,
        };
        Self { nqn, namespaces: Vec::new(), limits }
    }

    /// Adds a namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: NamespaceConfig) -> Self {
        self.namespaces.push(namespace);
        self
    }

    /// Serial number, cut to 20 bytes.
    #[must_use]
    pub fn serial(mut self, serial: &str) -> Self {
        self.limits.serial = serial.to_owned();
        self
    }

    /// Model number, cut to 40 bytes.
    #[must_use]
    pub fn model(mut self, model: &str) -> Self {
        self.limits.model = model.to_owned();
        self
    }

    /// Version that the controllers say they comply with, as in the VS property; 1.3 by default.
    #[must_use]
    pub fn version(mut self, major: u16, minor: u8, tertiary: u8) -> Self {
        self.limits.version = u32::from(major) << 16 | u32::from(minor) << 8 | u32::from(tertiary);
        self
    }

    /// Largest transfer of one command as a power of two of 4096 bytes; 8 (1 MiB) by default. 0 reports no limit,
    /// and commands are then bounded by their block count alone.
    #[must_use]
    pub fn mdts(mut self, exponent: u8) -> Self {
        self.limits.mdts = exponent.min(16);
        self
    }

    /// Data bytes that fit into a command capsule of an I/O queue, rounded down to 16; 16 KiB by default, at most
    /// 1 MiB. (The admin queue always takes 8 KiB, TCP 1.1 §3.5.)
    #[must_use]
    pub fn in_capsule(mut self, bytes: u32) -> Self {
        self.limits.in_capsule = (bytes & !15).min(1 << 20);
        self
    }

    /// I/O queues that a controller may have, 1 to 65535; 128 by default.
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Self {
        self.limits.queues = queues.max(1);
        self
    }

    /// Entries of a queue, 2 to 65535; 1024 by default (MQES and MAXCMD follow).
    #[must_use]
    pub fn queue_entries(mut self, entries: u16) -> Self {
        self.limits.queue_entries = entries.max(2);
        self
    }

    /// Controllers that may exist at once; a further Connect gets Controller Busy. 1024 by default.
    #[must_use]
    pub fn controllers(mut self, controllers: usize) -> Self {
        self.limits.controllers = controllers;
        self
    }

    /// How long beyond the keep alive timeout a silent host is suffered; 250 ms by default.
    #[must_use]
    pub fn keep_alive_grace(mut self, grace: Duration) -> Self {
        self.limits.keep_alive_grace = grace;
        self
    }

    /// ANATT: seconds that a group may stay in ANA Change; 10 by default. Reported, not enforced.
    #[must_use]
    pub fn ana_transition(mut self, seconds: u8) -> Self {
        self.limits.ana_transition = seconds;
        self
    }

    /// Only these hosts may connect; all may by default.
    #[must_use]
    pub fn allow_hosts(mut self, hosts: Vec<Nqn>) -> Self {
        self.limits.hosts = Some(hosts);
        self
    }

    /// Range that controller identifiers are taken from, both ends included; 1 to FFEFh by default. They are given
    /// out in turn, so that one does not come back soon.
    #[must_use]
    pub fn controller_ids(mut self, first: u16, last: u16) -> Self {
        self.limits.cntlids = (first.min(last), last.min(0xffef));
        self
    }

    /// CRDT1 to CRDT3 in units of 100 ms, for faults whose status carries a retry delay index; 0 by default.
    #[must_use]
    pub fn retry_delays(mut self, crdt: [u16; 3]) -> Self {
        self.limits.retry_delays = crdt;
        self
    }

    /// CQT (TP4129): so long after the loss of an association its commands may still be executed, and not
    /// longer: a command that would outlive its connection by more is dropped. In milliseconds, up to 65,535;
    /// zero, which is the default, reports nothing and bounds nothing.
    #[must_use]
    pub fn quiesce_time(mut self, time: Duration) -> Self {
        let most = Duration::from_millis(u16::MAX.into());
        self.limits.quiesce_time = time.min(most);
        self
    }

    /// Power states, from 0 on, at most 32, and with them autonomous transitions between them (which are
    /// set and told, and do not take place); one without name by default.
    #[must_use]
    pub fn power_states(mut self, states: &[PowerState]) -> Self {
        self.limits.power_states = states.iter().take(32).copied().collect();
        self
    }

    /// CCRL (TP8028): how many resets of other controllers of the same host may be under way on a controller at
    /// once; 0, which is the default, means that the command is not known.
    #[must_use]
    pub fn cross_controller_resets(mut self, limit: u8) -> Self {
        self.limits.cross_resets = limit;
        self
    }

    /// The random numbers of controllers (CIRN, TP8028) come from this seed, so that a simulation that is run
    /// again sees the same. Without it, which is the default, nobody can foretell them.
    #[must_use]
    pub const fn instance_seed(mut self, seed: u64) -> Self {
        self.limits.instance_seed = Some(seed);
        self
    }
}
