//! The ANA log: read whole or in pieces, unchanged meanwhile, and not believed when it lies.

use nvme_core::ana::AnaState;
use nvme_core::controller::{ControllerEvent, State};
use nvme_core::spec::Status;
use nvme_core::spec::command::GetLogPage;
use nvme_core::spec::log::lid;
use nvme_core::time::Duration;

use crate::model::{Answer, Model};
use crate::rig::{Rig, config};

const SECOND: Duration = Duration::from_secs(1);

fn told(rig: &Rig) -> Vec<usize> {
    let groups = |e: &ControllerEvent| match e {
        ControllerEvent::Ana(snapshot) => Some(snapshot.groups.len()),
        _ => None,
    };
    rig.events.iter().filter_map(groups).collect()
}

fn failed(rig: &Rig) -> Vec<String> {
    let failed = |e: &ControllerEvent| match e {
        ControllerEvent::AnaFailed { error } => Some(error.to_string()),
        _ => None,
    };
    rig.events.iter().filter_map(failed).collect()
}

fn reads(rig: &Rig) -> Vec<(u64, u64)> {
    let logs = rig.seen.iter().filter(|(_, s)| s.opcode == 0x02);
    let logs = logs.map(|(_, s)| GetLogPage::from_sqe(s)).filter(|log| log.lid == lid::ANA);
    logs.map(|log| (log.offset, log.len)).collect()
}

/// Groups of many namespaces, so that the log is longer than a piece.
fn long() -> Model {
    let mut model = Model::fabrics().with_ana();
    model.controller.mdts = 1;
    model.ana = (1..=20).map(|g| (g, 2, (g * 100..g * 100 + 50).collect())).collect();
    model.ana[0].2.push(1);
    model
}

#[test]
fn a_short_log_is_read_at_once() {
    let rig = Rig::live(Model::fabrics().with_ana());
    assert_eq!(reads(&rig)[0], (0, 16 + 128 * 32 + 1024 * 4));
    assert_eq!(told(&rig), [1]);
}

#[test]
fn a_long_log_is_read_in_pieces_of_what_the_controller_can_move() {
    let rig = Rig::live(long());
    let reads = reads(&rig);
    // Twice: at bring-up, and after the scan found a new namespace.
    assert_eq!(reads[..2], [(0, 8192), (0, 8192)], "{reads:?}");
    let mut model = long();
    model.transport_max = Some(4096);
    let rig = Rig::live(model);
    let reads = self::reads(&rig);
    assert_eq!(reads[0], (0, 4096));
    assert_eq!(reads[1].0, 4096);
    assert_eq!(reads[2], (0, 16), "the header once more");
    let last = rig.events.iter().rev().find_map(|e| match e {
        ControllerEvent::Ana(s) => Some(s.clone()),
        _ => None,
    });
    assert_eq!(last.unwrap().state_of(20), Some(AnaState::NonOptimized));
}

#[test]
fn a_log_that_moves_between_pieces_is_read_again() {
    for (changes, whole) in [(2, true), (u64::MAX, false)] {
        let mut model = long();
        model.transport_max = Some(4096);
        let mut rig = Rig::new(config(), Model::fabrics());
        let mut log = model.ana_log();
        rig.model = model;
        let mut reads = 0;
        rig.hook = Some(Box::new(move |_, sqe| {
            let args = GetLogPage::from_sqe(sqe);
            if sqe.opcode != 0x02 || args.lid != lid::ANA {
                return None;
            }
            reads += 1;
            if reads <= changes {
                log[0] = log[0].wrapping_add(1);
            }
            Some(Answer::Bytes(log[args.offset as usize..].to_vec()))
        }));
        rig.ctrl.start(rig.now);
        rig.run(SECOND / 2);
        assert_eq!(rig.ctrl.state(), State::Live);
        if whole {
            assert_eq!((told(&rig), failed(&rig).len()), (vec![20], 0));
        } else {
            assert!(failed(&rig)[0].contains("change count"), "{:?}", failed(&rig));
            assert_eq!(told(&rig), [0], "no group is usable");
        }
    }
}

#[test]
fn a_log_longer_than_the_controller_says_it_can_be_is_a_lie_that_names_the_place() {
    let mut model = Model::fabrics().with_ana();
    model.controller.mnan = 4.into();
    model.controller.nanagrpid = 1.into();
    model.ana = vec![(1, 1, vec![1]), (2, 1, (1..100).collect())];
    let mut rig = Rig::live(model);
    assert!(failed(&rig)[0].contains("at byte 52"), "{:?}", failed(&rig));
    assert_eq!(told(&rig), [0]);
    assert_eq!(rig.ctrl.state(), State::Live, "the controller itself is usable");
    // A later reading may be better.
    rig.events.clear();
    rig.model.ana = vec![(1, 1, vec![1])];
    rig.run(40 * SECOND);
    assert_eq!(told(&rig), [1]);
    rig.seen.clear();
    rig.run(100 * SECOND);
    assert!(reads(&rig).is_empty());
}

