//! The ways in which a last path leaves.
use nvme_core::nqn::Uuid;
use nvme_e2e::{Bed, ChannelExt, PORTS, Removal, Session, Software, eager, wait_until};
use nvme_mpath::{ControllerOptions, DelayedRemoval, Event, HeadState, IoError, LossCause, Window};

use crate::common::{Case, LEN, NEW, OLD, secs};

fn cause_of(head: &nvme_mpath::Head) -> LossCause {
    match head.state() {
        HeadState::RemovalPending { cause, .. } => cause,
        state => panic!("{head:?} is {state:?}"),
    }
}

#[test]
fn a_namespace_that_the_target_deleted_need_not_wait() {
    let mut case = Case::new(secs(600));
    case.bed.target.remove_namespace(1).expect("a namespace to remove");
    case.session.wait_gone(&case.head, 0);
    assert_eq!(case.head.state(), HeadState::Gone(LossCause::NamespaceGone));
    assert_eq!(case.session.host.pins_peak(), 0);
    let error = case.channel.write_error(&case.head);
    let cause = LossCause::NamespaceGone;
    assert!(matches!(&error, IoError::HeadRemoved { cause: c, .. } if *c == cause), "{error}");
    assert_eq!(case.steps(), [Removal::AtOnce]);
    assert!(case.session.host.head(&case.session.subnqn, 2).is_some(), "the other one stays");
    case.session.shutdown();
}

#[test]
fn a_namespace_that_the_target_deleted_waits_as_on_linux_when_told() {
    let mut case = Case::new(DelayedRemoval::like_linux(Window::For(secs(600))));
    case.channel.put(&case.head, 0, LEN, OLD);
    case.bed.hide(1);
    case.session.wait_pending(&case.head);
    assert_eq!(cause_of(&case.head), LossCause::NamespaceGone);
    assert_eq!(case.session.host.pin_count(), 1);
    case.channel.begin_write(&case.head, 1, NEW);
    let mut done = Vec::new();
    case.channel.poll(&mut done);
    assert_eq!((done.len(), case.channel.parked()), (0, 1));
    case.bed.show(1);
    let [written] = case.channel.finish(1).try_into().expect("one");
    written.result.expect("the write that waited");
    case.channel.check(&case.head, 0, LEN, NEW);
    wait_until("the pin to be back", || case.session.host.pin_count() == 0);
    case.session.shutdown();
}

/// While connected, the NSID is given to another namespace: the old head goes, a new one comes.
#[test]
fn a_namespace_that_another_one_replaced_is_gone() {
    let mut case = Case::new(secs(600));
    let other = Uuid(*b"another identity");
    case.bed.set_uuid(1, other);
    if let Some(controller) = case.session.host.controllers().first() {
        controller.rescan();
    }
    case.session.wait_gone(&case.head, 0);
    assert_eq!(case.head.state(), HeadState::Gone(LossCause::NamespaceGone));
    let new = case.session.head(1);
    assert_eq!(new.ids().uuid, Some(other));
    case.channel.put(&new, 0, LEN, NEW);
    case.session.shutdown();
}

/// The cause of the loss chooses the window.
#[test]
fn each_cause_has_its_window() {
    let mut windows = DelayedRemoval::OFF;
    windows.link_lost = Window::For(secs(600));
    let case = Case::on(Software::new(), &eager(), windows);
    case.bed.disable(1);
    case.session.wait_pending(&case.head);
    assert_eq!(cause_of(&case.head), LossCause::LinkLost);
    case.bed.enable(1);
    case.session.wait_usable(&case.head, 1);
    assert_eq!(case.head.state(), HeadState::Live);
    case.session.disconnect_all();
    case.session.wait_gone(&case.head, 0);
    assert_eq!(case.head.state(), HeadState::Gone(LossCause::Disconnected));
    let steps = case.steps();
    let [Removal::Scheduled(_), Removal::Cancelled, Removal::AtOnce] = steps[..] else {
        panic!("{steps:?}");
    };
    case.session.shutdown();
}

/// Both of two paths are cut at the same time, over and over: there is one last path each time,
/// one removal scheduled and cancelled, and one pin.
#[test]
fn two_last_paths_leave_at_once() {
    const ROUNDS: usize = 40;
    let bed = &Software::new();
    let session = Session::new(bed);
    session.host.set_delayed_removal(secs(600));
    session.connect_all(bed, &eager());
    let head = session.head(1);
    let mut channel = session.channel();
    let mut ended = Vec::new();
    for round in 0..ROUNDS {
        channel.begin_write(&head, round as u64, NEW);
        std::thread::scope(|scope| {
            let _ = PORTS.map(|port| scope.spawn(move || bed.disable(port)));
        });
        wait_until("a pending removal of both heads, with a pin each", || {
            channel.poll(&mut ended);
            session.host.pin_count() == 2
        });
        assert!(matches!(head.state(), HeadState::RemovalPending { .. }));
        std::thread::scope(|scope| {
            let _ = PORTS.map(|port| scope.spawn(move || bed.enable(port)));
        });
        wait_until("both paths and all pins to be back", || {
            channel.poll(&mut ended);
            let usable = head.paths().iter().filter(|p| p.usable).count();
            usable == 2 && session.host.pin_count() == 0 && ended.len() == round + 1
        });
        assert_eq!(head.state(), HeadState::Live);
    }
    for write in ended {
        write.result.expect("nothing is lost");
    }
    let story = session.story(&head);
    let scheduled = story.iter().filter(|(s, _)| matches!(s, Removal::Scheduled(_))).count();
    let cancelled = story.iter().filter(|(s, _)| *s == Removal::Cancelled).count();
    assert_eq!((scheduled, cancelled), (ROUNDS, ROUNDS), "{story:?}");
    assert_eq!(session.host.pins_peak(), 2, "one for each head");
    drop(channel);
    session.shutdown();
}

/// As before, but the two disconnects come from two threads, and there is no way back.
#[test]
fn two_controllers_are_disconnected_at_once() {
    let bed = Software::new();
    let session = Session::new(&bed);
    session.host.set_delayed_removal(secs(600));
    let mut first = None;
    for _ in 0..15 {
        let controllers = session.connect_all(&bed, &ControllerOptions::default());
        let head = session.head(1);
        assert_eq!(*first.get_or_insert(head.instance()), head.instance());
        std::thread::scope(|scope| {
            for controller in &controllers {
                scope.spawn(|| controller.disconnect());
            }
        });
        session.wait_pending(&head);
        wait_until("one pin for each head", || session.host.pin_count() == 2);
        assert!(head.paths().is_empty());
    }
    let removed = session.take_events();
    assert!(!removed.iter().any(|e| matches!(e.event, Event::HeadRemoved { .. })), "{removed:?}");
    for head in session.host.heads() {
        assert!(head.remove_now());
    }
    wait_until("the pins to be back", || session.host.pin_count() == 0);
    session.shutdown();
}
