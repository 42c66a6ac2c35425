//! Asynchronous events: one request is out, each event has its effect, storms do not pile up.

use nvme_core::controller::{ControllerEvent, State};
use nvme_core::spec::Status;
use nvme_core::time::Duration;

use crate::model::{Answer, Model};
use crate::rig::Rig;

const NAMESPACE_CHANGED: u64 = 0x0004_0002;
const ANA_CHANGED: u64 = 0x000c_0302;
const REQUEST: u8 = 0x0c;

fn lists(rig: &Rig) -> usize {
    rig.seen.iter().filter(|(_, s)| s.opcode == 0x06 && s.cdw10.get() as u8 == 0x02).count()
}

#[test]
fn a_changed_namespace_is_read_again_and_told_once() {
    let mut rig = Rig::live(Model::fabrics());
    rig.events.clear();
    rig.seen.clear();
    rig.model.namespaces.get_mut(&1).unwrap().ns.nsze = 4096.into();
    rig.event(NAMESPACE_CHANGED);
    let logs: Vec<u8> =
        rig.seen.iter().filter(|s| s.1.opcode == 0x02).map(|s| s.1.cdw10.get() as u8).collect();
    assert_eq!(logs, [0x04], "the changed namespace log, which clears the event");
    assert_eq!(rig.ready_nsids(), [1]);
    assert!(rig.has(|e| matches!(e, ControllerEvent::NamespaceReady(i) if i.blocks == 4096)));
    // Nothing changed: nothing is told but the end of the scan.
    rig.events.clear();
    rig.event(NAMESPACE_CHANGED);
    assert!(matches!(rig.events[..], [ControllerEvent::ScanDone]), "{:?}", rig.events);
}

#[test]
fn a_storm_of_changes_leads_to_one_more_scan() {
    let mut rig = Rig::live(Model::fabrics());
    rig.seen.clear();
    rig.hook = Some(Box::new(|_, s| (s.opcode == 0x06).then_some(Answer::Silence)));
    rig.event(NAMESPACE_CHANGED);
    for _ in 0..50 {
        rig.event(NAMESPACE_CHANGED);
        rig.ctrl.rescan(rig.now);
    }
    rig.hook = None;
    let at = rig.held.iter().position(|held| held.sqe.opcode == 0x06).unwrap();
    let held = rig.held.remove(at);
    let answer = rig.model.answer(0, &held.sqe, &held.data);
    rig.reply(held, answer);
    rig.settle();
    assert_eq!(lists(&rig), 2);
}

#[test]
fn an_ana_change_is_read_and_a_storm_once_more() {
    let mut rig = Rig::live(Model::fabrics().with_ana());
    rig.events.clear();
    rig.model.ana = vec![(1, 3, vec![1])];
    rig.model.ana_changes = 2;
    rig.event(ANA_CHANGED);
    let told = |e: &ControllerEvent| match e {
        ControllerEvent::Ana(s) => s.state_of(1).map(|s| s.name()),
        _ => None,
    };
    assert_eq!(rig.events.iter().find_map(told), Some("inaccessible"));

    rig.seen.clear();
    rig.hook = Some(Box::new(|_, s| (s.opcode == 0x02).then_some(Answer::Silence)));
    for _ in 0..20 {
        rig.event(ANA_CHANGED);
    }
    rig.hook = None;
    let at = rig.held.iter().position(|held| held.sqe.opcode == 0x02).unwrap();
    let held = rig.held.remove(at);
    let answer = rig.model.answer(0, &held.sqe, &held.data);
    rig.reply(held, answer);
    rig.settle();
    assert_eq!(rig.count(0x02), 2);
}

#[test]
fn a_persistent_internal_error_resets() {
    let mut rig = Rig::live(Model::fabrics());
    rig.event(0x0001_0300);
    assert_eq!(rig.ctrl.state(), State::Connecting);
    assert!(rig.failures()[0].contains("Persistent Internal Error"));
}

#[test]
fn what_is_not_for_the_controller_is_passed_on() {
    for result in [0x0003_0102, 0x0002_0101, 0x0000_0007, 0x0001_0400] {
        let mut rig = Rig::live(Model::fabrics());
        rig.event(result);
        let told = |e: &ControllerEvent| matches!(e, ControllerEvent::AsyncEvent { result: r } if u64::from(*r) == result);
        assert!(rig.has(told), "{result:#x}");
        assert_eq!(rig.ctrl.state(), State::Live);
        let out = rig.held.iter().filter(|held| held.sqe.opcode == REQUEST).count();
        assert_eq!(out, 1, "one request is out");
    }
}

#[test]
fn a_refused_request_is_not_repeated_and_an_open_one_has_no_limit() {
    let mut rig = Rig::live(Model::fabrics());
    rig.run(Duration::from_secs(3600));
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Live, 1));
    rig.seen.clear();
    let at = rig.held.iter().position(|held| held.sqe.opcode == REQUEST).unwrap();
    let held = rig.held.remove(at);
    rig.reply(held, Answer::error(Status::AER_LIMIT_EXCEEDED));
    rig.run(Duration::from_secs(60));
    assert_eq!((rig.count(REQUEST), rig.ctrl.state()), (0, State::Live));
}
