//! Reading the ANA log: as much as its own counts tell, in pieces, unchanged from first to last
//! (`NVMe 2.1 §5.1.12.1.13`, `§8.1.1`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::action::{ControllerError, ControllerEvent};
use super::admin::Purpose;
use super::bringup::Step;
use super::machine::Controller;
use super::retry::Retry;
use crate::ana::{AnaGroup, AnaSnapshot, AnaState};
use crate::buffer::Buffer;
use crate::spec::command::GetLogPage;
use crate::spec::log::{AnaGroupDescriptor, AnaLog, AnaLogHeader, lid};
use crate::spec::{Status, WireError};
use crate::time::{Duration, Instant, earlier};

/// Largest piece that is read at once.
const PIECE: u64 = 64 * 1024;
/// Most groups and most namespaces that a log may have, whatever the controller says of itself.
const MOST_GROUPS: u64 = 65_535;
const MOST_NAMESPACES: u64 = 65_536;
/// How often a log that changes while it is read is begun anew before it is left for later.
const MOST_RESTARTS: u32 = 4;

const HEADER: u64 = size_of::<AnaLogHeader>() as u64;
const DESCRIPTOR: u64 = size_of::<AnaGroupDescriptor>() as u64;

/// The reading of one association's log.
#[derive(Debug, Default)]
pub(super) struct AnaReader {
    reading: Option<Reading>,
    /// Something changed while the log was being read.
    again: bool,
    /// The next reading is told even if the log is as it was.
    asked: bool,
    retry: Retry,
    known: Option<Arc<AnaSnapshot>>,
    /// Groups whose state is changing, since when as far as is known here.
    changing: BTreeMap<u32, Instant>,
    /// How long that may last; zero: the controller names no time.
    change_limit: Duration,
}

#[derive(Debug, Default)]
struct Reading {
    bytes: Vec<u8>,
    pieces: u32,
    /// All is there; the header is read a second time.
    checking: bool,
    restarts: u32,
}

/// What the bytes at hand are.
enum Parsed {
    Whole(AnaSnapshot),
    /// The log goes on to at least this length.
    Needs(u64),
}

impl AnaReader {
    /// When something is due; `live`: the controller is in use.
    pub(super) fn deadline(&self, live: bool) -> Option<Instant> {
        earlier(self.retry.at(), self.change_deadline().filter(|_| live))
    }

    /// When the group that has been changing for longest has done so for too long.
    fn change_deadline(&self) -> Option<Instant> {
        let first = self.changing.values().min().filter(|_| !self.change_limit.is_zero())?;
        Some(*first + self.change_limit)
    }

    /// Takes note of the groups whose state is changing, and for how long they may. `transition` is
    /// `ANATT`, the longest time of a transition (`NVMe 2.1 §8.1.1.4`). Twice as much is given, as
    /// Linux does: when a transition began is known only to a read of the log.
    fn note_changes(&mut self, now: Instant, snapshot: &AnaSnapshot, transition: Duration) {
        self.change_limit = transition.saturating_mul(2);
        let changing = |group: &&AnaGroup| group.state == AnaState::Change;
        let groups = snapshot.groups.iter().filter(changing).map(|group| group.id);
        let since = |id| (id, self.changing.get(&id).copied().unwrap_or(now));
        self.changing = groups.map(since).collect();
    }

    /// Whether the log has this group.
    pub(super) fn knows(&self, group: u32) -> bool {
        self.known.as_ref().is_some_and(|known| known.state_of(group).is_some())
    }
}

/// What the controller says of its log.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    /// Most bytes.
    len: u64,
    /// Highest group identifier (`ANAGRPMAX`); 0: not said.
    group: u32,
}

/// Reads the log as far as `bytes` go.
fn parse(bytes: &[u8], bounds: Bounds) -> Result<Parsed, WireError> {
    let limit = bounds.len;
    match AnaLog::parse(bytes) {
        Ok(log) => snapshot(&log, bounds.group).map(Parsed::Whole),
        Err(WireError::Truncated { offset, needed, .. })
            if (offset as u64).saturating_add(needed) <= limit =>
        {
            Ok(Parsed::Needs(offset as u64 + needed))
        }
        Err(error) => Err(error),
    }
}

