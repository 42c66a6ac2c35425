//! Faults as data: which command, or which connection, meets what misfortune.

mod action;

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use nvme_core::spec::Sqe;
use nvme_core::spec::opcode::{FabricsType, NvmOpcode};
use nvme_core::spec::tcp::PduType;
use parking_lot::Mutex;

pub use action::{BadIcResp, BadPdu, FaultAction};

/// Names a rule that was added with [`Target::add_fault`](crate::Target::add_fault).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FaultId(u64);

/// What happens, and to whom.
///
/// A rule without conditions matches everything that its action can be done to. Rules are tried in the order in
/// which they were added; the first that applies is the only one that acts.
///
/// ```
/// use nvme_core::spec::{Status, opcode::NvmOpcode};
/// use nvme_target::{FaultAction, FaultRule};
///
/// // the third read of blocks 0 to 7 of namespace 1 fails, all others work
/// let rule = FaultRule::new(FaultAction::Fail(Status::UNRECOVERED_READ_ERROR))
///     .io()
///     .opcode(NvmOpcode::READ.0)
///     .nsid(1)
///     .lbas(0..8)
///     .skip(2)
///     .times(1);
/// // a listener goes silent: nothing that was connected through it is answered, new connections neither
/// let blackhole = [
///     FaultRule::new(FaultAction::Drop).listener(0),
///     FaultRule::new(FaultAction::SilentListener).listener(0),
/// ];
/// ```
#[derive(Clone, Debug)]
pub struct FaultRule {
    matcher: FaultMatch,
    action: FaultAction,
}

/// The conditions of a rule, all of which must hold.
#[derive(Clone, Debug, Default)]
struct FaultMatch {
    listener: Option<usize>,
    controller: Option<u16>,
    qids: Option<RangeInclusive<u16>>,
    opcode: Option<u8>,
    fabrics: Option<FabricsType>,
    nsid: Option<u32>,
    lbas: Option<Range<u64>>,
    skip: u64,
    times: Option<u64>,
}

impl FaultRule {
    /// A rule that does `action` to whatever it can be done to.
    #[must_use]
    pub fn new(action: FaultAction) -> Self {
        Self { matcher: FaultMatch::default(), action }
    }

    /// Only on connections of this listener.
    #[must_use]
    pub fn listener(mut self, index: usize) -> Self {
        self.matcher.listener = Some(index);
        self
    }

    /// Only for the controller with this identifier.
    #[must_use]
    pub fn controller(mut self, cntlid: u16) -> Self {
        self.matcher.controller = Some(cntlid);
        self
    }

    /// Only on these queues; 0 is the admin queue. A Connect belongs to the queue it creates.
    #[must_use]
    pub fn qids(mut self, qids: RangeInclusive<u16>) -> Self {
        self.matcher.qids = Some(qids);
        self
    }

    /// Only on the admin queue.
    #[must_use]
    pub fn admin(self) -> Self {
        self.qids(0..=0)
    }

    /// Only on I/O queues.
    #[must_use]
    pub fn io(self) -> Self {
        self.qids(1..=u16::MAX)
    }

    /// Only commands with this opcode. The same number means different things on admin and I/O queues: see
    /// [`admin`](Self::admin) and [`io`](Self::io).
    #[must_use]
    pub fn opcode(mut self, opcode: u8) -> Self {
        self.matcher.opcode = Some(opcode);
        self
    }

    /// Only fabrics commands of this type.
    #[must_use]
    pub fn fabrics(mut self, fctype: FabricsType) -> Self {
        self.matcher.fabrics = Some(fctype);
        self
    }

    /// Only commands with this namespace identifier.
    #[must_use]
    pub fn nsid(mut self, nsid: u32) -> Self {
        self.matcher.nsid = Some(nsid);
        self
    }

    /// Only I/O commands that touch one of these blocks.
    #[must_use]
    pub fn lbas(mut self, lbas: Range<u64>) -> Self {
        self.matcher.lbas = Some(lbas);
        self
    }

    /// Lets the first `n` matches pass.
    #[must_use]
    pub fn skip(mut self, n: u64) -> Self {
        self.matcher.skip = n;
        self
    }

    /// Acts at most `n` times.
    #[must_use]
    pub fn times(mut self, n: u64) -> Self {
        self.matcher.times = Some(n);
        self
    }
}

/// What a rule can look at when a command has arrived.
pub(crate) struct Subject<'a> {
    pub cntlid: Option<u16>,
    pub qid: u16,
    pub sqe: &'a Sqe,
}

/// The points of a connection's life at which rules are looked up.
#[derive(Clone, Copy)]
pub(crate) enum Site<'a> {
    Accept,
    IcResp,
    Command(&'a Subject<'a>),
}

impl FaultAction {
    fn acts_at(&self, site: Site<'_>) -> bool {
        let at_accept = matches!(self, Self::SilentListener | Self::CloseOnAccept);
        let at_ic =
            matches!(self, Self::BadIcResp(_) | Self::TruncateAt { pdu: PduType::IC_RESP, .. });
        match site {
            Site::Accept => at_accept,
            Site::IcResp => at_ic,
            Site::Command(_) => !at_accept && !at_ic,
        }
    }
}

impl FaultMatch {
    fn covers(&self, listener: usize, site: Site<'_>) -> bool {
        if self.listener.is_some_and(|l| l != listener) {
            return false;
        }
        let Site::Command(subject) = site else { return true };
        let sqe = subject.sqe;
        self.controller.is_none_or(|c| Some(c) == subject.cntlid)
            && self.qids.as_ref().is_none_or(|q| q.contains(&subject.qid))
            && self.opcode.is_none_or(|o| o == sqe.opcode)
            && self.fabrics.is_none_or(|f| Some(f) == sqe.fabrics_type())
            && self.nsid.is_none_or(|n| n == sqe.nsid.get())
            && self.lbas.as_ref().is_none_or(|l| subject.touches(l))
    }
}

