//! What becomes of a command that did not succeed: retry, failover, or failure.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use nvme_core::spec::Status;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::TransportError;

use super::parked::Hopeless;
use super::policy::{NoLane, elsewhere};
use super::request::IoCompletion;
use super::rules::{self, Case, Next};
use super::slab::{Entry, Flags, Place};
use super::{Channel, Trouble};
use crate::error::IoError;
use crate::fence::Fencing;
use crate::mailbox::Command;

/// How long a request waits after a path error when there is no other path.
const PATH_ERROR_DELAY: Duration = Duration::from_millis(20);

impl Channel {
    /// A queue has ended: its requests go elsewhere, and the control plane is told. Troubles from
    /// `from` on are its own.
    pub(super) fn queue_died(&mut self, place: usize, error: TransportError, from: usize) {
        let gone = self.queues.remove(place, self.sleep.epoll());
        let (association, fencing) = (gone.association, gone.fencing);
        // Closed before its requests are sent again.
        drop(gone);
        self.mark_lost(fencing, from);
        let channel = self.letters.id;
        let commands = &self.shared.commands;
        commands.send(Command::QueueFailed { association, channel, error });
        commands.send(Command::QueueReleased { association, channel });
    }

    /// A queue is dead, and its device goes on with what it has: the control plane is told at once, and
    /// the queue is polled until it gives that back. What a write that it has would undo waits for that.
    #[cold]
    pub(super) fn queue_ends(&mut self, place: usize, error: TransportError) {
        let q = self.queues.at(place);
        if std::mem::replace(&mut q.ending, true) {
            return;
        }
        let (association, channel) = (q.association, self.letters.id);
        self.queues.let_die(place);
        self.hold_behind_those_of(association);
        self.shared.commands.send(Command::QueueFailed { association, channel, error });
    }

    /// What a queue ended itself was not answered by a controller. Another queue's controller may have
    /// answered with that status, for whatever reason, and that one lives.
    fn mark_lost(&mut self, fencing: Fencing, from: usize) {
        let ended = |t: &&mut Trouble| t.status.is(Status::ABORTED_BY_HOST);
        for trouble in self.troubled.iter_mut().skip(from).filter(ended) {
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
        // An Abort may come in the middle of a write.
        if trouble.lost || status.is(Status::ABORT_REQUESTED) {
            self.slab[at].flags.set(Flags::UNCERTAIN);
        }
        if self.closed && (trouble.lost || !status.dnr()) {
            // The host ends: nothing is waited for, and nothing is tried again.
            self.parked.hopeless.push((at, Hopeless::Shutdown));
            return;
        }
        let association = self.slab[at].sent_on;
        let known = &mut self.heads[self.slab[at].head];
        known.refresh(&self.queues);
        let past = *self.slab.past(at);
        let entry = &self.slab[at];
        let holds = !self.closed && trouble.fencing.holds(known.head.fence());
        let next = rules::next(Case {
            status,
            lost: trouble.lost,
            may_live_on: holds && entry.op.modifies(),
            once: self.passthrough.once(entry, at),
            unwanted: entry.flags.has(Flags::CANCELLED),
            path_errors: past.path_errors,
            retries: past.retries,
            max_retries: self.options.max_retries,
        });
        let counters = &known.head.counters;
        counters.failed(status, trouble.lost);
        match next {
            Next::Hold | Next::Send | Next::AwaitAna | Next::Elsewhere => {
                counters.failovers.fetch_add(1, Ordering::Relaxed);
                if !trouble.lost {
                    self.slab.history(at).path_errors += 1;
                }
            }
            Next::Again => {
                counters.retries.fetch_add(1, Ordering::Relaxed);
                self.slab.history(at).retries += 1;
            }
            Next::Fail | Next::Unknown | Next::Unwanted => {}
        }
        let path = known.view.paths.iter().find(|p| p.association == association);
        match next {
            Next::Hold => self.hold(at, association),
            Next::Send => self.send(at),
            Next::AwaitAna => {
                if let Some(nsid) = path.map(|p| p.nsid)
                    && known.avoid(association)
                {
                    self.shared.commands.send(Command::AnaError { association, nsid });
                }
                self.send(at);
            }
            Next::Elsewhere => {
                let history = self.slab.history(at);
                history.shunned = Some(association);
                let errors = history.path_errors;
                match elsewhere(known, &self.queues, &[association]) {
                    Ok(_) | Err(NoLane::Full) => self.send(at),
                    Err(NoLane::None | NoLane::Refused { .. }) => {
                        self.delay(at, now + PATH_ERROR_DELAY * errors);
                    }
                }
            }
            Next::Again => {
                if status.is(Status::ABORT_REQUESTED) {
                    // It was aborted because it took too long: another path may be quicker.
                    self.slab.history(at).shunned = Some(association);
                }
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
            }
            Next::Fail => {
                let head = known.head.name().to_owned();
                let Entry { op, slba, blocks, .. } = self.slab[at];
                self.fail(at, IoError::Status { head, op, slba, blocks, status }, done);
            }
            Next::Unknown => {
                let head = known.head.name().to_owned();
                self.fail(at, IoError::OutcomeUnknown { head }, done);
            }
            Next::Unwanted => {
                let head = known.head.name().to_owned();
                let error = match self.slab[at].flags.has(Flags::EXPIRED) {
                    true => IoError::Expired { head },
                    false => IoError::Cancelled { head },
                };
                self.fail(at, error, done);
            }
        }
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
        next = nvme_core::time::earlier(next, self.check_expired(now));
        self.finish_hopeless(done);
        self.check_at = next.unwrap_or(Instant::NEVER);
    }
}
