//! A driver and a controller that do everything wrong, by seed: whatever happens, the machine does
//! not panic, asks for nothing that cannot be, never waits without a limit, and is live or gone
//! soon after things are well again.

use std::cell::RefCell;
use std::rc::Rc;

use nvme_core::buffer::Buffer;
use nvme_core::controller::{ControllerEvent, State};
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::Duration;
use nvme_core::transport::Data;

use crate::model::{Answer, Model};
use crate::rig::{Held, Rig, Transport, config, lost, setup};

#[derive(Clone)]
struct Dice(Rc<RefCell<u64>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)))
    }

    fn roll(&self, sides: u64) -> u64 {
        let mut x = self.0.borrow_mut();
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        *x % sides
    }

    fn one_in(&self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn transport(&self, quiet: u64) -> Transport {
        match self.roll(quiet) {
            0 => Transport::Fails,
            1 => Transport::Silent,
            _ => Transport::Works,
        }
    }

    fn status(&self) -> Status {
        Status::from_raw(self.roll(1 << 15) as u16)
    }
}

struct Chaos {
    rig: Rig,
    dice: Dice,
    /// Commands of associations that have ended, to be answered too late.
    old: Vec<Held>,
    users: u64,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let mut model = if dice.one_in(3) { Model::memory() } else { Model::fabrics() };
        for nsid in 2..2 + dice.roll(12) as u32 {
            model.add(nsid * 2);
        }
        if dice.one_in(2) {
            model = model.with_ana();
        }
        if dice.one_in(4) {
            model.transport_max = Some(4096);
        }
        let mut config = config();
        config.seed = seed;
        config.admin_entries = if dice.one_in(3) { 3 } else { 32 };
        config.ctrl_loss_tmo = (!dice.one_in(3)).then(|| Duration::from_secs(1 + dice.roll(300)));
        config.fast_io_fail_tmo = dice.one_in(2).then(|| Duration::from_secs(dice.roll(40)));
        config.reconnect_delay = Duration::from_millis(dice.roll(10_000));
        let mut rig = Rig::new(config, model);
        let hook = dice.clone();
        rig.hook = Some(Box::new(move |_, _| match hook.roll(60) {
            0 => Some(Answer::Silence),
            1 => Some(Answer::error(hook.status())),
            2 => Some(Answer::Status(Status::SUCCESS, hook.roll(u64::MAX))),
            3 => Some(Answer::Bytes((0..4096).map(|_| hook.roll(256) as u8).collect())),
            _ => None,
        }));
        let mangle = dice.clone();
        rig.mangle = Some(Box::new(move |answer| match answer {
            Answer::Bytes(mut bytes) if mangle.one_in(20) && !bytes.is_empty() => {
                let at = mangle.roll(bytes.len().min(200) as u64) as usize;
                bytes[at] = mangle.roll(256) as u8;
                Answer::Bytes(bytes)
            }
            other => other,
        }));
        Self { rig, dice, old: Vec::new(), users: 0 }
    }

    fn step(&mut self) {
        let dice = self.dice.clone();
        let rig = &mut self.rig;
        rig.associate = dice.transport(10);
        rig.admin_queue = dice.transport(20);
        rig.io_queue = dice.transport(20);
        rig.registers = dice.transport(40);
        rig.teardown = if dice.one_in(4) { Transport::Silent } else { Transport::Works };
        let (now, qid) = (rig.now, dice.roll(6) as u16);
        match dice.roll(40) {
            0..=2 => rig.ctrl.queue_failed(now, qid, lost()),
            3 => rig.ctrl.queue_ready(now, qid, setup(rig.model.kind, qid)),
            4 => rig.ctrl.reset(now, "chaos".into()),
            5 if dice.one_in(20) => rig.ctrl.delete(now),
            6 => rig.ctrl.rescan(now),
            7 => rig.ctrl.reread_ana(now),
            8 => rig.ctrl.want_queue(now, qid),
            9 => {
                rig.ctrl.unwant_queue(rig.now, qid);
                rig.live_queues.remove(&qid);
            }
            10..=12 => {
                let data = Data::Read(Buffer::zeroed(4096));
                self.users +=
                    u64::from(rig.ctrl.submit_admin(now, Sqe::identify(1, 0), data, 0).is_ok());
            }
            13 => rig.ctrl.register_value(now, dice.roll(u64::MAX)),
            14 => rig.ctrl.note_io_completion(),
            15 => {
                if std::mem::take(&mut rig.undecided) {
                    rig.present = rig.tearing_down;
                }
                rig.ctrl.association_failed(now, lost());
            }
            16 => rig.ctrl.start(now),
            17..=19 => {
                let nsid = 1 + dice.roll(20) as u32;
                if dice.one_in(2) {
                    rig.model.namespaces.remove(&nsid);
                } else {
                    rig.model.add(nsid);
                }
                self.event(0x0004_0002);
            }
            20 => self.event(dice.roll(1 << 24)),
            21..=24 => self.answer_held(),
            25..=27 => self.answer_old(),
            28..=30 => self.torn_down(),
            _ => {}
        }
        self.rig.settle();
        self.check();
        let time = self.dice.roll(1 << self.dice.roll(36));
        self.rig.run(Duration::from_nanos(time));
        self.check();
    }

    fn event(&mut self, result: u64) {
        if self.rig.held.iter().any(|held| held.sqe.opcode == 0x0c) {
            self.rig.event(result);
        }
    }

    fn answer_held(&mut self) {
        if !self.rig.held.is_empty() {
            let at = self.dice.roll(self.rig.held.len() as u64) as usize;
            let held = self.rig.held.remove(at);
            let status = if self.dice.one_in(2) { self.dice.status() } else { Status::SUCCESS };
            // Twice, which a transport never does; the second one must not be noticed.
            let again = Held { qid: held.qid, sqe: held.sqe, data: Data::None, tag: held.tag };
            self.rig.reply(held, Answer::error(status));
            self.rig.reply(again, Answer::error(status));
        }
    }

    fn answer_old(&mut self) {
        if let Some(held) = self.old.pop() {
            self.rig.reply(held, Answer::error(self.dice.status()));
        }
    }

    fn torn_down(&mut self) {
        if self.rig.tearing_down {
            self.old.append(&mut self.rig.held);
            self.rig.torn_down();
        }
    }

    /// No wait is without a limit: whatever is not the driver's to do has a deadline.
    fn check(&self) {
        let state = self.rig.ctrl.state();
        let waits = matches!(state, State::Resetting | State::Connecting | State::Deleting);
        if waits && !self.rig.tearing_down {
            assert!(self.rig.ctrl.deadline().is_some(), "{state} without a deadline");
        }
        if state == State::Dead {
            assert!(self.rig.ctrl.deadline().is_none() && !self.rig.present);
        }
    }

    /// Everything works from here on.
    fn heal(&mut self) {
        self.rig.hook = None;
        self.rig.mangle = None;
        for how in [
            &mut self.rig.associate,
            &mut self.rig.admin_queue,
            &mut self.rig.io_queue,
            &mut self.rig.registers,
            &mut self.rig.teardown,
        ] {
            *how = Transport::Works;
        }
        self.torn_down();
    }
}