#[test]
fn each_other_lie_is_named() {
    type Lie = fn(&mut Vec<u8>);
    let lies: [(&str, Lie); 7] = [
        ("ANA state at byte 32", |log| log[32] = 9),
        ("ANA group identifier at byte 16", |log| log[16] = 0),
        ("ANA group descriptor at byte 16", |log| log[20..24].fill(0xff)),
        ("byte 52", |log| log[8..10].fill(0xff)),
        ("ANA group identifier at byte 16", |log| log[16] = 129),
        ("NSID of an ANA group at byte 16", |log| log[48] = 0),
        ("NSID of an ANA group at byte 16", |log| log[48..52].fill(0xff)),
    ];
    for (place, lie) in lies {
        let model = Model::fabrics().with_ana();
        let mut log = model.ana_log();
        lie(&mut log);
        log.resize(1 << 17, 0);
        let mut rig = Rig::new(config(), model);
        rig.hook = Some(Box::new(move |_, sqe| {
            let args = GetLogPage::from_sqe(sqe);
            (sqe.opcode == 0x02 && args.lid == lid::ANA)
                .then(|| Answer::Bytes(log[args.offset as usize..].to_vec()))
        }));
        rig.ctrl.start(rig.now);
        rig.run(SECOND / 2);
        assert!(failed(&rig)[0].contains(place), "{place}: {:?}", failed(&rig));
        assert_eq!((told(&rig), rig.ctrl.state()), (vec![0], State::Live));
    }
}

#[test]
fn a_long_log_without_offsets_is_not_guessed_at() {
    let mut model = long();
    model.transport_max = Some(4096);
    model.controller.lpa = 0;
    let rig = Rig::live(model);
    assert!(failed(&rig)[0].contains("cannot be read in pieces"), "{:?}", failed(&rig));
}

#[test]
fn counts_of_the_controller_do_not_decide_how_much_is_allocated() {
    let mut model = Model::fabrics().with_ana();
    model.controller.nanagrpid = u32::MAX.into();
    model.controller.mnan = 0.into();
    model.controller.nn = u32::MAX.into();
    let rig = Rig::live(model);
    assert!(reads(&rig).iter().all(|(_, len)| *len <= 64 * 1024), "{:?}", reads(&rig));
    assert_eq!(told(&rig), [1]);
}

#[test]
fn a_refused_log_fails_the_attempt_and_later_only_the_reading() {
    let refuse = |rig: &mut Rig| {
        rig.hook = Some(Box::new(|_, sqe| {
            (sqe.opcode == 0x02 && sqe.cdw10.get() as u8 == lid::ANA)
                .then(|| Answer::error(Status::INTERNAL_ERROR))
        }));
    };
    let mut rig = Rig::new(config(), Model::fabrics().with_ana());
    refuse(&mut rig);
    rig.ctrl.start(rig.now);
    rig.run(SECOND / 10);
    assert_eq!(rig.ctrl.state(), State::Connecting);

    let mut rig = Rig::live(Model::fabrics().with_ana());
    rig.events.clear();
    refuse(&mut rig);
    rig.ctrl.reread_ana(rig.now);
    rig.run(SECOND / 10);
    assert_eq!((failed(&rig).len(), told(&rig).len()), (1, 0), "what was known stays");
    rig.hook = None;
    rig.model.ana_changes = 7;
    rig.run(2 * SECOND);
    assert_eq!(told(&rig), [1]);
}

#[test]
fn a_namespace_of_an_unknown_group_makes_the_log_be_read_again() {
    let mut rig = Rig::live(Model::fabrics().with_ana());
    rig.events.clear();
    rig.model.namespaces.get_mut(&1).unwrap().ns.anagrpid = 5.into();
    rig.model.ana.push((5, 4, vec![1]));
    rig.ctrl.rescan(rig.now);
    rig.settle();
    assert_eq!(told(&rig), [2]);
}

/// A controller with one group in transition, which may take 5 s by what it says.
fn in_transition() -> Rig {
    let mut model = Model::fabrics().with_ana();
    model.controller.anatt = 5;
    let mut rig = Rig::live(model);
    change(&mut rig, 0, 0xf);
    assert_eq!(rig.ctrl.state(), State::Live);
    rig
}

fn change(rig: &mut Rig, group: usize, state: u8) {
    rig.model.ana[group].1 = state;
    rig.event(0x000c_0302);
    rig.settle();
}

#[test]
fn a_transition_that_does_not_end_in_time_ends_the_association() {
    let mut rig = in_transition();
    rig.run(9 * SECOND);
    assert_eq!(rig.failures().len(), 0, "{:?}", rig.failures());
    rig.run(2 * SECOND);
    assert_eq!(rig.failures().len(), 1);
    assert!(rig.failures()[0].contains("ANA group"), "{:?}", rig.failures());
    // On the new association the time is counted anew.
    rig.run(8 * SECOND);
    assert_eq!((rig.failures().len(), rig.ctrl.state()), (1, State::Live));
    change(&mut rig, 0, 1);
    rig.run(60 * SECOND);
    assert_eq!((rig.failures().len(), rig.ctrl.state()), (1, State::Live));
}

#[test]
fn a_transition_that_ends_in_time_is_none_of_anybodys_business() {
    let mut rig = in_transition();
    rig.run(9 * SECOND);
    change(&mut rig, 0, 2);
    rig.run(9 * SECOND);
    // The next one has its own time, and a read in between does not give it more.
    change(&mut rig, 0, 0xf);
    rig.run(6 * SECOND);
    change(&mut rig, 0, 0xf);
    rig.run(3 * SECOND);
    assert_eq!(rig.failures().len(), 0, "{:?}", rig.failures());
    rig.run(2 * SECOND);
    assert_eq!(rig.failures().len(), 1, "{:?}", rig.failures());
}

#[test]
fn a_controller_that_names_no_time_may_take_any() {
    let mut model = Model::fabrics().with_ana();
    model.controller.anatt = 0;
    let mut rig = Rig::live(model);
    change(&mut rig, 0, 0xf);
    rig.run(600 * SECOND);
    assert_eq!(rig.failures().len(), 0, "{:?}", rig.failures());
}
