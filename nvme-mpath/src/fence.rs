//! Fencing: keeping a write that was lost with its path from landing on top of a newer one.

use nvme_core::controller::ControllerInfo;
use nvme_core::time::Duration;

/// What becomes of a write that was in flight on a path that is lost.
///
/// The controller of the lost path may still execute it. Sent again on another path at once, the
/// write completes, the program writes the same blocks anew, and then the first copy lands on top
/// of the newer data. A *held* write is sent again only when the lost controller is *fenced*: when
/// it is certain that it executes nothing of this host any more. Reads, compares and flushes change
/// nothing and are never held.
///
/// A controller is fenced when
/// - a controller that is still reached has reset it (Cross-Controller Reset, TP8028);
/// - its time has passed: twice the keep-alive timeout since the connection was closed here, three
///   times if it counts any command as a sign of life (TBKAS), and its Command Quiesce Time (CQT,
///   TP4129). By then it has noticed the loss and executed, or dropped, what it had;
/// - it has said that it is shut down (`CSTS.SHST`);
/// - it is on a bus and has been disabled or reset, or its server has let it go, which happens before
///   its queues end.
///
/// The factors 2 and 3 are those of the series that is posted for Linux. They hold for a target
/// that keeps the rules for keep-alive timers; one that does not cannot be fenced by time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fence {
    /// Held if the lost controller reported what fencing rests on: a quiesce time, or a name for
    /// Cross-Controller Reset. Otherwise sent again at once, as Linux does up to 7.3.
    #[default]
    Auto,
    /// Held whatever the controller reported. A quiesce time that it does not report counts as zero.
    Strict,
    /// Never held.
    Off,
}

/// How it is known that a controller executes nothing of this host any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FencedBy {
    /// Another controller of its subsystem has reset it.
    Reset,
    /// Its time has passed.
    Time,
}

impl std::fmt::Display for FencedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reset => "a reset by another controller",
            Self::Time => "time",
        })
    }
}

/// The keep-alive timeout that is assumed where there is none: then nothing bounds the time in which
/// a controller notices the loss.
pub(crate) const ASSUMED_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What of fencing goes with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fencing {
    /// When the queue has ended its controller executes nothing any more.
    Needless,
    /// The controller may go on.
    Needed {
        mode: Fence,
        /// The controller reported what fencing rests on.
        reported: bool,
    },
}

impl Fencing {
    /// Whether writes that were in flight are held; `head` is what the head says, if anything.
    pub(crate) const fn holds(self, head: Option<Fence>) -> bool {
        let Self::Needed { mode, reported } = self else { return false };
        let mode = match head {
            Some(mode) => mode,
            None => mode,
        };
        match mode {
            Fence::Auto => reported,
            Fence::Strict => true,
            Fence::Off => false,
        }
    }
}

/// Whether the controller reported what fencing rests on.
pub(crate) fn reported(info: &ControllerInfo) -> bool {
    !info.quiesce_time.is_zero() || info.instance.is_some()
}

/// How long after the end of an association, here, its controller may still execute commands.
pub(crate) fn time_to_quiesce(info: &ControllerInfo, keep_alive: Duration) -> Duration {
    let keep_alive = if keep_alive.is_zero() { ASSUMED_KEEP_ALIVE } else { keep_alive };
    let times = if info.traffic_based_keep_alive { 3 } else { 2 };
    keep_alive.saturating_mul(times).saturating_add(info.quiesce_time)
}
