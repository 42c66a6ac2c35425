//! The window is changed while a removal is pending.
use std::time::Duration;

use nvme_e2e::{ChannelExt, Removal, Session, Software, wait_until};
use nvme_mpath::{ControllerOptions, DelayedRemoval, Head, HeadState, IoError, Window};

use crate::common::{Case, LEN, NEW, OLD, millis, secs};

fn lost_for(head: &Head) -> Duration {
    match head.state() {
        HeadState::RemovalPending { lost_for, .. } => lost_for,
        state => panic!("{head:?} is {state:?}"),
    }
}

fn remaining(head: &Head) -> Option<Duration> {
    match head.state() {
        HeadState::RemovalPending { remaining, .. } => remaining,
        state => panic!("{head:?} is {state:?}"),
    }
}

#[test]
fn a_longer_window_outlives_the_old_deadline() {
    let mut case = Case::new(secs(3));
    case.channel.put(&case.head, 0, LEN, OLD);
    case.lose();
    case.channel.begin_write(&case.head, 1, NEW);
    case.head.set_delayed_removal(secs(600));
    wait_until("the old deadline to pass", || lost_for(&case.head) > millis(3300));
    assert_eq!(case.session.host.pin_count(), 1);
    assert!(remaining(&case.head).is_some_and(|left| left > secs(300)));
    case.regain(1);
    let [written] = case.channel.finish(1).try_into().expect("one");
    written.result.expect("the write that waited");
    case.channel.check(&case.head, 0, LEN, NEW);
    let steps = case.steps();
    let [Removal::Scheduled(Some(_)), Removal::Rearmed(Some(left)), Removal::Cancelled] = steps[..]
    else {
        panic!("{steps:?}");
    };
    assert!(left > secs(500) && left <= secs(600), "counted from the loss: {left:?}");
    case.session.shutdown();
}

#[test]
fn a_shorter_window_is_counted_from_the_loss() {
    let mut case = Case::new(secs(600));
    case.lose();
    case.channel.begin_write(&case.head, 1, NEW);
    wait_until("some of the window to pass", || lost_for(&case.head) > millis(300));
    let before = lost_for(&case.head);
    case.head.set_delayed_removal(secs(2));
    let [failed] = case.channel.finish(1).try_into().expect("one");
    assert!(matches!(*failed.result.unwrap_err(), IoError::HeadRemoved { .. }));
    case.session.wait_gone(&case.head, 0);
    let story = case.session.story(&case.head);
    let [(Removal::Scheduled(_), lost), (Removal::Rearmed(Some(left)), _), (Removal::Fired, gone)] =
        story[..]
    else {
        panic!("{story:?}");
    };
    assert!(left <= secs(2) - before, "{left:?} are left, {before:?} had passed");
    assert!(gone.saturating_since(lost) >= secs(2) - millis(1), "{story:?}");
    case.session.shutdown();
}

#[test]
fn a_window_of_zero_removes_at_once() {
    let mut case = Case::new(secs(600));
    case.lose();
    case.channel.begin_write(&case.head, 1, NEW);
    case.head.set_delayed_removal(Duration::ZERO);
    let [failed] = case.channel.finish(1).try_into().expect("one");
    assert!(matches!(*failed.result.unwrap_err(), IoError::HeadRemoved { .. }));
    case.session.wait_gone(&case.head, 0);
    assert_eq!(case.steps(), [Removal::Scheduled(Some(secs(600))), Removal::Fired]);
    case.session.shutdown();
}

#[test]
fn a_window_that_is_over_by_the_new_count_removes_at_once() {
    let case = Case::new(DelayedRemoval::after(Window::Forever));
    case.session.disconnect_all();
    case.session.wait_pending(&case.head);
    wait_until("some time to pass", || lost_for(&case.head) > millis(50));
    case.head.set_delayed_removal(millis(50));
    case.session.wait_gone(&case.head, 0);
    assert_eq!(case.steps(), [Removal::Scheduled(None), Removal::Fired]);
    case.session.shutdown();
}

#[test]
fn a_window_without_end_ends_when_told() {
    let mut case = Case::new(DelayedRemoval::after(Window::Forever));
    case.lose();
    assert_eq!(remaining(&case.head), None);
    case.channel.begin_write(&case.head, 1, NEW);
    assert!(case.head.remove_now(), "it was pending");
    assert!(!case.head.remove_now(), "once only");
    let [failed] = case.channel.finish(1).try_into().expect("one");
    assert!(matches!(*failed.result.unwrap_err(), IoError::HeadRemoved { .. }));
    case.session.wait_gone(&case.head, 0);
    assert_eq!(case.steps(), [Removal::Scheduled(None), Removal::Fired]);
    case.session.shutdown();
}

#[test]
fn a_window_can_be_changed_again_and_again() {
    let mut case = Case::new(secs(600));
    case.lose();
    for round in 0..200 {
        let window = if round % 2 == 0 { Window::Forever } else { Window::For(secs(600 + round)) };
        case.head.set_delayed_removal(DelayedRemoval::after(window));
        assert_eq!(case.session.host.pin_count(), 1);
    }
    case.regain(1);
    let steps = case.steps();
    assert_eq!(steps.len(), 202, "{steps:?}");
    assert_eq!(steps.last(), Some(&Removal::Cancelled));
    assert_eq!(case.head.state(), HeadState::Live);
    case.session.shutdown();
}

#[test]
fn a_live_head_is_not_removed_by_remove_now() {
    let mut case = Case::new(secs(600));
    assert!(!case.head.remove_now());
    case.channel.put(&case.head, 0, LEN, OLD);
    case.channel.check(&case.head, 0, LEN, OLD);
    case.session.shutdown();
}

#[test]
fn the_hosts_window_is_that_of_heads_made_later() {
    let bed = Software::new();
    let session = Session::new(&bed);
    session.host.set_delayed_removal(secs(60));
    session.connect(&bed, 1, &ControllerOptions::default());
    let head = session.head(1);
    assert_eq!(head.delayed_removal(), DelayedRemoval::from(secs(60)));
    session.host.set_delayed_removal(Duration::ZERO);
    assert_eq!(head.delayed_removal(), DelayedRemoval::from(secs(60)));
    session.disconnect_all();
    session.wait_pending(&head);
    wait_until("both heads to wait", || session.host.pin_count() == 2);
    for head in session.host.heads() {
        assert!(head.remove_now());
    }
    session.wait_gone(&head, 0);
    session.connect(&bed, 1, &ControllerOptions::default());
    assert_eq!(session.head(1).delayed_removal(), DelayedRemoval::OFF);
    session.shutdown();
}
