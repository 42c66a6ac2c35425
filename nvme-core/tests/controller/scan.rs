//! The namespace scan: pages, the fallback without a list, what changed, what is refused.

use nvme_core::controller::{ControllerEvent, GoneReason, State};
use nvme_core::nqn::Uuid;
use nvme_core::spec::command::Identify;
use nvme_core::spec::identify::{NsidList, cns};
use nvme_core::spec::registers::Version;
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::Duration;
use zerocopy::IntoBytes;

use crate::model::{Answer, Model};
use crate::rig::Rig;

const SECOND: Duration = Duration::from_secs(1);

fn gone(rig: &Rig) -> Vec<(u32, GoneReason)> {
    let gone = |e: &ControllerEvent| match e {
        ControllerEvent::NamespaceGone { nsid, reason } => Some((*nsid, *reason)),
        _ => None,
    };
    rig.events.iter().filter_map(gone).collect()
}

fn refused(rig: &Rig) -> Vec<(u32, String)> {
    let refused = |e: &ControllerEvent| match e {
        ControllerEvent::NamespaceRefused { nsid, reason } => Some((*nsid, reason.clone())),
        _ => None,
    };
    rig.events.iter().filter_map(refused).collect()
}

fn identify(rig: &mut Rig, matches: fn(Identify) -> bool, answer: Answer) {
    rig.hook = Some(Box::new(move |_, sqe: &Sqe| {
        (sqe.opcode == 0x06 && matches(Identify::from_sqe(sqe))).then(|| answer.clone())
    }));
}

fn rescan(rig: &mut Rig) {
    rig.events.clear();
    rig.seen.clear();
    rig.ctrl.rescan(rig.now);
    rig.settle();
    assert!(rig.has(|e| matches!(e, ControllerEvent::ScanDone)), "{:?}", rig.events);
}

fn crowd(count: u32) -> Model {
    let mut model = Model::fabrics();
    for nsid in 1..=count {
        model.add(nsid * 3);
    }
    model.namespaces.remove(&1);
    model
}

#[test]
fn two_and_a_half_thousand_namespaces_come_in_three_pages() {
    let rig = Rig::live(crowd(2500));
    assert_eq!(rig.ready_nsids(), (1..=2500).map(|n| n * 3).collect::<Vec<_>>());
    let pages: Vec<u32> = rig
        .seen
        .iter()
        .filter(|(_, s)| s.opcode == 0x06)
        .map(|(_, s)| Identify::from_sqe(s))
        .filter(|args| args.cns == cns::ACTIVE_NAMESPACES)
        .map(|args| args.nsid)
        .collect();
    assert_eq!(pages, [0, 3072, 6144]);
}

#[test]
fn a_full_last_page_is_followed_by_an_empty_one() {
    let rig = Rig::live(crowd(1024));
    assert_eq!(rig.ready_nsids().len(), 1024);
}

#[test]
fn a_thousand_namespaces_are_looked_at_eight_at_a_time() {
    let mut rig = Rig::live(Model::fabrics());
    rig.model = crowd(1000);
    rig.events.clear();
    // All answers come together, one round trip after the commands.
    rig.hook = Some(Box::new(|_, sqe| (sqe.opcode == 0x06).then_some(Answer::Silence)));
    rig.ctrl.rescan(rig.now);
    let mut rounds = 0;
    loop {
        rig.settle();
        let (answered, kept) = std::mem::take(&mut rig.held)
            .into_iter()
            .partition::<Vec<_>, _>(|held| held.sqe.opcode == 0x06);
        rig.held = kept;
        if answered.is_empty() {
            break;
        }
        assert!(answered.len() <= 8);
        rounds += 1;
        for held in answered {
            let answer = rig.model.answer(0, &held.sqe, &held.data);
            rig.reply(held, answer);
        }
    }
    assert_eq!(rig.ready_nsids().len(), 1000);
    assert!(rounds < 400, "{rounds} round trips");
}

#[test]
fn without_a_list_each_nsid_is_asked_for() {
    for (version, list) in [(Version::new(1, 0, 0), true), (Version::new(1, 4, 0), false)] {
        let mut model = Model::fabrics();
        model.version = version;
        model.controller.nn = 20.into();
        model.add(7);
        model.add(20);
        let mut rig = Rig::new(crate::rig::config(), model);
        if !list {
            let answer = Answer::error(Status::INVALID_FIELD.with_dnr());
            identify(&mut rig, |args| args.cns == cns::ACTIVE_NAMESPACES, answer);
        }
        rig.ctrl.start(rig.now);
        rig.run(SECOND);
        assert_eq!(rig.ready_nsids(), [1, 7, 20], "{version}");
        assert!(gone(&rig).is_empty() && refused(&rig).is_empty());
    }
}

