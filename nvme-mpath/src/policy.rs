//! Which of several usable paths a request takes: the names, and where they are set.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use nvme_core::nqn::Nqn;

/// How a channel chooses among the usable paths of a head.
///
/// A policy chooses among equals only: paths that are not marked as marginal go before those that
/// are, and among them ANA optimized before non-optimized. Paths in any other ANA state are not
/// used (`NVMe 2.1 §8.1.1.4`).
///
/// A request waits for a queue that is full rather than take a path of a lower rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathPolicy {
    /// All in turn.
    #[default]
    RoundRobin,
    /// The one nearest to the channel's NUMA node; the first found of those that are equally near.
    /// See [`ChannelOptions::numa_node`](crate::ChannelOptions::numa_node).
    Numa,
    /// The one with the fewest commands in flight, over all channels of the host and all namespaces
    /// of the controller; of equals the first found. A channel knows its own count exactly, and
    /// those of others as they were when it was last polled.
    QueueDepth,
    /// One only: the preferred one ([`Head::set_preferred_path`](crate::Head::set_preferred_path)),
    /// else the first found. The others are spares.
    ActivePassive,
    /// The one from which an answer is expected soonest, by what this channel measured and by what
    /// is in flight. Paths that were slow, or stood still, are tried again now and then.
    ServiceTime,
}

impl PathPolicy {
    /// All policies.
    pub const ALL: [Self; 5] =
        [Self::RoundRobin, Self::Numa, Self::QueueDepth, Self::ActivePassive, Self::ServiceTime];

    /// The name; Linux's where it has the policy.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Numa => "numa",
            Self::QueueDepth => "queue-depth",
            Self::ActivePassive => "active-passive",
            Self::ServiceTime => "service-time",
        }
    }
}

impl fmt::Display for PathPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no policy's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no path policy (there are: round-robin, numa, queue-depth, active-passive, service-time)"
)]
pub struct UnknownPolicy(String);

impl FromStr for PathPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let named = Self::ALL.into_iter().find(|policy| policy.name() == text);
        named.ok_or_else(|| UnknownPolicy(text.into()))
    }
}

/// The policies of a host: of heads that have none of their own.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    pub(crate) host: PathPolicy,
    pub(crate) subsystems: HashMap<Nqn, PathPolicy>,
}

impl Policies {
    /// The policy of heads of this subsystem.
    pub(crate) fn of(&self, subnqn: &Nqn) -> PathPolicy {
        self.subsystems.get(subnqn).copied().unwrap_or(self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for policy in PathPolicy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        let error = "fastest".parse::<PathPolicy>().unwrap_err().to_string();
        assert!(PathPolicy::ALL.iter().all(|p| error.contains(p.name())), "{error}");
    }
}
