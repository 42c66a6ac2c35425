//! What becomes of a command that did not succeed: retry, failover, or failure.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use nvme_core::spec::Status;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::TransportError;

use super::parked::Hopeless;
use super::policy::{Route, elsewhere};
use super::request::{IoCompletion, Place};
use super::{Channel, Trouble};
use crate::error::IoError;
use crate::fence::Fencing;
use crate::mailbox::Command;

/// Path errors that a request survives. A lost connection is none: that may happen any number of
/// times. This is for controllers that answer "path error" for ever.
const MAX_PATH_ERRORS: u32 = 100;

/// How long a request waits after a path error when there is no other path.
const PATH_ERROR_DELAY: Duration = Duration::from_millis(20);

impl Channel {
    /// A queue has ended: its requests go elsewhere, and the control plane is told.
    pub(super) fn queue_died(&mut self, place: usize, error: TransportError) {
        let gone = self.queues.remove(place, self.sleep.epoll());
        let (association, fencing) = (gone.association, gone.fencing);
        // Closed before its requests are sent again.
        drop(gone);
        self.mark_lost(fencing);
        let channel = self.letters.id;
        let commands = &self.shared.commands;
        commands.send(Command::QueueFailed { association, channel, error });
        commands.send(Command::QueueReleased { association, channel });
    }

    /// What a queue ended itself was not answered by a controller.
    fn mark_lost(&mut self, fencing: Fencing) {
        let ended = |t: &&mut Trouble| !t.lost && t.status.is(Status::ABORTED_BY_HOST);
        for trouble in self.troubled.iter_mut().filter(ended) {
            (trouble.lost, trouble.fencing) = (true, fencing);
        }
    }

    pub(super) fn handle_trouble(&mut self, now: Instant, done: &mut Vec<IoCompletion>) {
        let mut troubled = std::mem::take(&mut self.troubled);
        for trouble in troubled.drain(..) {
            self.decide(&trouble, now, done);
        }
        self.troubled = troubled;
    }

    fn decide(&mut self, trouble: &Trouble, now: Instant, done: &mut Vec<IoCompletion>) {
        let (at, status) = (trouble.at, trouble.status);
        if self.closed && (trouble.lost || !status.dnr()) {
            // The host ends: nothing is waited for, and nothing is tried again.
            self.parked.hopeless.push((at, Hopeless::Shutdown));
            return;
        }
        let association = self.slab[at].sent_on;
        let known = &mut self.heads[self.slab[at].head];
        known.refresh();
        self.slab[at].uncertain |= trouble.lost;
        if trouble.lost && self.slab[at].cancelled {
            let head = known.head.name().to_owned();
            self.fail(at, IoError::Cancelled { head }, done);
            return;
        }
        if trouble.lost {
            known.head.counters.failovers.fetch_add(1, Ordering::Relaxed);
            let holds = trouble.fencing.holds(known.head.fence()) && !self.closed;
            if holds && self.slab[at].op.modifies() {
                self.hold(at, association);
            } else {
                self.send(at);
            }
            return;
        }
        let path = known.view.paths.iter().find(|p| p.association == association);
        let entry = &mut self.slab[at];
        if status.is_path_related() && !status.dnr() && !entry.cancelled {
            entry.path_errors += 1;
            if entry.path_errors <= MAX_PATH_ERRORS {
                known.head.counters.failovers.fetch_add(1, Ordering::Relaxed);
                let (nsid, errors) = (path.map(|p| p.nsid), entry.path_errors);
                if status.is_ana() {
                    if let Some(nsid) = nsid
                        && known.avoid(association)
                    {
                        self.shared.commands.send(Command::AnaError { association, nsid });
                    }
                    self.send(at);
                    return;
                }
                entry.shunned = Some(association);
                match elsewhere(known, &self.queues, association) {
                    Route::Path { .. } | Route::Full => self.send(at),
                    Route::None | Route::Refused { .. } => {
                        self.delay(at, now + PATH_ERROR_DELAY * errors);
                    }
                }
                return;
            }
        } else if !status.dnr() && !entry.cancelled && entry.retries < self.options.max_retries {
            entry.retries += 1;
            if status.is(Status::ABORT_REQUESTED) {
                // It was aborted because it took too long: another path may be quicker.
                entry.shunned = Some(association);
            }
            known.head.counters.retries.fetch_add(1, Ordering::Relaxed);
            // CRD picks one of the controller's three delays (NVMe 2.1 §4.2.3, §5.1.13.2.1).
            let crd = usize::from(status.crd());
            let delay = match (crd.checked_sub(1), path) {
                (Some(i), Some(path)) => path.retry_delays[i],
                _ => Duration::ZERO,
            };
            if delay.is_zero() {
                self.send(at);
            } else {
                self.delay(at, now + delay);
            }
            return;
        }
        let head = known.head.name().to_owned();
        let (op, slba, blocks) = (entry.op, entry.slba, entry.blocks);
        self.fail(at, IoError::Status { head, op, slba, blocks, status }, done);
    }

    /// The request is sent again at `when`.
    fn delay(&mut self, at: u32, when: Instant) {
        self.slab[at].place = Place::Delayed;
        self.delayed.push(Reverse((when, at)));
        self.check_at = self.check_at.min(when);
    }

    /// Looks at everything that has a time limit, and sets when to look again.
    pub(super) fn check_times(&mut self, now: Instant, done: &mut Vec<IoCompletion>) {
        while let Some(&Reverse((when, at))) = self.delayed.peek() {
            if when > now {
                break;
            }
            self.delayed.pop();
            self.slab[at].place = Place::Waiting;
            self.send(at);
        }
        let mut next = self.delayed.peek().map(|Reverse((when, _))| *when);
        next = nvme_core::time::earlier(next, self.check_parked(now));
        next = nvme_core::time::earlier(next, self.check_overdue(now));
        self.finish_hopeless(done);
        self.check_at = next.unwrap_or(Instant::NEVER);
    }
}
