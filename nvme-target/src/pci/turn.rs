//! The turn in which the device does what there is to do: commands in, answers out.

use std::time::{Duration, Instant};

use nvme_core::spec::{Cqe, Status};

use super::config::PciFault;
use super::engine::{Engine, Kept};
use super::memory::HostMemory;
use super::peer::Message;
use super::rings::{Answer, CompletionQueue};

/// Admin commands that are kept for whoever asks.
const ADMIN_COMMANDS_MAX: usize = 1024;

impl Engine {
    /// Does everything that there is to do now; whether there was anything.
    pub fn step(&mut self, now: Instant) -> bool {
        self.follow_subsystem();
        let mut worked = false;
        while let Some(message) = self.inbox.take() {
            worked = true;
            self.receive(message);
        }
        self.look_at_doorbells();
        let Some(memory) = self.memory().filter(|_| self.running) else { return worked };
        if self.has(PciFault::Stall) {
            self.scribble(&*memory);
        }
        self.use_host_memory(&*memory, 1);
        worked |= self.release(&*memory, now);
        let mut next = self.sqs.keys().next().copied();
        while let Some(qid) = next {
            worked |= self.drain_queue(&*memory, qid, now);
            next = self.sqs.range(qid.saturating_add(1)..).next().map(|(qid, _)| *qid);
        }
        worked | self.post(&*memory)
    }

    /// Carries out what is on a submission queue; whether there was anything.
    fn drain_queue(&mut self, memory: &dyn HostMemory, qid: u16, now: Instant) -> bool {
        let mut worked = false;
        while self.running {
            self.look_at_tail(memory, qid);
            let Some(queue) = self.sqs.get_mut(&qid) else { break };
            match queue.fetch(memory) {
                Ok(Some(sqe)) => {
                    worked = true;
                    self.stats.commands += 1;
                    if qid == 0 && self.admin_commands.len() < ADMIN_COMMANDS_MAX {
                        self.admin_commands.push(sqe);
                    }
                    self.command(memory, qid, &sqe, now);
                }
                Ok(None) => {
                    let Some(shadow) = self.shadow else { break };
                    // Asked first and looked at then, so that nothing comes in between.
                    shadow.ask(memory, qid, false, queue.tail);
                    if !self.look_at_tail(memory, qid) {
                        break;
                    }
                }
                Err(()) => {
                    self.stats.dma_errors += 1;
                    self.fail();
                }
            }
        }
        worked
    }

    /// Takes over the tail that is in memory; whether it is another.
    fn look_at_tail(&mut self, memory: &dyn HostMemory, qid: u16) -> bool {
        let tail = self.shadow.and_then(|s| s.doorbell(memory, qid, false));
        let (Some(queue), Some(tail)) = (self.sqs.get_mut(&qid), tail) else { return false };
        let moved = tail < queue.entries && tail != queue.tail;
        if moved {
            queue.tail = tail;
        }
        moved
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Complete(cqe) => self.push_answer(0, 0, cqe, false),
            Message::Close => self.fail(),
            Message::Abort { qid, cid, abort_cid } => {
                let held = |k: &Kept| k.qid == qid && k.sqe.cid.get() == cid;
                let at = self.kept.iter().position(held);
                if at.and_then(|at| self.kept.remove(at)).is_some() {
                    self.answer(qid, Cqe::new(cid, Status::ABORT_REQUESTED, 0));
                }
                let not_aborted = u64::from(at.is_none());
                self.answer(0, Cqe::new(abort_cid, Status::SUCCESS, not_aborted));
            }
        }
    }

    /// Writes answers to the completion queues, and raises interrupts.
    fn post(&mut self, memory: &dyn HostMemory) -> bool {
        let mut posted = false;
        let mut failed = false;
        for (qid, queue) in &mut self.cqs {
            let look = |queue: &mut CompletionQueue| {
                let head = self.shadow.and_then(|s| s.doorbell(memory, *qid, true));
                if let Some(head) = head.filter(|head| *head < queue.entries) {
                    queue.head = head;
                }
            };
            look(queue);
            let mut done = queue.post(memory);
            if let (Ok(first), true, Some(shadow)) = (done, queue.is_blocked(), self.shadow) {
                shadow.ask(memory, *qid, true, queue.head);
                look(queue);
                done = queue.post(memory).map(|second| first | second);
            }
            match done {
                Ok(true) => {
                    posted = true;
                    if let (Some(vector), Some(bus)) = (queue.vector, &self.bus) {
                        bus.interrupts.raise(vector);
                    }
                }
                Ok(false) => {}
                Err(()) => failed = true,
            }
        }
        if failed {
            self.stats.dma_errors += 1;
            self.fail();
        }
        posted
    }

    /// An answer to a command of queue `qid`.
    pub(super) fn answer(&mut self, qid: u16, cqe: Cqe) {
        let Some(sq) = self.sqs.get(&qid) else { return };
        let cqid = sq.cqid;
        self.push_answer(qid, cqid, cqe, false);
    }

    pub(super) fn push_answer(&mut self, qid: u16, cqid: u16, mut cqe: Cqe, stale_phase: bool) {
        if let Some(sq) = self.sqs.get(&qid) {
            cqe.sqhd = (sq.head as u16).into();
        }
        cqe.sqid = qid.into();
        if let Some(cq) = self.cqs.get_mut(&cqid) {
            cq.push(Answer { cqe, stale_phase });
        }
    }

    /// An answer that is not touched any more.
    pub(super) fn push_forged(&mut self, cqid: u16, cqe: Cqe, stale_phase: bool) {
        if let Some(cq) = self.cqs.get_mut(&cqid) {
            cq.push(Answer { cqe, stale_phase });
        }
    }

    /// How long until a held command is due.
    pub fn next_timer(&self, now: Instant) -> Option<Duration> {
        if self.has(PciFault::Stall) && !self.kept.is_empty() {
            return Some(Duration::from_millis(1));
        }
        let next = self.kept.iter().filter_map(|k| k.until).min()?;
        Some(next.saturating_duration_since(now))
    }
}
