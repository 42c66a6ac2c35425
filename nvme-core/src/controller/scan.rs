//! Which namespaces are there: the active list in pages, or each NSID in turn.

use std::collections::VecDeque;
use std::sync::Arc;

use super::action::{ControllerError, ControllerEvent, GoneReason, NamespaceInfo};
use super::admin::Purpose;
use super::machine::Controller;
use super::namespaces::Standing;
use super::probe::Probes;
use super::retry::Retry;
use crate::buffer::Buffer;
use crate::quirk::Quirks;
use crate::spec::command::GetLogPage;
use crate::spec::identify::{IDENTIFY_LEN, NsidList, cns};
use crate::spec::log::lid;
use crate::spec::{Sqe, Status};
use crate::time::Instant;
use zerocopy::FromBytes;

/// Most namespaces of one controller that are looked at.
const MOST: usize = 65_536;

/// The scan of one association.
#[derive(Debug, Default)]
pub(super) struct Scan {
    stage: Stage,
    /// Another one was asked for meanwhile.
    again: bool,
    /// Something could not be found out for now.
    pub(super) incomplete: bool,
    retry: Retry,
    /// Namespaces that may be good once the others have been looked at.
    doubtful: Vec<NamespaceInfo>,
    /// The ANA log may lack something.
    new_groups: bool,
    /// The controller does not know CNS 08h.
    pub(super) no_independent: bool,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    ChangedList,
    /// Reading the active list; what came so far.
    List(Vec<u32>),
    Namespaces(Probes),
}

impl Scan {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry.at()
    }

    pub(super) fn probes(&mut self) -> Option<&mut Probes> {
        match &mut self.stage {
            Stage::Namespaces(probes) => Some(probes),
            _ => None,
        }
    }
}

impl Controller {
    /// Looks at all namespaces again, or once more when it is at it already. A controller that is
    /// not live does so anyway when it is.
    pub fn rescan(&mut self, now: Instant) {
        if !self.is_live() {
            return;
        }
        if !matches!(self.link.scan.stage, Stage::Idle) {
            self.link.scan.again = true;
            return;
        }
        let Some(identified) = &self.link.identified else { return };
        self.link.scan.retry.begun();
        if identified.discovery || self.info.as_ref().is_none_or(|info| info.io_queues == 0) {
            // There are no namespaces, or none that could be reached without a queue.
            self.emit(ControllerEvent::ScanDone);
            return;
        }
        // Reading the log, whatever it says, lets the controller send the event again
        // (`NVMe 2.1 §5.1.12.1.5`).
        self.link.scan.stage = Stage::ChangedList;
        let log = GetLogPage::new(lid::CHANGED_NAMESPACES, IDENTIFY_LEN as u64);
        match log.to_sqe() {
            Ok(sqe) => self.send_read(now, sqe, IDENTIFY_LEN, Purpose::ChangedList),
            Err(_) => self.changed_list_read(now, None),
        }
    }

    /// The changed list was read, or could not be. What it says does not matter, for all namespaces are
    /// looked at. But as long as it has not been read, the event is not sent again: where it failed and
    /// need not have, the scan is one to be repeated.
    pub(super) fn changed_list_read(&mut self, now: Instant, failed: Option<Status>) {
        if !matches!(self.link.scan.stage, Stage::ChangedList) {
            return;
        }
        let lacks = [Status::INVALID_LOG_PAGE, Status::INVALID_FIELD, Status::INVALID_OPCODE];
        let has = |status: Status| !status.dnr() && !lacks.iter().any(|lack| status.is(*lack));
        self.link.scan.incomplete = failed.is_some_and(has);
        let quirks = self.link.quirks;
        if self.link.version.at_least(1, 1) && !quirks.contains(Quirks::NO_NAMESPACE_LIST) {
            self.link.scan.stage = Stage::List(Vec::new());
            self.read_list_page(now, 0);
        } else {
            self.scan_sequentially(now);
        }
    }

    fn read_list_page(&mut self, now: Instant, after: u32) {
        let sqe = Sqe::identify(cns::ACTIVE_NAMESPACES, after);
        self.send_read(now, sqe, IDENTIFY_LEN, Purpose::NamespaceList);
    }

