//! Reads everything off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nvme_core::time::{Duration, Instant};

use super::{
    ControllerSnapshot, ErrorCount, HeadSnapshot, PathSnapshot, PinSnapshot, Snapshot,
    SubsystemSnapshot, UnstoppedSnapshot,
};
use crate::controller::ControllerStatus;
use crate::head::Head;
use crate::host::Host;

impl Host {
    /// How everything is at the moment: controllers, heads, paths, counts, latencies, pins.
    ///
    /// Takes short locks of the control plane, one at a time, and none that I/O waits for in good
    /// times; what channels count is read as it stands. Meant for a look every so often, a hundred
    /// times a second at most. May be called from any thread.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = self.shared.clock.now();
        let controllers: Vec<_> = self.shared.controllers.lock().values().cloned().collect();
        let controllers: Vec<_> = controllers.iter().map(|c| controller(c, now)).collect();
        let heads: Vec<_> = self.heads().iter().map(head).collect();
        let unstopped = self.unstopped().into_iter().map(|u| UnstoppedSnapshot {
            controller: u.controller.as_u32(),
            address: u.address.to_string(),
            unstopped_for: now.saturating_since(u.since),
        });
        let pins = self.pins().into_iter().map(|pin| PinSnapshot {
            holder: pin.reason.to_string(),
            held_for: now.saturating_since(pin.since),
        });
        Snapshot {
            at: Duration::from_nanos(now.as_nanos()),
            hostnqn: self.shared.options.hostnqn.to_string(),
            subsystems: subsystems(&controllers, &heads),
            unstopped: unstopped.collect(),
            pins: pins.collect(),
            pins_peak: self.pins_peak(),
            controllers,
            heads,
        }
    }
}

fn subsystems(
    controllers: &[ControllerSnapshot],
    heads: &[HeadSnapshot],
) -> Vec<SubsystemSnapshot> {
    let mut found: BTreeMap<&str, SubsystemSnapshot> = BTreeMap::new();
    for controller in controllers {
        if let Some(nqn) = &controller.subsystem {
            found.entry(nqn).or_default().controllers.push(controller.id);
        }
    }
    for head in heads {
        found.entry(&head.subsystem).or_default().heads.push(head.instance);
    }
    let named = |(nqn, s): (&str, SubsystemSnapshot)| SubsystemSnapshot { nqn: nqn.into(), ..s };
    found.into_iter().map(named).collect()
}

fn controller(status: &Arc<ControllerStatus>, now: Instant) -> ControllerSnapshot {
    let latency = status.latency.lock().sum();
    let facts = status.facts.lock();
    let info = facts.info.as_ref();
    let (in_flight, commands) = facts.traffic();
    ControllerSnapshot {
        id: status.id.as_u32(),
        address: status.address.to_string(),
        subsystem: info.map(|i| i.subnqn.to_string()),
        cntlid: info.map(|i| i.cntlid),
        io_queues: info.map(|i| i.io_queues),
        io_entries: info.map(|i| i.io_entries),
        device: info.and_then(|i| i.device).map(|ids| ids.to_string()),
        quirks: info.map(|i| i.quirks.names().collect()).unwrap_or_default(),
        state: facts.state,
        state_for: now.saturating_since(facts.since),
        age: now.saturating_since(facts.made),
        reconnects: facts.reconnects,
        last_error: facts.last_error.as_ref().map(ToString::to_string),
        marginal: status.marginal.load(Ordering::Relaxed),
        host_memory: facts.host_memory,
        in_flight,
        commands,
        latency,
    }
}

fn head(head: &Arc<Head>) -> HeadSnapshot {
    let geometry = head.geometry();
    let paths = head.paths().into_iter().map(|path| PathSnapshot {
        controller: path.controller.as_u32(),
        address: path.address.to_string(),
        ana: path.ana,
        usable: path.usable,
        marginal: path.marginal,
        held: path.held,
    });
    let errors = head.counters.errors().into_iter();
    HeadSnapshot {
        instance: head.instance(),
        name: head.name().to_owned(),
        subsystem: head.subsystem_nqn().to_string(),
        nsid: head.nsid(),
        block_size: geometry.block_size,
        blocks: geometry.blocks,
        state: head.state(),
        policy: head.policy(),
        paths: paths.collect(),
        stats: head.stats(),
        errors: errors.map(|(status, count)| ErrorCount::new(status, count)).collect(),
    }
}
