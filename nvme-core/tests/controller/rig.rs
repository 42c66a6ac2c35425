//! A controller made of a few tables, and a driver that joins it to the state machine under test.
//!
//! The driver answers at once unless told otherwise, keeps virtual time, and checks what a driver
//! may rely on: nothing is asked of an association that was torn down, and no new one is made
//! before the old one is gone.

use std::collections::BTreeSet;

use nvme_core::controller::{Action, Controller, ControllerConfig, ControllerEvent, State};
use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::quirk::{Hardware, Quirks};
use nvme_core::spec::{Cqe, Sqe, Status};
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{
    Completion, Data, HostMemory, HostMemoryRequest, QueueSetup, Tag, TransportError, TransportKind,
};

use crate::model::{Answer, Model};

pub const SUBSYSTEM: &str = "nqn.2026-01.org.example:sub";

pub fn config() -> ControllerConfig {
    ControllerConfig::new(
        Nqn::new("nqn.2026-01.org.example:host").unwrap(),
        Uuid([7; 16]),
        Some(Nqn::new(SUBSYSTEM).unwrap()),
        "fake://1".into(),
    )
}

pub fn lost() -> TransportError {
    TransportError::Lost { address: "fake://1".into(), reason: "pulled".into() }
}

/// What becomes of a step that the transport does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Works,
    Fails,
    Silent,
}

/// A command that was not answered yet.
#[derive(Debug)]
pub struct Held {
    pub qid: u16,
    pub sqe: Sqe,
    pub data: Data,
    pub tag: Tag,
}

/// Answers a command in the model's place, or leaves it to the model.
pub type HostMemorySource =
    Box<dyn FnMut(HostMemoryRequest) -> Result<Option<HostMemory>, TransportError>>;
pub type Hook = Box<dyn FnMut(u16, &Sqe) -> Option<Answer>>;

pub struct Rig {
    pub ctrl: Controller,
    pub model: Model,
    pub now: Instant,
    pub events: Vec<ControllerEvent>,
    /// Commands seen, since the last time somebody cleared it.
    pub seen: Vec<(u16, Sqe)>,
    pub associate: Transport,
    pub admin_queue: Transport,
    pub io_queue: Transport,
    pub teardown: Transport,
    pub registers: Transport,
    /// Answers these instead of the model.
    pub hook: Option<Hook>,
    /// Changes what the model answers.
    pub mangle: Option<Box<dyn FnMut(Answer) -> Answer>>,
    /// Where memory for the controller comes from.
    pub host_memory: Option<HostMemorySource>,
    /// What the transport knows of the device.
    pub hardware: Hardware,
    /// What the transport was told that the device must be spared.
    pub quirks: Vec<Quirks>,
    pub held: Vec<Held>,
    pub live_queues: BTreeSet<u16>,
    pub associations: u32,
    /// There is an association that was not torn down.
    pub present: bool,
    pub tearing_down: bool,
    /// What became of the association was not told yet.
    pub undecided: bool,
}

impl Rig {
    pub fn new(config: ControllerConfig, model: Model) -> Self {
        Self {
            ctrl: Controller::new(config),
            model,
            now: Instant::from_nanos(1_000_000_000),
            events: Vec::new(),
            seen: Vec::new(),
            associate: Transport::Works,
            admin_queue: Transport::Works,
            io_queue: Transport::Works,
            teardown: Transport::Works,
            registers: Transport::Works,
            hook: None,
            mangle: None,
            host_memory: None,
            hardware: Hardware::default(),
            quirks: Vec::new(),
            held: Vec::new(),
            live_queues: BTreeSet::new(),
            associations: 0,
            present: false,
            tearing_down: false,
            undecided: false,
        }
    }

    /// A started controller with two I/O queues wanted, which has done all that it can at once.
    pub fn started(config: ControllerConfig, model: Model) -> Self {
        let mut rig = Self::new(config, model);
        rig.ctrl.want_queue(rig.now, 1);
        rig.ctrl.want_queue(rig.now, 2);
        rig.ctrl.start(rig.now);
        rig.settle();
        rig
    }

    /// One that is live and has been scanned.
    pub fn live(model: Model) -> Self {
        let mut rig = Self::started(config(), model);
        rig.run(Duration::from_millis(100));
        assert_eq!(rig.ctrl.state(), State::Live, "{:?}", rig.events);
        rig
    }

    /// Carries out all actions.
    pub fn settle(&mut self) {
        while let Some(action) = self.ctrl.poll_action() {
            self.carry_out(action);
        }
    }

    /// Lets time pass, stopping at each deadline.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut at_once = 0;
        self.settle();
        while let Some(at) = self.ctrl.deadline().filter(|at| *at <= end) {
            at_once = if at <= self.now { at_once + 1 } else { 0 };
            assert!(at_once < 100, "time stands still at {:?}", self.now);
            self.now = self.now.max(at);
            self.ctrl.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// Runs until `done` or for `limit`.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        self.settle();
        while !done(self) {
            match self.ctrl.deadline().filter(|at| *at <= end) {
                Some(at) => {
                    let wait = at.saturating_since(self.now);
                    self.run(wait);
                }
                None => return false,
            }
        }
        true
    }