/// What the log says, in order, without groups that occur twice.
fn snapshot(log: &AnaLog<'_>, highest: u32) -> Result<AnaSnapshot, WireError> {
    let mut groups = Vec::new();
    let mut offset = size_of::<AnaLogHeader>();
    for group in log.groups() {
        let mut nsids: Vec<u32> = group.nsids.iter().map(|nsid| nsid.get()).collect();
        nsids.sort_unstable();
        let invalid = |what, value, rule| WireError::Invalid { what, offset, value, rule };
        let Some(state) = AnaState::from_wire(group.state.0) else {
            return Err(invalid("ANA state", group.state.0.into(), "states are 1 to 4 and Fh"));
        };
        if highest != 0 && group.grpid > highest {
            let rule = "no group is above ANAGRPMAX";
            return Err(invalid("ANA group identifier", group.grpid.into(), rule));
        }
        if let Some(none) = nsids.iter().find(|nsid| matches!(**nsid, 0 | u32::MAX)) {
            let rule = "a group holds namespaces";
            return Err(invalid("NSID of an ANA group", (*none).into(), rule));
        }
        groups
            .push((offset, AnaGroup { id: group.grpid, state, change_count: group.chgcnt, nsids }));
        offset += size_of::<AnaGroupDescriptor>() + group.nsids.len() * 4;
    }
    groups.sort_by_key(|(_, group)| group.id);
    let twice = groups.iter().zip(groups.iter().skip(1)).find(|((_, a), (_, b))| a.id == b.id);
    if let Some((_, (offset, group))) = twice {
        return Err(WireError::Invalid {
            what: "ANA group identifier",
            offset: *offset,
            value: group.id.into(),
            rule: "a group occurs once",
        });
    }
    let groups = groups.into_iter().map(|(_, group)| group).collect();
    Ok(AnaSnapshot { change_count: log.chgcnt(), groups })
}

impl Controller {
    /// Reads the ANA log, or once more when it is being read already. Without ANA, or without an
    /// association, nothing happens.
    pub fn reread_ana(&mut self, now: Instant) {
        if !self.may_read_ana() || !self.link.identified.as_ref().is_some_and(|id| id.ana) {
            return;
        }
        if self.link.ana.reading.is_some() {
            self.link.ana.again = true;
        } else {
            self.link.ana.retry.begun();
            self.read_ana_from_start(now, 0);
        }
    }

    /// Reads the ANA log and tells it, also if it is as it was: for whoever got an ANA error, and
    /// must not use the path before the log has been looked at.
    pub fn confirm_ana(&mut self, now: Instant) {
        self.link.ana.asked = true;
        self.reread_ana(now);
    }

    fn may_read_ana(&self) -> bool {
        self.is_live() || self.at(Step::Ana) || self.at(Step::IoQueues)
    }

    fn read_ana_from_start(&mut self, now: Instant, restarts: u32) {
        self.link.ana.reading = Some(Reading { restarts, ..Reading::default() });
        self.read_ana_piece(now, 0, self.ana_limit());
    }

    /// How long the log may be by what the controller says of itself.
    fn ana_limit(&self) -> u64 {
        let Some(id) = &self.link.identified else { return HEADER };
        let groups = u64::from(id.ana_groups).min(MOST_GROUPS);
        let namespaces = u64::from(id.most_namespaces).min(MOST_NAMESPACES);
        HEADER + groups * DESCRIPTOR + namespaces * 4
    }

    fn read_ana_piece(&mut self, now: Instant, offset: u64, end: u64) {
        let id = self.link.identified.as_ref();
        let most = id.and_then(|id| id.max_transfer).map_or(PIECE, |max| PIECE.min(max as u64));
        let len = end.saturating_sub(offset).min(most & !3).max(4);
        let request = GetLogPage { offset, ..GetLogPage::new(lid::ANA, len) };
        match request.to_sqe() {
            Ok(sqe) => self.send_read(now, sqe, len as usize, Purpose::AnaLog),
            Err(error) => {
                let error = self.invalid("ANA log", error.to_string());
                self.ana_unusable(now, error);
            }
        }
    }

    pub(super) fn ana_read(&mut self, now: Instant, answer: Result<Buffer, Status>) {
        let Some(mut reading) = self.link.ana.reading.take() else { return };
        let buffer = match answer {
            Ok(buffer) => buffer,
            Err(status) => {
                let error = self.command_error(Purpose::AnaLog.name(), status);
                if self.at(Step::Ana) {
                    return self.fail(now, error);
                }
                self.emit(ControllerEvent::AnaFailed { error });
                return self.retry_ana(now);
            }
        };
        if reading.checking {
            return self.ana_checked(now, reading, buffer.as_slice());
        }
        reading.bytes.extend_from_slice(buffer.as_slice());
        reading.pieces += 1;
        let group = self.link.identified.as_ref().map_or(0, |id| id.highest_group);
        let (limit, pieces) = (self.ana_limit(), reading.pieces);
        match parse(&reading.bytes, Bounds { len: limit, group }) {
            Ok(Parsed::Whole(snapshot)) if pieces == 1 => self.ana_done(now, snapshot),
            Ok(Parsed::Whole(_)) => {
                // Between the pieces the log may have changed; the header tells.
                reading.checking = true;
                self.link.ana.reading = Some(reading);
                self.read_ana_piece(now, 0, HEADER);
            }
            Ok(Parsed::Needs(_)) if !self.log_offsets() => {
                let have = reading.bytes.len();
                let reason = format!("is longer than {have} bytes, and cannot be read in pieces");
                let error = self.invalid("ANA log", reason);
                self.ana_unusable(now, error);
            }
            Ok(Parsed::Needs(end)) => {
                let have = reading.bytes.len() as u64;
                self.link.ana.reading = Some(reading);
                self.read_ana_piece(now, have, end.max(limit.min(have + PIECE)));
            }
            Err(error) => {
                let error = self.invalid("ANA log", error.to_string());
                self.ana_unusable(now, error);
            }
        }
    }

