//! Something returns while a removal is pending: the same namespace, another one, or nearly.
use nvme_core::nqn::Uuid;
use nvme_core::spec::Status;
use nvme_core::spec::opcode::AdminOpcode;
use nvme_e2e::{Bed, ChannelExt, LIMIT, Removal, persistent, wait_until};
use nvme_mpath::{ControllerOptions, Event, HeadState, IoError};
use nvme_target::{FaultAction, FaultRule, NamespaceConfig, NamespaceIds, SubsystemConfig};

use crate::common::{Case, LEN, NEW, OLD, millis, secs};

const OTHER: Uuid = Uuid(*b"another identity");

fn refusal(e: &Event) -> Option<(u32, String)> {
    match e {
        Event::NamespaceRefused { nsid, reason, .. } => Some((*nsid, reason.clone())),
        Event::RemovalCancelled { .. } => panic!("the wrong namespace ended the wait: {e:?}"),
        _ => None,
    }
}

#[test]
fn other_identifiers_are_refused_and_get_a_head_of_their_own_later() {
    let mut case = Case::new(secs(3));
    case.channel.put(&case.head, 0, LEN, OLD);
    case.lose();
    case.bed.hide(1);
    case.bed.set_uuid(1, OTHER);
    case.bed.show(1);
    case.channel.begin_write(&case.head, 1, NEW);
    let _ = case.session.connect(&case.bed, 1, &ControllerOptions::default());
    let (nsid, reason) = case.session.event("the refusal", refusal);
    assert_eq!(nsid, 1, "{reason}");
    assert!(reason.contains(&OTHER.to_string()), "says who came: {reason}");
    assert!(matches!(case.head.state(), HeadState::RemovalPending { .. }));
    assert_eq!((case.session.host.pin_count(), case.channel.parked()), (1, 1));

    let [failed] = case.channel.finish(1).try_into().expect("one");
    assert!(matches!(*failed.result.unwrap_err(), IoError::HeadRemoved { .. }));
    case.session.wait_gone(&case.head, 0);
    assert_eq!(case.steps(), [Removal::Fired], "the timer was not touched");
    let new = case.session.head(1);
    assert_ne!(new.instance(), case.head.instance());
    assert_eq!(new.ids().uuid, Some(OTHER));
    case.session.wait_usable(&new, 1);
    case.channel.check(&new, 0, LEN, OLD);
    assert!(matches!(case.channel.write_error(&case.head), IoError::HeadRemoved { .. }));
    case.session.shutdown();
}

/// The same identifiers under another NSID, or in another subsystem, are refused as long as the
/// head waits: they are taken.
#[test]
fn the_same_identifiers_elsewhere_are_refused() {
    let mut case = Case::new(secs(3));
    let uuid = case.head.ids().uuid.expect("a UUID");
    let ids = NamespaceIds { uuid, ..NamespaceIds::default() };
    case.lose();
    case.bed.hide(1);
    let target = &case.bed.target;
    target.add_namespace(NamespaceConfig::memory(7, 1 << 20).ids(ids)).expect("a namespace");
    let other = "nqn.2026-01.org.example:other";
    let namespace = NamespaceConfig::memory(1, 1 << 20).ids(ids);
    let config = SubsystemConfig::new(other).expect("a subsystem").namespace(namespace);
    let _ = target.add_subsystem(config).expect("another subsystem");
    let _ = case.session.connect(&case.bed, 1, &ControllerOptions::default());
    assert_eq!(case.session.event("the refusal", refusal).0, 7);
    let url = format!("tcp://{}/{other}", case.bed.address(2));
    let _ = case.session.connect_url(&url, &ControllerOptions::default());
    assert_eq!(case.session.event("the refusal", refusal).0, 1);
    assert!(matches!(case.head.state(), HeadState::RemovalPending { .. }));

    case.session.wait_gone(&case.head, 0);
    // One of the two gets the identity that is free now; the other is still refused.
    wait_until("a head for one of them", || {
        let heads = case.session.host.heads();
        heads.iter().filter(|h| h.ids().uuid == Some(uuid)).count() == 1
    });
    case.session.shutdown();
}

