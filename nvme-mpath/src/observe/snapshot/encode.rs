//! How the parts of a snapshot that are no plain values are serialized.

use std::fmt::Display;

use nvme_core::time::Duration;
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::head::{HeadState, HeadStats};
use crate::latency::{LatencyHistogram, PathLatency};

pub(super) fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

pub(super) fn text<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

pub(super) fn head_state<S: Serializer>(state: &HeadState, to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(None)?;
    map.serialize_entry("name", state.name())?;
    match state {
        HeadState::Live => {}
        HeadState::RemovalPending { cause, lost_for, remaining } => {
            map.serialize_entry("cause", &cause.to_string())?;
            map.serialize_entry("lost_for", &lost_for.as_secs_f64())?;
            map.serialize_entry("remaining", &remaining.map(|r| r.as_secs_f64()))?;
        }
        HeadState::Removing(cause) | HeadState::Gone(cause) => {
            map.serialize_entry("cause", &cause.to_string())?;
        }
    }
    map.end()
}

pub(super) fn stats<S: Serializer>(stats: &HeadStats, to: S) -> Result<S::Ok, S::Error> {
    // Without `..`, so that a counter that is added is not left out here.
    let HeadStats {
        failovers,
        retries,
        parked,
        parked_now,
        failed_no_path,
        lost,
        held,
        held_now,
        hedges,
        hedges_won,
        hedges_denied,
    } = stats;
    let mut map = to.serialize_map(None)?;
    for (name, count) in [
        ("failovers", failovers),
        ("retries", retries),
        ("parked", parked),
        ("parked_now", parked_now),
        ("failed_no_path", failed_no_path),
        ("lost", lost),
        ("held", held),
        ("held_now", held_now),
        ("hedges", hedges),
        ("hedges_won", hedges_won),
        ("hedges_denied", hedges_denied),
    ] {
        map.serialize_entry(name, count)?;
    }
    map.end()
}

struct Histogram<'a>(&'a LatencyHistogram);

impl Serialize for Histogram<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let quantile = |q| self.0.quantile(q).as_secs_f64();
        let buckets: Vec<_> = self.0.buckets().map(|(end, n)| (end.as_secs_f64(), n)).collect();
        let mut out = to.serialize_struct("Histogram", 5)?;
        out.serialize_field("count", &self.0.count())?;
        out.serialize_field("p50", &quantile(0.5))?;
        out.serialize_field("p99", &quantile(0.99))?;
        out.serialize_field("p999", &quantile(0.999))?;
        out.serialize_field("buckets", &buckets)?;
        out.end()
    }
}

pub(super) fn latency<S: Serializer>(latency: &PathLatency, to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(2))?;
    map.serialize_entry("reads", &Histogram(&latency.reads))?;
    map.serialize_entry("writes", &Histogram(&latency.writes))?;
    map.end()
}