    fn log_offsets(&self) -> bool {
        self.link.identified.as_ref().is_some_and(|id| id.log_offsets)
    }

    /// The header was read a second time, after all pieces.
    fn ana_checked(&mut self, now: Instant, reading: Reading, header: &[u8]) {
        let same = reading.bytes.get(..header.len()) == Some(header);
        if !same {
            if reading.restarts < MOST_RESTARTS {
                return self.read_ana_from_start(now, reading.restarts + 1);
            }
            let reason = "byte 0: the change count moved each time that the log was read";
            let error = self.invalid("ANA log", reason);
            return self.ana_unusable(now, error);
        }
        match parse(&reading.bytes, Bounds::default()) {
            Ok(Parsed::Whole(snapshot)) => self.ana_done(now, snapshot),
            // Parsed before, so neither can be.
            Ok(Parsed::Needs(_)) | Err(_) => self.retry_ana(now),
        }
    }

    fn ana_done(&mut self, now: Instant, snapshot: AnaSnapshot) {
        self.link.ana.retry.succeeded();
        self.tell_ana(now, snapshot);
        self.ana_finished(now);
    }

    /// A log that lies: all groups count as unknown, so no namespace is usable, until a later
    /// reading is better.
    fn ana_unusable(&mut self, now: Instant, error: ControllerError) {
        self.emit(ControllerEvent::AnaFailed { error });
        self.tell_ana(now, AnaSnapshot::default());
        self.retry_ana(now);
    }

    fn tell_ana(&mut self, now: Instant, snapshot: AnaSnapshot) {
        let transition = self.link.identified.as_ref().map_or(Duration::ZERO, |i| i.ana_transition);
        let ana = &mut self.link.ana;
        ana.note_changes(now, &snapshot, transition);
        // Whoever asked did so before the reading that comes next, if one does.
        let asked = !ana.again && std::mem::take(&mut ana.asked);
        if asked || ana.known.as_deref() != Some(&snapshot) {
            let snapshot = Arc::new(snapshot);
            ana.known = Some(snapshot.clone());
            self.emit(ControllerEvent::Ana(snapshot));
        }
    }

    fn retry_ana(&mut self, now: Instant) {
        self.link.ana.retry.failed(now);
        self.ana_finished(now);
    }

    fn ana_finished(&mut self, now: Instant) {
        self.link.ana.reading = None;
        if std::mem::take(&mut self.link.ana.again) {
            self.link.ana.retry.begun();
            self.read_ana_from_start(now, 0);
        }
        self.ana_known(now);
    }

    pub(super) fn ana_timeout(&mut self, now: Instant) {
        if self.may_read_ana() && self.link.ana.retry.is_due(now) {
            self.reread_ana(now);
        }
        // A controller that does not end a transition in its own time is broken.
        if self.is_live() && self.link.ana.change_deadline().is_some_and(|at| at <= now) {
            let limit = self.link.ana.change_limit;
            let error = self.timeout_error("the change of an ANA group's state", limit);
            self.fail(now, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::log;
    use zerocopy::little_endian::U32;

    fn page(groups: &[(u32, u8, &[u32])]) -> Vec<u8> {
        let nsids: Vec<Vec<U32>> =
            groups.iter().map(|g| g.2.iter().map(|&n| n.into()).collect()).collect();
        AnaLog::encode(
            9,
            groups.iter().zip(&nsids).map(|((grpid, state, _), nsids)| log::AnaGroup {
                grpid: *grpid,
                chgcnt: 3,
                state: log::AnaState(*state),
                nsids,
            }),
        )
    }

    #[test]
    fn groups_come_out_in_order() {
        let Ok(Parsed::Whole(s)) =
            parse(&page(&[(7, 2, &[5, 4]), (2, 1, &[1])]), Bounds::default())
        else {
            panic!("a good log")
        };
        assert_eq!(s.change_count, 9);
        assert_eq!(s.groups[1].nsids, [4, 5]);
        assert_eq!(s.state_of(2), Some(AnaState::Optimized));
        assert_eq!(s.state_of(7), Some(AnaState::NonOptimized));
        assert_eq!(s.state_of(3), None);
    }

    #[test]
    fn a_log_that_goes_on_asks_for_what_it_needs_within_the_limit() {
        let whole = page(&[(1, 1, &[1, 2, 3])]);
        for have in 0..whole.len() {
            match parse(&whole[..have], Bounds { len: 1000, group: 0 }) {
                Ok(Parsed::Needs(end)) => assert!(end > have as u64 && end <= whole.len() as u64),
                _ => panic!("{have} bytes of {}", whole.len()),
            }
            assert!(parse(&whole[..have], Bounds { len: have as u64, group: 0 }).is_err());
        }
    }

    #[test]
    fn a_group_that_occurs_twice_is_named_with_its_place() {
        let error =
            parse(&page(&[(4, 1, &[]), (4, 1, &[])]), Bounds::default()).err().unwrap().to_string();
        assert!(error.contains("byte 48"), "{error}");
    }
}
