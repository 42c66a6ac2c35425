//! All ports, and what a test does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nvme_core::spec::command::{GetLogPage, Identify};
use nvme_core::spec::fabrics::FABRICS_OPCODE;
use nvme_core::spec::log::ResetState;
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::spec::registers::Cc;
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::{Clock, Duration};
use nvme_core::transport::{Data, Tag, TransportError};

use crate::TestClock;
use crate::admin::{admin, cirn, identify, log_page};
use crate::io::{execute, io};
use crate::port::{Ns, Port};
use crate::wire::{InFlight, Link, Session};

/// All ports.
pub struct World {
    sessions: AtomicU16,
    clock: Arc<TestClock>,
    /// Times that a queue was asked when it is to be polled.
    pub asked: AtomicUsize,
    /// Controllers that others have reset.
    reset: Mutex<BTreeSet<u16>>,
    ports: Mutex<BTreeMap<String, Port>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl World {
    /// One with a time of its own.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::at(&TestClock::new())
    }

    /// One whose time is that of a clock.
    #[must_use]
    pub fn at(clock: &Arc<TestClock>) -> Arc<Self> {
        let clock = Arc::clone(clock);
        Arc::new(Self {
            sessions: AtomicU16::new(1),
            clock,
            asked: AtomicUsize::new(0),
            reset: Mutex::default(),
            ports: Mutex::default(),
        })
    }

    /// Looks at a port, or changes it. It is there from the first look on.
    pub fn port<R>(&self, name: &str, f: impl FnOnce(&mut Port) -> R) -> R {
        f(self.ports.lock().unwrap().entry(name.to_owned()).or_insert_with(Port::new))
    }

    /// What is said of a port that was pulled.
    pub(crate) fn lost(name: &str) -> TransportError {
        TransportError::Lost { address: format!("fake://{name}"), reason: "pulled".into() }
    }

    /// Cuts all queues of a port and lets nobody in.
    pub fn pull(&self, name: &str) {
        self.port(name, |port| {
            port.up = false;
            port.links.drain(..).for_each(|link| link.cut(Self::lost(name)));
        });
    }

    /// Cuts one queue alone.
    pub fn cut(&self, name: &str, qid: u16) {
        self.port(name, |port| {
            let is = |link: &&Arc<Link>| link.qid == qid && link.lock().dead.is_none();
            if let Some(link) = port.links.iter().rev().find(is) {
                link.cut(Self::lost(name));
            }
        });
    }

    /// Lets everybody in again.
    pub fn plug(&self, name: &str) {
        self.port(name, |port| port.up = true);
    }

    /// Answers an outstanding event request.
    fn event(port: &mut Port, result: u64) {
        for link in port.links.iter().filter(|link| link.qid == 0) {
            let mut wire = link.lock();
            match wire.events.pop() {
                Some(tag) => wire.answers.push_back((tag, Status::SUCCESS, result)),
                None => _ = wire.unsent.insert(result),
            }
        }
    }

    /// Changes the namespaces and says so.
    pub fn namespaces(&self, name: &str, change: impl FnOnce(&mut BTreeMap<u32, Ns>)) {
        self.port(name, |port| {
            change(&mut port.namespaces);
            Self::event(port, 0x0004_0002);
        });
    }

    /// Sets an ANA group's state, and says so.
    pub fn ana(&self, name: &str, group: u32, state: u8) {
        self.port(name, |port| {
            port.ana.get_or_insert_default().insert(group, state);
            port.ana_changes += 1;
            Self::event(port, 0x000c_0302);
        });
    }

    /// I/O commands held.
    pub fn held(&self, name: &str) -> usize {
        self.port(name, |port| port.links.iter().map(|l| l.lock().held.len()).sum())
    }

    /// Answers all I/O commands that are held.
    pub fn release(&self, name: &str, status: Status) {
        self.port(name, |port| {
            for link in port.links.clone() {
                let mut wire = link.lock();
                for tag in std::mem::take(&mut wire.held) {
                    if let Some(command) =
                        wire.in_flight.get_mut(&tag).filter(|_| status.is_success())
                    {
                        execute(port, command);
                    }
                    wire.answers.push_back((tag, status, 0));
                }
            }
        });
    }

    /// Answers the Identify Namespace commands that are held, and holds no more.
    pub fn release_identify(&self, name: &str) {
        self.port(name, |port| {
            port.hold_namespace = false;
            for link in port.links.clone().into_iter().filter(|link| link.qid == 0) {
                let mut wire = link.lock();
                for tag in std::mem::take(&mut wire.held) {
                    let Some(command) = wire.in_flight.get_mut(&tag) else { continue };
                    let args = Identify::from_sqe(&command.sqe);
                    if let Some((status, result)) = identify(port, &link, command, args) {
                        wire.answers.push_back((tag, status, result));
                    }
                }
            }
        });
    }

    /// Sends the ANA logs that are held, and holds no more.
    pub fn release_log(&self, name: &str) {
        self.port(name, |port| {
            port.hold_log = false;
            for link in port.links.clone().into_iter().filter(|link| link.qid == 0) {
                let mut wire = link.lock();
                for tag in std::mem::take(&mut wire.held) {
                    let Some(command) = wire.in_flight.get_mut(&tag) else { continue };
                    let args = GetLogPage::from_sqe(&command.sqe);
                    if let Some((status, result)) = log_page(port, command, args) {
                        wire.answers.push_back((tag, status, result));
                    }
                }
            }
        });
    }

