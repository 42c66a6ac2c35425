//! A port: one controller, which a test changes at will.

use std::collections::BTreeMap;
use std::sync::Arc;

use nvme_core::spec::Status;
use nvme_core::spec::log::ResetState;
use nvme_core::time::Instant;

use crate::wire::{InFlight, Link};

/// What becomes of I/O commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// Answered at once.
    Answer,
    /// Kept until [`crate::World::release`].
    Hold,
    /// Answered at once with this status.
    Fail(Status),
}

/// What becomes of Abort commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// Commands that are held are aborted.
    Works,
    /// Answered with "not aborted".
    Refuses,
    /// Never answered.
    Silent,
}

/// One namespace, as one port shows it.
#[derive(Clone, Debug)]
pub struct Ns {
    /// UUID.
    pub uuid: [u8; 16],
    /// Blocks (NSZE, NCAP).
    pub blocks: u64,
    /// Bytes of a block, as a power of two.
    pub lbads: u8,
    /// Other controllers may have it, too (NMIC).
    pub shared: bool,
    /// ANA group.
    pub group: u32,
}

impl Ns {
    /// 2,048 blocks of 512 bytes in group 1, shared, with a UUID of its own.
    #[must_use]
    pub fn new(nsid: u32) -> Self {
        Self { uuid: [nsid as u8; 16], blocks: 2048, lbads: 9, shared: true, group: 1 }
    }
}

/// One controller.
pub struct Port {
    /// New connections are taken.
    pub up: bool,
    /// The namespaces by NSID.
    pub namespaces: BTreeMap<u32, Ns>,
    /// ANA state of each group; `None`: the controller has no ANA.
    pub ana: Option<BTreeMap<u32, u8>>,
    /// Change count of the ANA log.
    pub ana_changes: u64,
    /// Longest transition in seconds (ANATT).
    pub anatt: u8,
    /// I/O queues granted.
    pub granted: u32,
    /// What becomes of I/O commands.
    pub io: Io,
    /// Most bytes that its I/O queues take with one command; nobody is told.
    pub most: usize,
    /// Its queues have descriptors, as a socket's does; answers come within the call that sends.
    pub descriptors: bool,
    /// MDTS, which is kept to: what is larger is refused for good.
    pub mdts: u8,
    /// Command Quiesce Time in milliseconds.
    pub cqt: u16,
    /// Cross-controller resets that the controller takes at once; 0: it and its like know of none.
    pub ccrl: u8,
    /// A reset is not done at once: the log and an event tell of it when the test says so.
    pub slow_reset: bool,
    /// What the reset log says of each controller.
    pub reset_log: BTreeMap<u16, ResetState>,
    /// Writes whose connection has died, with the controller that may still execute them.
    pub late: Vec<(u16, Instant, InFlight)>,
    /// It does not stop when its queues are dead: they keep what they have.
    pub stubborn: bool,
    /// Associations with it have no part in each other.
    pub apart: bool,
    /// What becomes of Abort commands.
    pub abort: Abort,
    /// Abort Command Limit, a number less one.
    pub acl: u8,
    /// Abort commands that came.
    pub aborts: u32,
    /// Admin passthrough (Get Features) is not answered.
    pub hold_features: bool,
    /// Reads return this byte, over and over.
    pub content: u8,
    /// Connects of I/O queues are not answered.
    pub hold_io_connect: bool,
    /// The end of a shutdown is not told.
    pub slow_shutdown: bool,
    /// NQN of the subsystem that it says it is of.
    pub subnqn: &'static str,
    /// What Identify Namespace is answered with instead of the namespace.
    pub namespace_status: Option<Status>,
    /// Identify Namespace is not answered until [`crate::World::release_identify`].
    pub hold_namespace: bool,
    /// The ANA log is not sent until [`crate::World::release_log`].
    pub hold_log: bool,
    /// Groups of namespaces by the log, where that is another than Identify Namespace says.
    pub moved: BTreeMap<u32, u32>,
    /// Commands executed, as (NSID, opcode, SLBA, user byte).
    pub executed: Vec<(u32, u8, u64, u8)>,
    /// Its queues.
    pub links: Vec<Arc<Link>>,
    /// Every queue that was ever opened and may still be held by somebody.
    pub all: Vec<Arc<Link>>,
    /// Admin queues that were asked for.
    pub attempts: u32,
    /// Reads of the ANA log.
    pub log_reads: u32,
}

impl Port {
    pub(crate) fn new() -> Self {
        Self {
            up: true,
            namespaces: BTreeMap::from([(1, Ns::new(1))]),
            ana: None,
            ana_changes: 1,
            anatt: 0,
            granted: 16,
            io: Io::Answer,
            most: usize::MAX,
            descriptors: false,
            mdts: 0,
            cqt: 0,
            ccrl: 0,
            slow_reset: false,
            reset_log: BTreeMap::new(),
            late: Vec::new(),
            stubborn: false,
            apart: false,
            abort: Abort::Works,
            acl: 3,
            aborts: 0,
            hold_features: false,
            content: 0,
            hold_io_connect: false,
            slow_shutdown: false,
            subnqn: crate::SUBSYSTEM,
            namespace_status: None,
            hold_namespace: false,
            hold_log: false,
            moved: BTreeMap::new(),
            executed: Vec::new(),
            links: Vec::new(),
            all: Vec::new(),
            attempts: 0,
            log_reads: 0,
        }
    }

    /// Queues, dead ones included, that the library has not dropped.
    pub fn queues_not_dropped(&mut self) -> usize {
        self.all.retain(|link| !link.lock().dropped);
        self.all.len()
    }
}
