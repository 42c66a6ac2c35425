//! I/O that waits for a path waits within limits.
use std::time::Duration;

use nvme_e2e::{ChannelExt, wait_until};
use nvme_mpath::{ChannelOptions, IoError, ParkLimit};

use crate::common::{Case, LEN, NEW, OLD, millis, secs};

fn limited(set: impl FnOnce(&mut ChannelOptions)) -> Case {
    let mut case = Case::new(secs(600));
    let mut options = ChannelOptions::default();
    set(&mut options);
    case.channel = case.session.host.channel(options).expect("a channel");
    case.channel.put(&case.head, 0, LEN, OLD);
    case.lose();
    case
}

/// Submits six writes, of which `fit` may wait; the others fail with `limit`. The rest succeeds
/// once a path is back.
fn check(mut case: Case, fit: usize, limit: ParkLimit) {
    for i in 0..6 {
        case.channel.begin_write(&case.head, i, NEW);
    }
    let failed = case.channel.finish(6 - fit);
    for completion in failed {
        assert!(completion.user_data >= fit as u64, "the first come wait");
        assert_eq!(completion.buffer.len(), LEN, "the buffer comes back");
        let error = *completion.result.expect_err("too many");
        assert!(matches!(&error, IoError::ParkLimit { limit: l, .. } if *l == limit), "{error}");
    }
    assert_eq!(case.channel.parked(), fit);
    case.regain(1);
    for completion in case.channel.finish(fit) {
        completion.result.expect("it was within the limit");
    }
    assert_eq!((case.channel.parked(), case.channel.in_flight()), (0, 0));
    // The room is there again.
    case.lose();
    case.channel.begin_write(&case.head, 9, NEW);
    let mut done = Vec::new();
    case.channel.poll(&mut done);
    assert_eq!((done.len(), case.channel.parked()), (0, 1));
    case.regain(1);
    case.channel.finish(1).pop().expect("one").result.expect("the write that waited");
    case.channel.check(&case.head, 0, LEN, NEW);
    case.session.shutdown();
}

#[test]
fn the_number_of_parked_requests_is_limited() {
    let case = limited(|o| o.max_parked_requests = 4);
    check(case, 4, ParkLimit::Requests(4));
}

#[test]
fn the_bytes_of_parked_requests_are_limited() {
    let case = limited(|o| o.max_parked_bytes = 3 * LEN + 1);
    check(case, 3, ParkLimit::Bytes(3 * LEN + 1));
}

#[test]
fn the_age_of_parked_requests_is_limited() {
    let age = millis(300);
    let mut case = limited(|o| o.max_parked_age = Some(age));
    let begun = std::time::Instant::now();
    case.channel.begin_write(&case.head, 1, NEW);
    let mut done = Vec::new();
    // Sleeping on the descriptor is enough: the channel wakes when the time is over.
    wait_until("the limit of age", || {
        case.channel.wait(secs(20));
        case.channel.poll(&mut done);
        !done.is_empty()
    });
    assert!(begun.elapsed() >= age);
    let error = *done.pop().expect("one").result.expect_err("too old");
    let limit = ParkLimit::Age(age);
    assert!(matches!(&error, IoError::ParkLimit { limit: l, .. } if *l == limit), "{error}");
    assert_eq!(case.channel.parked(), 0);
    assert_eq!(case.session.host.pin_count(), 1, "the head still waits");
    case.regain(1);
    case.channel.check(&case.head, 0, LEN, OLD);
    case.session.shutdown();
}

#[test]
fn parked_io_can_be_failed_at_once() {
    let mut case = Case::new(secs(600));
    case.channel.put(&case.head, 0, LEN, OLD);
    let before = case.head.stats();
    case.lose();
    case.channel.begin_write(&case.head, 1, NEW);
    case.channel.poll(&mut Vec::new());
    assert_eq!(case.channel.parked(), 1);
    case.head.set_fail_if_no_path(true);
    let [failed] = case.channel.finish(1).try_into().expect("one");
    assert!(matches!(*failed.result.unwrap_err(), IoError::NoPath { .. }));
    assert!(matches!(case.channel.write_error(&case.head), IoError::NoPath { .. }));
    assert_eq!(case.session.host.pin_count(), 1, "the head still waits");
    case.head.set_fail_if_no_path(false);
    case.channel.begin_write(&case.head, 2, NEW);
    let mut done = Vec::new();
    case.channel.poll(&mut done);
    assert_eq!((done.len(), case.channel.parked()), (0, 1), "it waits again");
    case.regain(1);
    case.channel.finish(1).pop().expect("one").result.expect("the write that waited");
    case.channel.check(&case.head, 0, LEN, NEW);
    let after = case.head.stats();
    assert_eq!(after.parked - before.parked, 2, "{after:?}");
    assert_eq!(after.failed_no_path - before.failed_no_path, 2, "{after:?}");
    case.session.shutdown();
}

/// A channel that only sleeps on its descriptor is woken by what ends its requests' wait.
#[test]
fn a_sleeping_channel_is_woken_by_the_end_of_the_window() {
    let mut case = Case::new(secs(2));
    case.lose();
    case.channel.begin_write(&case.head, 1, NEW);
    let mut done = Vec::new();
    let mut sleeps = 0;
    while done.is_empty() {
        case.channel.poll(&mut done);
        if done.is_empty() {
            case.channel.wait(Duration::from_secs(20));
            sleeps += 1;
        }
        assert!(sleeps < 1000, "it does not sleep");
    }
    assert!(matches!(**done[0].result.as_ref().unwrap_err(), IoError::HeadRemoved { .. }));
    case.session.shutdown();
}