fn run(seed: u64) -> (State, u32) {
    let mut chaos = Chaos::new(seed);
    chaos.rig.ctrl.want_queue(chaos.rig.now, 1);
    if chaos.dice.one_in(20) {
        chaos.step();
    }
    chaos.rig.ctrl.start(chaos.rig.now);
    chaos.rig.settle();
    for _ in 0..chaos.dice.roll(80) {
        chaos.step();
    }
    chaos.heal();
    // Longer than the longest limit of one command, of the longest wait and of one more attempt.
    chaos.rig.run(Duration::from_secs(120));
    let state = chaos.rig.ctrl.state();
    assert!(matches!(state, State::Live | State::Dead), "{state}: {:?}", chaos.rig.events);
    if state == State::Live {
        let active: Vec<u32> = chaos.rig.model.namespaces.keys().copied().collect();
        chaos.rig.ctrl.rescan(chaos.rig.now);
        chaos.rig.run(Duration::from_secs(1));
        let known: Vec<u32> = chaos.rig.ctrl.namespaces().keys().copied().collect();
        if chaos.rig.ctrl.info().is_some_and(|info| info.io_queues > 0) {
            assert_eq!(known, active, "{:?}", chaos.rig.events);
        }
        let wanted = chaos.rig.ctrl.info().map_or(0, |info| info.io_queues);
        assert!(wanted == 0 || chaos.rig.live_queues.iter().all(|qid| *qid <= wanted));
        chaos.rig.ctrl.delete(chaos.rig.now);
        chaos.rig.run(Duration::from_secs(6));
        assert_eq!(chaos.rig.ctrl.state(), State::Dead);
    }
    let is_end = |e: &&ControllerEvent| matches!(e, ControllerEvent::Removed(_));
    assert_eq!(chaos.rig.events.iter().filter(is_end).count(), 1);
    let is_admin = |e: &&ControllerEvent| matches!(e, ControllerEvent::Admin(_));
    let ended = chaos.rig.events.iter().filter(is_admin).count() as u64;
    assert_eq!(ended, chaos.users, "each passthrough command ends once");
    (state, chaos.rig.associations)
}

#[test]
fn thousands_of_bad_days_end_well() {
    let seeds = match std::env::var("NVME_CORE_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("NVME_CORE_SEEDS=FROM..TO");
            from.parse().unwrap()..to.parse().unwrap()
        }
        Err(_) => 0..3000,
    };
    let (mut live, mut dead, mut associations) = (0, 0, 0);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        let (state, tries) = result.unwrap_or_else(|_| panic!("seed {seed}"));
        associations += tries;
        if state == State::Live { live += 1 } else { dead += 1 }
    }
    println!("{live} live, {dead} gone, {associations} associations");
    assert!(live > 0 && dead > 0);
}