    pub fn elapsed_since(&self, start: Instant) -> Duration {
        self.now.saturating_since(start)
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Associate => {
                assert!(
                    !self.present && !self.tearing_down,
                    "a second association: {:?}",
                    self.events
                );
                self.associations += 1;
                match self.associate {
                    Transport::Works => {
                        self.present = true;
                        self.model.reset();
                        let (kind, max) = (self.model.kind, self.model.transport_max);
                        self.ctrl.associated(self.now, kind, max, self.hardware);
                    }
                    Transport::Fails => self.ctrl.association_failed(self.now, lost()),
                    Transport::Silent => {
                        self.present = true;
                        self.undecided = true;
                    }
                }
            }
            Action::OpenQueue(params) => {
                assert!(self.present, "a queue of no association");
                let how = if params.qid == 0 { self.admin_queue } else { self.io_queue };
                match how {
                    Transport::Works => {
                        let setup = self.model.setup(params.qid);
                        self.ctrl.queue_ready(self.now, params.qid, setup);
                    }
                    Transport::Fails => self.ctrl.queue_failed(self.now, params.qid, lost()),
                    Transport::Silent => {}
                }
            }
            Action::Submit { qid, sqe, data, tag } => {
                assert!(self.present, "a command of no association: {sqe:?}");
                self.seen.push((qid, sqe));
                let answer = match self.hook.as_mut().and_then(|hook| hook(qid, &sqe)) {
                    Some(answer) => answer,
                    None => {
                        let answer = self.model.answer(qid, &sqe, &data);
                        match &mut self.mangle {
                            Some(mangle) => mangle(answer),
                            None => answer,
                        }
                    }
                };
                self.reply(Held { qid, sqe, data, tag }, answer);
            }
            Action::ReadRegister { offset, size } => {
                assert!(self.present, "a register of no association");
                if self.registers == Transport::Works {
                    let value = self.model.read_register(offset, size);
                    self.ctrl.register_value(self.now, value);
                }
            }
            Action::WriteRegister { offset, value, .. } => {
                assert!(self.present, "a register of no association");
                self.model.write_register(offset, value);
            }
            Action::Quirks(quirks) => {
                assert!(self.present, "quirks of no association");
                self.quirks.push(quirks);
            }
            Action::HostMemory(request) => {
                assert!(self.present, "memory for no association");
                let given = self.host_memory.as_mut().map(|give| give(request));
                self.ctrl.host_memory(self.now, given.unwrap_or(Ok(None)));
            }
            Action::QueueLive { qid, .. } => {
                assert!(self.present, "a live queue of no association");
                assert!(self.live_queues.insert(qid), "queue {qid} handed over twice");
            }
            Action::Teardown => {
                assert!(!self.tearing_down, "torn down twice");
                self.tearing_down = true;
                if self.teardown == Transport::Works {
                    self.torn_down();
                }
            }
            Action::Event(event) => {
                assert!(
                    !matches!(event, ControllerEvent::IllegalMove { .. }),
                    "{event:?} after {:?}",
                    self.events
                );
                let removed = |e: &ControllerEvent| matches!(e, ControllerEvent::Removed(_));
                assert!(!self.events.last().is_some_and(removed), "{event:?} after the end");
                self.events.push(event);
            }
            other => panic!("an action that no driver knows: {other:?}"),
        }
    }

    /// Tells the controller that the association was taken apart.
    pub fn torn_down(&mut self) {
        self.undecided = false;
        self.present = false;
        self.tearing_down = false;
        self.held.clear();
        self.live_queues.clear();
        self.ctrl.torn_down(self.now);
    }

    /// Gives an answer to a command.
    pub fn reply(&mut self, held: Held, answer: Answer) {
        let Held { qid, sqe, mut data, tag } = held;
        let (status, result) = match answer {
            Answer::Silence => return self.held.push(Held { qid, sqe, data, tag }),
            Answer::Status(status, result) => (status, result),
            Answer::Bytes(bytes) => {
                if let Data::Read(buffer) = &mut data {
                    let to = buffer.as_mut_slice();
                    let len = to.len().min(bytes.len());
                    to[..len].copy_from_slice(&bytes[..len]);
                }
                (Status::SUCCESS, 0)
            }
        };
        let cqe = Cqe::new(0, status, result);
        self.ctrl.completion(self.now, qid, Completion { tag, cqe, data });
    }

    /// Answers the asynchronous event request that is outstanding.
    pub fn event(&mut self, result: u64) {
        let at = self.held.iter().position(|held| held.sqe.opcode == 0x0c);
        let held = self.held.remove(at.expect("an event request is outstanding"));
        self.reply(held, Answer::Status(Status::SUCCESS, result));
        self.settle();
    }

    /// Takes the association away, as a cable does.
    pub fn lose(&mut self) {
        self.ctrl.queue_failed(self.now, 0, lost());
        self.settle();
    }

    /// What the events say, each by its name.
    pub fn has(&self, what: impl Fn(&ControllerEvent) -> bool) -> bool {
        self.events.iter().any(what)
    }

    pub fn ready_nsids(&self) -> Vec<u32> {
        let mut nsids: Vec<u32> = self
            .events
            .iter()
            .filter_map(|e| match e {
                ControllerEvent::NamespaceReady(info) => Some(info.nsid),
                _ => None,
            })
            .collect();
        nsids.sort_unstable();
        nsids
    }

    pub fn count(&self, opcode: u8) -> usize {
        self.seen.iter().filter(|(_, sqe)| sqe.opcode == opcode).count()
    }

    pub fn failures(&self) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|e| match e {
                ControllerEvent::Failed { error, .. } => Some(error.to_string()),
                _ => None,
            })
            .collect()
    }
}

/// The setup that a queue of this kind of transport asks for.
pub fn setup(kind: TransportKind, qid: u16) -> QueueSetup {
    match (kind, qid) {
        (TransportKind::Fabrics, _) => QueueSetup::Connect,
        (TransportKind::Memory, 0) => QueueSetup::None,
        (TransportKind::Memory, _) => QueueSetup::Create {
            cq: Sqe::create_io_cq(qid, 128, 0x1000, None).unwrap(),
            sq: Sqe::create_io_sq(qid, 128, 0x2000, qid).unwrap(),
        },
    }
}