/// The controller comes up, but its namespace cannot be identified.
#[test]
fn a_namespace_that_fails_on_its_return_keeps_the_deadline() {
    let mut case = Case::new(secs(3));
    case.lose();
    let rule = FaultRule::new(FaultAction::Fail(Status::INTERNAL_ERROR));
    let rule = rule.admin().opcode(AdminOpcode::IDENTIFY.0).nsid(1);
    let fault = case.bed.target.add_fault(rule);
    case.channel.begin_write(&case.head, 1, NEW);
    let connected = case.session.host.connect(&case.url(), persistent()).expect("a URL");
    wait_until("the return to fail", || case.bed.target.fault_hits(fault) > Some(0));

    let [failed] = case.channel.finish(1).try_into().expect("one");
    assert!(matches!(*failed.result.unwrap_err(), IoError::HeadRemoved { .. }));
    case.session.wait_gone(&case.head, 0);
    let story = case.session.story(&case.head);
    let [(Removal::Scheduled(_), lost), (Removal::Fired, gone)] = story[..] else {
        panic!("{story:?}");
    };
    assert!(gone.saturating_since(lost) >= secs(3) - millis(1));

    let _ = case.bed.target.remove_fault(fault);
    connected.rescan();
    let new = case.session.head(1);
    assert_ne!(new.instance(), case.head.instance());
    case.session.wait_usable(&new, 1);
    case.channel.put(&new, 0, LEN, NEW);
    case.session.shutdown();
}

/// The controller itself does not come up; its later attempts are in time.
#[test]
fn a_controller_that_fails_on_its_return_may_try_again_in_time() {
    let mut case = Case::new(secs(60));
    case.lose();
    let rule = FaultRule::new(FaultAction::Fail(Status::INTERNAL_ERROR)).times(2);
    let fault = case.bed.target.add_fault(rule.admin().opcode(AdminOpcode::IDENTIFY.0).nsid(0));
    case.channel.begin_write(&case.head, 1, NEW);
    let connected = case.session.host.connect(&case.url(), persistent()).expect("a URL");
    assert!(connected.wait_ready(LIMIT).is_err(), "the first attempt fails");
    let [written] = case.channel.finish(1).try_into().expect("one");
    written.result.expect("the write that waited");
    assert!(case.bed.target.fault_hits(fault) > Some(0));
    assert_eq!(case.head.state(), HeadState::Live);
    wait_until("the pin to be back", || case.session.host.pin_count() == 0);
    assert_eq!(case.steps(), [Removal::Scheduled(Some(secs(60))), Removal::Cancelled]);
    case.channel.check(&case.head, 0, LEN, NEW);
    case.session.shutdown();
}

#[test]
fn a_second_loss_has_a_window_of_its_own() {
    let mut case = Case::new(secs(3));
    case.lose();
    case.regain(2);
    case.lose();
    case.channel.begin_write(&case.head, 1, NEW);
    let [failed] = case.channel.finish(1).try_into().expect("one");
    assert!(matches!(*failed.result.unwrap_err(), IoError::HeadRemoved { .. }));
    case.session.wait_gone(&case.head, 0);
    let story = case.session.story(&case.head);
    let [
        (Removal::Scheduled(Some(_)), _),
        (Removal::Cancelled, _),
        (Removal::Scheduled(Some(window)), lost),
        (Removal::Fired, gone),
    ] = story[..]
    else {
        panic!("{story:?}");
    };
    assert!(window > secs(2), "the window is whole: {window:?}");
    assert!(gone.saturating_since(lost) >= secs(3) - millis(1), "{story:?}");
    case.session.shutdown();
}

/// Its size may be another when it returns: the head follows.
#[test]
fn a_namespace_may_return_with_another_size() {
    let mut case = Case::new(secs(60));
    let before = case.head.geometry();
    case.lose();
    assert_eq!(case.head.geometry(), before, "kept through the loss");
    case.bed.resize(1, 8192);
    case.regain(1);
    wait_until("the new size", || case.head.geometry().blocks == 8192);
    case.channel.put(&case.head, 8192 - 8, LEN, NEW);
    case.channel.check(&case.head, 8192 - 8, LEN, NEW);
    case.session.shutdown();
}