#[test]
fn an_endless_range_is_asked_for_only_so_far() {
    let mut model = Model::fabrics();
    model.version = Version::new(1, 0, 0);
    model.controller.nn = u32::MAX.into();
    let rig = Rig::live(model);
    assert!(rig.count(0x06) < 70_000);
    assert_eq!(rig.ready_nsids(), [1]);
}

#[test]
fn namespaces_that_leave_are_told_with_the_reason() {
    let mut model = Model::fabrics();
    for nsid in 2..=5 {
        model.add(nsid);
    }
    let mut rig = Rig::live(model);
    rig.model.namespaces.remove(&2);
    rig.model.namespaces.get_mut(&3).unwrap().ns.ncap = 0.into();
    rig.model.namespaces.get_mut(&4).unwrap().ns.nsze = 0.into();
    identify(
        &mut rig,
        |args| args.cns == cns::NAMESPACE && args.nsid == 5,
        Answer::error(Status::INVALID_NAMESPACE.with_dnr()),
    );
    rescan(&mut rig);
    assert_eq!(
        gone(&rig),
        [
            (2, GoneReason::NotActive),
            (3, GoneReason::NotActive),
            (4, GoneReason::Refused),
            (5, GoneReason::Refused)
        ]
    );
    assert_eq!(refused(&rig).len(), 1);
    assert_eq!(rig.ctrl.namespaces().keys().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn what_fails_for_now_keeps_its_state_and_is_tried_again() {
    let mut rig = Rig::live(Model::fabrics());
    for step in [cns::NAMESPACE_DESCRIPTORS, cns::NAMESPACE] {
        let matches: fn(Identify) -> bool = if step == cns::NAMESPACE {
            |args| args.cns == cns::NAMESPACE
        } else {
            |args| args.cns == cns::NAMESPACE_DESCRIPTORS
        };
        identify(&mut rig, matches, Answer::error(Status::INTERNAL_ERROR));
        rescan(&mut rig);
        assert!(gone(&rig).is_empty() && rig.ctrl.namespaces().contains_key(&1));
        rig.hook = None;
        rig.seen.clear();
        rig.run(2 * SECOND);
        assert!(rig.count(0x06) > 0, "another scan");
        rig.seen.clear();
        rig.run(100 * SECOND);
        assert_eq!(rig.count(0x06), 0, "and no more after it");
    }
}

#[test]
fn a_list_that_fails_or_lies_takes_nothing_away() {
    let backwards = NsidList::from_nsids([5, 4]).as_bytes().to_vec();
    for answer in [Answer::error(Status::INTERNAL_ERROR), Answer::Bytes(backwards)] {
        let mut rig = Rig::live(Model::fabrics());
        identify(&mut rig, |args| args.cns == cns::ACTIVE_NAMESPACES, answer);
        rescan(&mut rig);
        assert!(rig.has(|e| matches!(e, ControllerEvent::ScanFailed { .. })));
        assert!(gone(&rig).is_empty() && rig.ctrl.state() == State::Live);
        // It is tried again, less and less often, and not for ever at the speed of the wire.
        rig.seen.clear();
        rig.run(120 * SECOND);
        let tries = rig.seen.iter().filter(|(_, s)| s.opcode == 0x02).count();
        assert!((6..12).contains(&tries), "{tries}");
    }
}

#[test]
fn another_namespace_under_the_same_nsid_is_gone_and_ready() {
    let mut rig = Rig::live(Model::fabrics());
    rig.model.namespaces.get_mut(&1).unwrap().ids.uuid = Some(Uuid([9; 16]));
    rescan(&mut rig);
    assert_eq!(gone(&rig), [(1, GoneReason::IdentityChanged)]);
    assert_eq!(rig.ready_nsids(), [1]);
}

#[test]
fn two_namespaces_may_change_places() {
    let mut model = Model::fabrics();
    model.add(2);
    let mut rig = Rig::live(model);
    let (one, two) = (rig.model.namespaces[&1].ids, rig.model.namespaces[&2].ids);
    rig.model.namespaces.get_mut(&1).unwrap().ids = two;
    rig.model.namespaces.get_mut(&2).unwrap().ids = one;
    rescan(&mut rig);
    assert_eq!(gone(&rig).len(), 2);
    assert_eq!(rig.ready_nsids(), [1, 2]);
    assert!(refused(&rig).is_empty(), "{:?}", refused(&rig));
}

#[test]
fn identifiers_that_another_namespace_has_are_refused() {
    let mut model = Model::fabrics();
    model.add(2).ids = model.namespaces[&1].ids;
    let mut rig = Rig::live(model);
    assert_eq!(rig.ready_nsids(), [1]);
    let (nsid, reason) = refused(&rig).remove(0);
    assert!(nsid == 2 && reason.contains("namespace 1"), "{reason}");
    // Once the other is gone, it is good.
    rig.model.namespaces.remove(&1);
    rescan(&mut rig);
    assert_eq!(rig.ready_nsids(), [2]);
}

#[test]
fn unusable_namespaces_are_refused_with_a_reason_and_harm_no_others() {
    let mut model = Model::fabrics();
    model.add(2).ns.nsze = 0.into();
    model.add(3).ns.lbaf[0].lbads = 8;
    model.add(4).ns.lbaf[0].lbads = 20;
    model.add(5).ids.csi = Some(2);
    model.add(6).ns.flbas = 7;
    let rig = Rig::live(model);
    assert_eq!(rig.ready_nsids(), [1]);
    let reasons = refused(&rig);
    assert_eq!(reasons.len(), 5, "{reasons:?}");
    for (nsid, word) in [(2, "NSZE"), (3, "LBADS"), (4, "larger"), (5, "0x02"), (6, "FLBAS")] {
        let (_, reason) = reasons.iter().find(|(n, _)| *n == nsid).unwrap();
        assert!(reason.contains(word), "{nsid}: {reason}");
    }
}

#[test]
fn descriptors_that_lie_refuse_the_namespace_and_absent_ones_do_not() {
    let mut lie = vec![0; 4096];
    lie[..4].copy_from_slice(&[3, 200, 0, 0]);
    let mut rig = Rig::live(Model::fabrics());
    identify(&mut rig, |args| args.cns == cns::NAMESPACE_DESCRIPTORS, Answer::Bytes(lie));
    rescan(&mut rig);
    assert!(refused(&rig)[0].1.contains("byte 1"), "{:?}", refused(&rig));

    let mut rig = Rig::new(crate::rig::config(), Model::fabrics());
    let answer = Answer::error(Status::INVALID_FIELD.with_dnr());
    identify(&mut rig, |args| args.cns == cns::NAMESPACE_DESCRIPTORS, answer);
    rig.ctrl.start(rig.now);
    rig.run(SECOND);
    assert_eq!(rig.ready_nsids(), [1]);
}

#[test]
fn a_namespace_that_is_not_ready_waits() {
    let mut rig = Rig::new(crate::rig::config(), Model::fabrics());
    let answer = Answer::Bytes(vec![0; 4096]);
    identify(&mut rig, |args| args.cns == cns::INDEPENDENT_NAMESPACE, answer);
    rig.ctrl.start(rig.now);
    rig.run(SECOND / 2);
    assert!(rig.ready_nsids().is_empty());
    rig.hook = None;
    rig.run(2 * SECOND);
    assert_eq!(rig.ready_nsids(), [1]);
}

#[test]
fn a_controller_that_does_not_know_a_structure_is_asked_once() {
    let mut model = Model::fabrics();
    for nsid in 2..=40 {
        model.add(nsid);
    }
    let rig = Rig::live(model);
    let asked = rig
        .seen
        .iter()
        .filter(|(_, s)| s.opcode == 0x06)
        .filter(|(_, s)| Identify::from_sqe(s).cns == cns::INDEPENDENT_NAMESPACE)
        .count();
    assert!((1..=8).contains(&asked), "{asked}");
}

#[test]
fn a_scan_ends_with_its_association_and_begins_anew() {
    let mut rig = Rig::live(crowd(50));
    rig.events.clear();
    rig.hook = Some(Box::new(|_, sqe| (sqe.opcode == 0x06).then_some(Answer::Silence)));
    rig.ctrl.rescan(rig.now);
    rig.settle();
    rig.lose();
    rig.hook = None;
    rig.model.namespaces.remove(&3);
    rig.run(3 * SECOND);
    assert_eq!(rig.ready_nsids().len(), 49);
    assert_eq!(gone(&rig), [(3, GoneReason::NotActive)]);
}