    /// Cuts all queues of a port as a device does that is taken away.
    pub fn take_away(&self, name: &str) {
        self.port(name, |port| {
            port.up = false;
            let gone = TransportError::Gone { address: name.into(), reason: "taken away".into() };
            port.links.drain(..).for_each(|link| link.cut(gone.clone()));
        });
    }

    /// Takes a Cross-Controller Reset. The other controller may be at any port.
    fn cross_reset(&self, name: &str, link: &Link, sqe: Sqe, tag: Tag) {
        let cntlid = sqe.cdw10.get() as u16;
        assert_eq!(u64::from(sqe.cdw12.get()), cirn(cntlid), "the instance that it was");
        let slow = self.port(name, |port| port.slow_reset);
        let state = if slow { ResetState::IN_PROGRESS } else { ResetState::SUCCESS };
        self.port(name, |port| _ = port.reset_log.insert(cntlid, state));
        if !slow {
            self.forget_late(cntlid);
        }
        let mut wire = link.lock();
        wire.in_flight.insert(tag, InFlight { sqe, data: Data::None });
        wire.answers.push_back((tag, Status::SUCCESS, u64::from(!slow)));
    }

    /// A controller is reset: it executes nothing any more.
    fn forget_late(&self, cntlid: u16) {
        self.reset.lock().unwrap().insert(cntlid);
        let mut ports = self.ports.lock().unwrap();
        ports.values_mut().for_each(|port| port.late.retain(|(of, ..)| *of != cntlid));
    }

    /// Ends the slow resets that a port was asked for, and says so.
    pub fn finish_resets(&self, name: &str, state: ResetState) {
        let under_way = self.port(name, |port| {
            let mut done = Vec::new();
            for (cntlid, s) in port.reset_log.iter_mut().filter(|(_, s)| **s != state) {
                *s = state;
                done.push(*cntlid);
            }
            done
        });
        if state == ResetState::SUCCESS {
            under_way.into_iter().for_each(|cntlid| self.forget_late(cntlid));
        }
        self.port(name, |port| Self::event(port, 0x001e_f402));
    }

    /// Keeps the writes that a dead queue has and that were not executed.
    pub(crate) fn bury(&self, name: &str, link: &Link) {
        if link.lock().dead.is_none() {
            return;
        }
        self.port(name, |port| {
            // One that has said that it is shut down, or was reset, executes nothing.
            let reset = self.reset.lock().unwrap().contains(&link.session.cntlid);
            if reset || link.session.told_shut_down.load(Ordering::Relaxed) {
                return;
            }
            let mut wire = link.lock();
            for tag in std::mem::take(&mut wire.held) {
                let Some(InFlight { sqe, data: Data::Write(b) }) = wire.in_flight.get(&tag) else {
                    continue;
                };
                let data = Data::Write(b.as_slice().to_vec().into());
                let command = InFlight { sqe: *sqe, data };
                port.late.push((link.session.cntlid, wire.dead_since, command));
            }
        });
    }

    /// Executes the writes whose connections have died. Their user bytes.
    pub fn execute_late(&self, name: &str) -> Vec<u8> {
        let executed = self.execute_late_within(name, Duration::MAX);
        executed.into_iter().map(|e| e.3).collect()
    }

    /// Executes those of them whose connections have died less than that ago, and drops the others.
    pub fn execute_late_within(&self, name: &str, time: Duration) -> Vec<(u32, u8, u64, u8)> {
        let now = self.clock.now();
        self.port(name, |port| {
            let mut late = std::mem::take(&mut port.late);
            let from = port.executed.len();
            for (_, since, command) in &mut late {
                if now.saturating_since(*since) < time {
                    execute(port, command);
                }
            }
            port.executed[from..].to_vec()
        })
    }

    /// A new controller, with an identifier of its own.
    pub(crate) fn session(&self) -> Arc<Session> {
        let cntlid = self.sessions.fetch_add(1, Ordering::Relaxed);
        Arc::new(Session { cntlid, cc: Mutex::new(Cc(0)), told_shut_down: AtomicBool::new(false) })
    }

    /// A new queue; `None` if the port is down.
    pub(crate) fn open(&self, name: &str, session: &Arc<Session>, qid: u16) -> Option<Arc<Link>> {
        self.port(name, |port| {
            port.attempts += u32::from(qid == 0);
            port.links.retain(|link| link.lock().dead.is_none() && !link.lock().dropped);
            if !port.up {
                return None;
            }
            let (session, clock) = (session.clone(), self.clock.clone());
            let link = Arc::new(Link { session, qid, wire: Mutex::default(), clock });
            port.links.push(link.clone());
            port.all.push(link.clone());
            Some(link)
        })
    }

    /// Takes a command.
    pub(crate) fn submit(&self, name: &str, link: &Arc<Link>, sqe: Sqe, data: Data, tag: Tag) {
        if link.qid == 0 && sqe.opcode == AdminOpcode::CROSS_CONTROLLER_RESET.0 {
            return self.cross_reset(name, link, sqe, tag);
        }
        self.port(name, |port| {
            let mut wire = link.lock();
            let mut command = InFlight { sqe, data };
            let answer = if link.qid != 0 && sqe.opcode != FABRICS_OPCODE {
                io(port, &mut wire, &mut command, tag)
            } else {
                admin(port, link, &mut wire, &mut command, tag)
            };
            let before = wire.in_flight.insert(tag, command);
            assert!(before.is_none(), "tag {tag:#x} is in flight twice on one queue");
            if let Some((status, result)) = answer {
                wire.answers.push_back((tag, status, result));
            }
        });
    }
}
