//! Looking at namespaces, several at a time: descriptors, then what all command sets share, then
//! the namespace itself (`NVMe 2.1 §5.1.13.2`).

use std::collections::{BTreeMap, VecDeque};

use super::action::GoneReason;
use super::admin::Purpose;
use super::machine::Controller;
use super::namespace_check::{self, Outcome};
use crate::buffer::Buffer;
use crate::identity::NamespaceIds;
use crate::quirk::Quirks;
use crate::spec::identify::{IDENTIFY_LEN, IndependentNamespace, cns, csi};
use crate::spec::{Sqe, Status};
use crate::time::Instant;
use zerocopy::FromBytes;

/// Namespaces that are looked at at the same time; the admin queue's depth may make it fewer.
const AT_ONCE: usize = 8;

/// The namespaces still to be looked at, and those being looked at with what is known of them.
#[derive(Debug)]
pub(super) struct Probes {
    waiting: VecDeque<u32>,
    under_way: BTreeMap<u32, NamespaceIds>,
}

impl Probes {
    pub(super) const fn new(nsids: VecDeque<u32>) -> Self {
        Self { waiting: nsids, under_way: BTreeMap::new() }
    }
}

impl Controller {
    /// Begins with as many namespaces as may be under way; ends the scan when none is left.
    pub(super) fn probe_more(&mut self, now: Instant) {
        let has_descriptors =
            self.link.version.at_least(1, 3) && !self.link.quirks.contains(Quirks::NO_DESCRIPTORS);
        while let Some(probes) = self.link.scan.probes() {
            if probes.under_way.len() >= AT_ONCE {
                return;
            }
            let Some(nsid) = probes.waiting.pop_front() else {
                if probes.under_way.is_empty() {
                    self.scan_done(now);
                }
                return;
            };
            probes.under_way.insert(nsid, NamespaceIds::default());
            if has_descriptors {
                let sqe = Sqe::identify(cns::NAMESPACE_DESCRIPTORS, nsid);
                self.send_read(now, sqe, IDENTIFY_LEN, Purpose::Descriptors(nsid));
            } else {
                self.identify_namespace(now, nsid);
            }
        }
    }

    pub(super) fn descriptors_read(
        &mut self,
        now: Instant,
        nsid: u32,
        answer: Result<Buffer, Status>,
    ) {
        let Some(probes) = self.link.scan.probes() else { return };
        let Some(ids) = probes.under_way.get_mut(&nsid) else { return };
        match answer.map(|buffer| namespace_check::descriptors(buffer.as_slice())) {
            // The other structures of another command set would not make sense here.
            Ok(Ok(found)) if found.csi != csi::NVM => {
                let reason = format!("its command set, {:#04x}, is not supported", found.csi);
                return self.probed(now, nsid, Ok(Outcome::Unusable(reason)));
            }
            Ok(Ok(found)) => *ids = found,
            Ok(Err(reason)) => return self.probed(now, nsid, Ok(Outcome::Unusable(reason))),
            // Without descriptors the namespace may still have the older identifiers; and if there
            // is none, Identify Namespace will tell.
            Err(status) if status.dnr() => {}
            Err(status) => return self.probed(now, nsid, Err(status)),
        }
        if self.link.version.at_least(2, 0) && !self.link.scan.no_independent {
            let sqe = Sqe::identify(cns::INDEPENDENT_NAMESPACE, nsid);
            self.send_read(now, sqe, IDENTIFY_LEN, Purpose::Independent(nsid));
        } else {
            self.identify_namespace(now, nsid);
        }
    }

    /// Optional: what it tells beyond Identify Namespace is whether the namespace is ready yet.
    pub(super) fn independent_read(
        &mut self,
        now: Instant,
        nsid: u32,
        answer: Result<Buffer, Status>,
    ) {
        match answer {
            Ok(buffer) => {
                let structure = IndependentNamespace::ref_from_prefix(buffer.as_slice());
                if structure.is_ok_and(|(ns, _)| !ns.is_ready()) {
                    return self.probed(now, nsid, Err(Status::NAMESPACE_NOT_READY));
                }
            }
            Err(status) if status.is(Status::INVALID_FIELD) => {
                self.link.scan.no_independent = true;
            }
            Err(_) => {}
        }
        self.identify_namespace(now, nsid);
    }

    fn identify_namespace(&mut self, now: Instant, nsid: u32) {
        let sqe = Sqe::identify(cns::NAMESPACE, nsid);
        self.send_read(now, sqe, IDENTIFY_LEN, Purpose::Namespace(nsid));
    }

    pub(super) fn namespace_read(
        &mut self,
        now: Instant,
        nsid: u32,
        answer: Result<Buffer, Status>,
    ) {
        let Some(probes) = self.link.scan.probes() else { return };
        let Some(ids) = probes.under_way.get(&nsid) else { return };
        let mut outcome =
            answer.map(|buffer| namespace_check::check(nsid, buffer.as_slice(), *ids));
        if let Ok(Outcome::Good(info)) = &mut outcome
            && self.link.quirks.contains(Quirks::BOGUS_IDS)
        {
            (info.ids.nguid, info.ids.eui64) = (None, None);
        }
        self.probed(now, nsid, outcome);
    }

    /// All that there is to know of a namespace is known, or cannot be known for now.
    fn probed(&mut self, now: Instant, nsid: u32, outcome: Result<Outcome, Status>) {
        let Some(probes) = self.link.scan.probes() else { return };
        if probes.under_way.remove(&nsid).is_none() {
            return;
        }
        match outcome {
            Ok(Outcome::Good(info)) => self.namespace_found(info),
            Ok(Outcome::Inactive) => self.namespace_gone(nsid, GoneReason::NotActive),
            Ok(Outcome::Unusable(reason)) => self.namespace_refused(nsid, reason),
            Err(status) if status.dnr() => self.namespace_gone(nsid, GoneReason::Refused),
            // What was known stays; the scan is repeated.
            Err(_) => self.link.scan.incomplete = true,
        }
        self.probe_more(now);
    }
}
