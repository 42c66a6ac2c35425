//! The two parts of blktests nvme/068, on Linux's target and on the software target.
use std::time::{Duration, Instant};

use nvme_e2e::{Bed, ChannelExt, MOMENT, Nvmet, Pattern, Removal, Session, Software, wait_until};
use nvme_mpath::{ControllerOptions, HeadState, IoError, LossCause};

const WINDOW: Duration = Duration::from_secs(5);
const LEN: usize = 4096;

/// All controllers go and none comes: I/O waits for the window's length and fails, then the head
/// goes. Only after that is the pin given back.
fn the_window_runs_out(bed: &impl Bed) {
    let session = Session::new(bed);
    session.connect_all(bed, &ControllerOptions::default());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let mut channel = session.channel();
    channel.put(&head, 0, LEN, Pattern { salt: 68, version: 1 });
    let pins = session.host.pin_count();

    head.set_delayed_removal(WINDOW);
    let before_loss = Instant::now();
    session.disconnect_all();
    session.wait_pending(&head);
    assert_eq!(session.host.pin_count(), pins + 1, "{:?}", session.host.pins());
    assert!(session.host.head(&session.subnqn, 1).is_some(), "the head is still there");

    channel.begin_write(&head, 1, Pattern { salt: 68, version: 2 });
    let mut done = Vec::new();
    let watched = Instant::now();
    while watched.elapsed() < MOMENT {
        channel.poll(&mut done);
        channel.wait(MOMENT);
    }
    assert!(done.is_empty(), "the write waits: {done:?}");
    assert_eq!(channel.parked(), 1);
    assert_eq!(session.host.pin_count(), pins + 1);

    let [failed] = channel.finish(1).try_into().expect("one");
    assert!(before_loss.elapsed() >= WINDOW, "it failed after {:?}", before_loss.elapsed());
    let error = *failed.result.expect_err("the write fails");
    let expected = LossCause::Disconnected;
    assert!(matches!(&error, IoError::HeadRemoved { cause, .. } if *cause == expected), "{error}");
    assert_eq!(failed.buffer.len(), LEN, "the buffer comes back");
    session.wait_gone(&head, pins);
    assert!(session.host.head(&session.subnqn, 1).is_none());
    assert_eq!(session.host.pins_peak(), pins + 1);
    let told: Vec<_> = session.story(&head).into_iter().map(|(step, _)| step).collect();
    assert_eq!(told, [Removal::Scheduled(Some(WINDOW)), Removal::Fired]);
    session.shutdown();
}

/// All controllers go and one comes back in time: I/O that was begun in the gap succeeds, and the
/// pin is given back. Then the window is taken away, and the head goes with its last path.
fn a_path_returns_in_time(bed: &impl Bed) {
    let session = Session::new(bed);
    session.connect_all(bed, &ControllerOptions::default());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let mut channel = session.channel();
    let (old, new) = (Pattern { salt: 68, version: 3 }, Pattern { salt: 68, version: 4 });
    channel.put(&head, 0, LEN, old);
    channel.put(&head, 8, LEN, old);
    let pins = session.host.pin_count();

    head.set_delayed_removal(WINDOW);
    session.disconnect_all();
    session.wait_pending(&head);
    assert_eq!(session.host.pin_count(), pins + 1, "{:?}", session.host.pins());
    channel.begin_write(&head, 1, new);
    let mut done = Vec::new();
    channel.poll(&mut done);
    assert_eq!((done.len(), channel.parked()), (0, 1), "the write waits");

    session.connect(bed, 1, &ControllerOptions::default());
    let [written] = channel.finish(1).try_into().expect("one");
    written.result.expect("the write succeeds");
    wait_until("the pin to be back", || session.host.pin_count() == pins);
    assert_eq!(head.state(), HeadState::Live);
    let found = session.host.head(&session.subnqn, 1).expect("the head");
    assert_eq!(found.instance(), head.instance(), "it is the same head");
    channel.check(&head, 0, LEN, new);
    channel.check(&head, 8, LEN, old);
    head.set_delayed_removal(Duration::ZERO);
    session.disconnect_all();
    session.wait_gone(&head, pins);
    assert_eq!(session.host.pins_peak(), pins + 1, "no pin was taken any more");
    let error = channel.write_error(&head);
    assert!(matches!(error, IoError::HeadRemoved { .. }), "{error}");
    let told: Vec<_> = session.story(&head).into_iter().map(|(step, _)| step).collect();
    let expected = [Removal::Scheduled(Some(WINDOW)), Removal::Cancelled, Removal::AtOnce];
    assert_eq!(told, expected);
    session.shutdown();
}

#[test]
fn a_on_nvmet_the_window_runs_out() {
    the_window_runs_out(&Nvmet::new());
}

#[test]
fn b_on_nvmet_a_path_returns_in_time() {
    a_path_returns_in_time(&Nvmet::new());
}

#[test]
fn a_on_the_software_target_the_window_runs_out() {
    the_window_runs_out(&Software::new());
}

#[test]
fn b_on_the_software_target_a_path_returns_in_time() {
    a_path_returns_in_time(&Software::new());
}