impl Subject<'_> {
    fn touches(&self, lbas: &Range<u64>) -> bool {
        let block_io = matches!(
            NvmOpcode(self.sqe.opcode),
            NvmOpcode::READ
                | NvmOpcode::WRITE
                | NvmOpcode::COMPARE
                | NvmOpcode::WRITE_ZEROES
                | NvmOpcode::VERIFY
        );
        let first = self.sqe.cdw10_11();
        let end = first.saturating_add(u64::from(self.sqe.cdw12.get() & 0xffff) + 1);
        block_io && self.qid != 0 && first < lbas.end && lbas.start < end
    }
}

/// The rules of a target.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Mutex<Vec<Entry>>,
    next_id: AtomicU64,
    /// How many rules may still act, so that a target without faults takes no lock.
    armed: AtomicUsize,
}

#[derive(Debug)]
struct Entry {
    id: FaultId,
    rule: FaultRule,
    action: Arc<FaultAction>,
    seen: u64,
    hits: u64,
}

impl Entry {
    fn spent(&self) -> bool {
        self.rule.matcher.times.is_some_and(|t| self.hits >= t)
    }
}

impl Faults {
    pub(crate) fn add(&self, rule: FaultRule) -> FaultId {
        let id = FaultId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let mut rules = self.rules.lock();
        let action = Arc::new(rule.action.clone());
        rules.push(Entry { id, rule, action, seen: 0, hits: 0 });
        self.rearm(&rules);
        id
    }

    pub(crate) fn remove(&self, id: FaultId) -> Option<u64> {
        let mut rules = self.rules.lock();
        let at = rules.iter().position(|e| e.id == id)?;
        let entry = rules.remove(at);
        self.rearm(&rules);
        Some(entry.hits)
    }

    pub(crate) fn hits(&self, id: FaultId) -> Option<u64> {
        self.rules.lock().iter().find(|e| e.id == id).map(|e| e.hits)
    }

    /// The action of the first rule that applies here, counted as a hit of that rule.
    pub(crate) fn strike(&self, listener: usize, site: Site<'_>) -> Option<Arc<FaultAction>> {
        if self.armed.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut rules = self.rules.lock();
        let mut struck = None;
        for entry in rules.iter_mut() {
            if entry.spent()
                || !entry.action.acts_at(site)
                || !entry.rule.matcher.covers(listener, site)
            {
                continue;
            }
            entry.seen += 1;
            if entry.seen > entry.rule.matcher.skip {
                entry.hits += 1;
                struck = Some(Arc::clone(&entry.action));
                break;
            }
        }
        self.rearm(&rules);
        struck
    }

    fn rearm(&self, rules: &[Entry]) {
        self.armed.store(rules.iter().filter(|e| !e.spent()).count(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme_core::spec::BlockCount;

    fn strike(faults: &Faults, qid: u16, sqe: &Sqe) -> Option<FaultAction> {
        let subject = Subject { cntlid: Some(7), qid, sqe };
        faults.strike(1, Site::Command(&subject)).map(|a| (*a).clone())
    }

    #[test]
    fn conditions_are_joined_and_counted() {
        let faults = Faults::default();
        let read = Sqe::read(1, 10, BlockCount::new(8).unwrap());
        assert_eq!(strike(&faults, 1, &read), None);
        let id = faults.add(
            FaultRule::new(FaultAction::Drop)
                .io()
                .opcode(NvmOpcode::READ.0)
                .nsid(1)
                .controller(7)
                .lbas(17..18)
                .skip(1)
                .times(2),
        );
        assert_eq!(strike(&faults, 0, &read), None, "admin queue");
        assert_eq!(strike(&faults, 1, &Sqe::read(1, 18, BlockCount::ONE)), None, "other blocks");
        assert_eq!(strike(&faults, 1, &Sqe::read(2, 17, BlockCount::ONE)), None, "other namespace");
        assert_eq!(strike(&faults, 1, &read), None, "skipped");
        assert_eq!(strike(&faults, 1, &read), Some(FaultAction::Drop));
        assert_eq!(strike(&faults, 2, &read), Some(FaultAction::Drop));
        assert_eq!(strike(&faults, 1, &read), None, "spent");
        assert_eq!(faults.hits(id), Some(2));
        assert_eq!(faults.remove(id), Some(2));
        assert_eq!(faults.hits(id), None);
    }

    #[test]
    fn a_stall_lasts_to_its_end_and_comes_back() {
        use std::time::{Duration, Instant};
        let (from, ms) = (Instant::now(), Duration::from_millis);
        let stall = FaultAction::Stall { from, every: ms(100), length: ms(10), delay: ms(1) };
        let at = |t: u64| stall.wait(from + ms(t)).unwrap();
        assert_eq!(
            (at(0), at(4), at(10), at(99), at(100), at(204)),
            (ms(11), ms(7), ms(1), ms(1), ms(11), ms(7))
        );
        assert_eq!(stall.wait(from - ms(1)), Some(ms(1)));
        assert_eq!(FaultAction::Drop.wait(from), None);
    }

    #[test]
    fn connection_faults_leave_commands_alone() {
        let faults = Faults::default();
        faults.add(FaultRule::new(FaultAction::SilentListener).listener(1));
        assert_eq!(strike(&faults, 1, &Sqe::flush(1)), None);
        assert!(faults.strike(0, Site::Accept).is_none());
        assert!(faults.strike(1, Site::IcResp).is_none());
        assert!(faults.strike(1, Site::Accept).is_some());
    }
}
