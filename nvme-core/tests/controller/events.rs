//! Asynchronous events: one request is out, each event has its effect, storms do not pile up.

use nvme_core::controller::{ControllerEvent, State};
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::Duration;

use crate::model::{Answer, Model};
use crate::rig::{Rig, config};

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

/// Ends the request that is outstanding with an error.
fn fail_request(rig: &mut Rig, status: Status) {
    let at = rig.held.iter().position(|held| held.sqe.opcode == REQUEST);
    let held = rig.held.remove(at.expect("an event request is outstanding"));
    rig.reply(held, Answer::error(status));
    rig.settle();
}

#[test]
fn a_failed_request_is_sent_again_and_what_was_not_told_is_looked_at() {
    let mut rig = Rig::live(Model::fabrics().with_ana());
    rig.run(Duration::from_secs(5));
    rig.events.clear();
    rig.seen.clear();
    fail_request(&mut rig, Status::INTERNAL_ERROR);
    // Nothing asks for events now, so nobody tells of these.
    rig.model.namespaces.get_mut(&1).unwrap().ns.nsze = 4096.into();
    (rig.model.ana, rig.model.ana_changes) = (vec![(1, 3, vec![1])], 2);
    rig.run(Duration::from_millis(900));
    assert_eq!((rig.count(REQUEST), lists(&rig)), (0, 0), "not at once");
    rig.run(Duration::from_millis(200));
    assert_eq!((rig.count(REQUEST), lists(&rig)), (1, 1));
    assert!(rig.has(|e| matches!(e, ControllerEvent::NamespaceReady(i) if i.blocks == 4096)));
    let inaccessible = |e: &ControllerEvent| match e {
        ControllerEvent::Ana(s) => s.state_of(1).is_some_and(|s| s.name() == "inaccessible"),
        _ => false,
    };
    assert!(rig.has(inaccessible), "{:?}", rig.events);
    // The request that is out now is one like any other.
    rig.events.clear();
    rig.model.namespaces.get_mut(&1).unwrap().ns.nsze = 8192.into();
    rig.event(NAMESPACE_CHANGED);
    assert!(rig.has(|e| matches!(e, ControllerEvent::NamespaceReady(i) if i.blocks == 8192)));
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Live, 1));
}

/// Whether it is the log of changed namespaces that is asked for.
fn is_changed_list(sqe: &Sqe) -> bool {
    sqe.opcode == 0x02 && sqe.cdw10.get() & 0xff == 0x04
}

/// A controller does not send the event again before the log was read (NVMe 2.1 §5.1.12.1.5).
#[test]
fn a_changed_list_that_could_not_be_read_is_read_again() {
    for (status, times) in [
        (Status::INTERNAL_ERROR, 2),
        (Status::INTERNAL_ERROR.with_dnr(), 1),
        (Status::INVALID_LOG_PAGE, 1),
        (Status::INVALID_FIELD, 1),
    ] {
        let mut rig = Rig::live(Model::fabrics());
        rig.run(Duration::from_secs(5));
        rig.seen.clear();
        let mut fail = true;
        rig.hook = Some(Box::new(move |_, sqe| {
            let first = is_changed_list(sqe) && std::mem::take(&mut fail);
            first.then_some(Answer::error(status))
        }));
        rig.model.namespaces.get_mut(&1).unwrap().ns.nsze = 4096.into();
        rig.event(NAMESPACE_CHANGED);
        assert!(rig.has(|e| matches!(e, ControllerEvent::NamespaceReady(i) if i.blocks == 4096)));
        rig.run(Duration::from_secs(60));
        let read = rig.seen.iter().filter(|(_, sqe)| is_changed_list(sqe)).count();
        assert_eq!(read, times, "{status}");
    }
}

#[test]
fn a_discovery_log_may_have_changed_while_nothing_asked_for_events() {
    let mut model = Model::fabrics();
    model.controller.subnqn = nvme_core::nqn::Nqn::discovery().to_field();
    model.controller.ioccsz = 0.into();
    model.controller.iorcsz = 0.into();
    let mut config = config();
    config.subnqn = Some(nvme_core::nqn::Nqn::discovery());
    let mut rig = Rig::started(config, model);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.ctrl.state(), State::Live, "{:?}", rig.events);
    fail_request(&mut rig, Status::INTERNAL_ERROR);
    let changed = |e: &ControllerEvent| matches!(e, ControllerEvent::DiscoveryChanged);
    assert!(!rig.has(changed));
    rig.run(Duration::from_millis(1100));
    assert!(rig.has(changed), "{:?}", rig.events);
}

#[test]
fn a_controller_that_fails_all_requests_is_asked_ever_more_rarely() {
    let mut rig = Rig::live(Model::fabrics());
    rig.seen.clear();
    rig.hook = Some(Box::new(|_, s| {
        (s.opcode == REQUEST).then_some(Answer::error(Status::INTERNAL_ERROR))
    }));
    fail_request(&mut rig, Status::INTERNAL_ERROR);
    // After 1, 2, 4, 8, 16 s and then every 30 s.
    rig.run(Duration::from_secs(31) + Duration::from_millis(100));
    assert_eq!(rig.count(REQUEST), 5);
    rig.run(Duration::from_secs(300));
    assert_eq!((rig.count(REQUEST), rig.ctrl.state()), (15, State::Live));
    // An event that came is a success: the next pause is a short one.
    rig.hook = None;
    rig.run(Duration::from_secs(30));
    rig.event(NAMESPACE_CHANGED);
    rig.seen.clear();
    fail_request(&mut rig, Status::INTERNAL_ERROR);
    rig.run(Duration::from_millis(1100));
    assert_eq!(rig.count(REQUEST), 1);
}

#[test]
fn a_pause_of_an_association_ends_with_it() {
    let mut rig = Rig::live(Model::fabrics());
    fail_request(&mut rig, Status::INTERNAL_ERROR);
    rig.lose();
    rig.run(Duration::from_secs(120));
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Live, 2));
    let out = rig.held.iter().filter(|held| held.sqe.opcode == REQUEST).count();
    assert_eq!(out, 1, "one request is out");
}

#[test]
fn a_request_that_is_one_too_many_is_not_repeated_and_an_open_one_has_no_limit() {
    let mut rig = Rig::live(Model::fabrics());
    rig.run(Duration::from_secs(3600));
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Live, 1));
    for status in [Status::AER_LIMIT_EXCEEDED, Status::INVALID_OPCODE.with_dnr()] {
        let mut rig = Rig::live(Model::fabrics());
        rig.seen.clear();
        fail_request(&mut rig, status);
        rig.run(Duration::from_secs(60));
        assert_eq!((rig.count(REQUEST), rig.ctrl.state()), (0, State::Live), "{status}");
    }
}
