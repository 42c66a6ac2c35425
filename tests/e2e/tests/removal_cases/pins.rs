//! What holds the library, and what becomes of it.
use nvme_e2e::{Bed, ChannelExt, LIMIT, Session, Software, eager, wait_until};

use nvme_mpath::{ControllerOptions, HeadState, HostError, IoError, PinReason};

use crate::common::{Case, LEN, NEW, OLD, millis, secs};

#[test]
fn a_pending_removal_keeps_the_host_from_shutting_down() {
    let mut case = Case::new(secs(600));
    case.channel.put(&case.head, 0, LEN, OLD);
    case.lose();
    let refused = case.session.host.shutdown().expect_err("a pin is out");
    let HostError::Busy(holders) = &refused else { panic!("{refused}") };
    let head = case.head.name().to_owned();
    let reasons: Vec<_> = holders.iter().map(|h| h.reason.clone()).collect();
    assert_eq!(reasons, [PinReason::PendingRemoval { head }]);
    assert!(refused.to_string().contains(case.head.name()), "{refused}");
    // Nothing was done: the path may return, and then it works.
    case.regain(1);
    case.channel.check(&case.head, 0, LEN, OLD);
    case.session.shutdown();
}

#[test]
fn a_forced_shutdown_carries_out_what_is_pending() {
    let mut case = Case::new(secs(600));
    case.lose();
    case.channel.begin_write(&case.head, 1, NEW);
    case.channel.poll(&mut Vec::new());
    case.session.host.shutdown_forced(LIMIT).expect("nothing else is pinned");
    assert_eq!(case.session.host.pin_count(), 0);
    assert!(matches!(case.head.state(), HeadState::Gone(_)), "{:?}", case.head.state());
    let [failed] = case.channel.finish(1).try_into().expect("one");
    let error = *failed.result.expect_err("there is no host any more");
    let ended = matches!(error, IoError::Shutdown { .. } | IoError::HeadRemoved { .. });
    assert!(ended, "{error}");
    let error = case.session.host.connect(&case.url(), ControllerOptions::default());
    assert_eq!(error.expect_err("it is shut down"), HostError::Shutdown);
}

#[test]
fn a_forced_shutdown_ends_requests_in_flight() {
    let mut case = Case::new(secs(600));
    case.bed.silence(1);
    for i in 0..8 {
        case.channel.begin_write(&case.head, i, NEW);
    }
    case.channel.poll(&mut Vec::new());
    case.session.host.shutdown_forced(LIMIT).expect("nothing else is pinned");
    for failed in case.channel.finish(8) {
        let error = *failed.result.expect_err("it was never answered");
        let ended = matches!(error, IoError::Shutdown { .. } | IoError::HeadRemoved { .. });
        assert!(ended, "{error}");
        assert_eq!(failed.buffer.len(), LEN, "the buffer comes back");
    }
}

#[test]
fn a_program_can_pin_the_host() {
    let case = Case::new(secs(600));
    let pin = case.session.host.pin("a backup is running").expect("a pin");
    let second = case.session.host.pin("another").expect("a pin");
    let refused = case.session.host.shutdown().expect_err("pins are out");
    assert!(refused.to_string().contains("a backup is running"), "{refused}");
    drop(second);
    assert_eq!(case.session.host.pin_count(), 1);
    let refused = case.session.host.shutdown_forced(millis(50)).expect_err("a pin is still out");
    let HostError::Busy(holders) = &refused else { panic!("{refused}") };
    assert_eq!(holders[0].reason, PinReason::User("a backup is running".into()));
    assert!(case.session.host.pin("too late").is_err());
    drop(pin);
    assert_eq!(case.session.host.pin_count(), 0);
    assert_eq!(case.session.host.pins_peak(), 2);
}

#[test]
fn a_forced_shutdown_waits_for_the_programs_pin() {
    let case = Case::new(secs(600));
    let pin = case.session.host.pin("soon back").expect("a pin");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("the heads to go", || case.session.host.heads().is_empty());
            drop(pin);
        });
        case.session.host.shutdown_forced(LIMIT).expect("the pin is given back");
    });
}

/// The last handle on the host is dropped with a removal pending: the removal is carried out all
/// the same.
#[test]
fn a_dropped_host_lives_until_the_window_is_over() {
    let Case { bed, session, head, mut channel } = Case::new(secs(2));
    session.disconnect_all();
    session.wait_pending(&head);
    channel.begin_write(&head, 1, NEW);
    let Session { host, events, .. } = session;
    drop((host, events));
    let [failed] = channel.finish(1).try_into().expect("one");
    let error = *failed.result.expect_err("the window is over");
    assert!(matches!(error, IoError::HeadRemoved { .. }), "{error}");
    wait_until("the end of the head", || matches!(head.state(), HeadState::Gone(_)));
    drop(bed);
}

/// As before, but the library finds the path again by itself in time.
#[test]
fn a_dropped_host_still_regains_its_paths() {
    let Case { bed, session, head, mut channel } = Case::on(Software::new(), &eager(), secs(600));
    bed.disable(1);
    session.wait_pending(&head);
    channel.begin_write(&head, 1, NEW);
    drop(session);
    bed.enable(1);
    let [written] = channel.finish(1).try_into().expect("one");
    written.result.expect("the path came back");
    channel.check(&head, 0, LEN, NEW);
    assert_eq!(head.state(), HeadState::Live);
}