    pub(super) fn namespace_list_read(&mut self, now: Instant, answer: Result<Buffer, Status>) {
        let Stage::List(found) = &mut self.link.scan.stage else { return };
        let buffer = match answer {
            Ok(buffer) => buffer,
            // A controller without the list has few namespaces, to be asked for one by one.
            Err(status) if status.dnr() && found.is_empty() => return self.scan_sequentially(now),
            Err(status) => {
                let error = self.command_error(Purpose::NamespaceList.name(), status);
                return self.scan_failed(now, error);
            }
        };
        let after = found.last().copied().unwrap_or(0);
        let page = match NsidList::ref_from_prefix(buffer.as_slice()) {
            Ok((list, _)) => list.above(after).map_err(|error| error.to_string()),
            Err(_) => Err(format!("only {} bytes came", buffer.len())),
        };
        let page = match page {
            Ok(page) => page,
            Err(reason) => {
                let error = self.invalid("active namespace list", reason);
                return self.scan_failed(now, error);
            }
        };
        let full = page.len() == NsidList::CAPACITY;
        found.extend(page);
        let (most, last) = (found.len() >= MOST, found.last().copied().unwrap_or(0));
        if full && !most {
            return self.read_list_page(now, last);
        }
        let active = std::mem::take(found);
        if full {
            let reason = format!("only the first {MOST} namespaces are looked at");
            self.emit(ControllerEvent::NamespaceRefused { nsid: last.saturating_add(1), reason });
        }
        for nsid in self.namespaces.missing_from(&active) {
            self.namespace_gone(nsid, GoneReason::NotActive);
        }
        self.probe_all(now, active.into());
    }

    fn scan_sequentially(&mut self, now: Instant) {
        let highest = self.link.identified.as_ref().map_or(0, |id| id.highest_nsid);
        let highest = highest.min(u32::try_from(MOST).unwrap_or(u32::MAX));
        self.probe_all(now, (1..=highest).collect());
    }

    fn probe_all(&mut self, now: Instant, nsids: VecDeque<u32>) {
        self.link.scan.stage = Stage::Namespaces(Probes::new(nsids));
        self.probe_more(now);
    }

    /// The list itself could not be had: what was known stays.
    fn scan_failed(&mut self, now: Instant, error: ControllerError) {
        self.link.scan.incomplete = true;
        self.emit(ControllerEvent::ScanFailed { error });
        self.scan_done(now);
    }

    /// All namespaces have been looked at.
    pub(super) fn scan_done(&mut self, now: Instant) {
        self.link.scan.stage = Stage::Idle;
        let mut doubtful = std::mem::take(&mut self.link.scan.doubtful);
        doubtful.sort_by_key(|info| info.nsid);
        for info in doubtful {
            match self.namespaces.standing(&info) {
                Standing::Duplicate(other) => {
                    let reason =
                        format!("namespace {other} has the same identifiers ({})", info.ids);
                    self.emit(ControllerEvent::NamespaceRefused { nsid: info.nsid, reason });
                }
                _ => self.namespace_ready(info),
            }
        }
        let scan = &mut self.link.scan;
        if scan.incomplete {
            scan.retry.failed(now);
        } else {
            scan.retry.succeeded();
        }
        let again = std::mem::take(&mut scan.again);
        let new_groups = std::mem::take(&mut scan.new_groups);
        self.emit(ControllerEvent::ScanDone);
        if again {
            self.rescan(now);
        }
        if new_groups {
            self.reread_ana(now);
        }
    }

    /// A namespace was read and is good.
    pub(super) fn namespace_found(&mut self, info: NamespaceInfo) {
        match self.namespaces.standing(&info) {
            Standing::Same => {}
            Standing::Update | Standing::New => self.namespace_ready(info),
            Standing::OtherIdentity => {
                self.namespace_gone(info.nsid, GoneReason::IdentityChanged);
                self.namespace_found(info);
            }
            // The other one may be about to go, or to change its identity: judged at the end.
            Standing::Duplicate(_) => self.link.scan.doubtful.push(info),
        }
    }

    fn namespace_ready(&mut self, info: NamespaceInfo) {
        let is_new = !self.namespaces.contains(info.nsid);
        let ana = self.link.identified.as_ref().is_some_and(|id| id.ana);
        if ana && (is_new || !self.link.ana.knows(info.ana_group)) {
            self.link.scan.new_groups = true;
        }
        let info = Arc::new(info);
        self.namespaces.insert(info.clone());
        self.emit(ControllerEvent::NamespaceReady(info));
    }

    pub(super) fn namespace_gone(&mut self, nsid: u32, reason: GoneReason) {
        if self.namespaces.remove(nsid) {
            self.emit(ControllerEvent::NamespaceGone { nsid, reason });
        }
    }

    /// A namespace is there and cannot be used.
    pub(super) fn namespace_refused(&mut self, nsid: u32, reason: String) {
        self.namespace_gone(nsid, GoneReason::Refused);
        self.emit(ControllerEvent::NamespaceRefused { nsid, reason });
    }

    pub(super) fn scan_timeout(&mut self, now: Instant) {
        if self.is_live() && self.link.scan.retry.is_due(now) {
            self.link.scan.retry.begun();
            self.rescan(now);
        }
    }
}
