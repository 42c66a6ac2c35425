//! Devices that are lost and cannot be stopped: what they have is theirs, and all else goes on.

use std::sync::Arc;

use nvme_core::controller::{RemovedCause, State};
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io, quiet};
use nvme_mpath::{Controller, ControllerOptions, Event, Head, HeadState, IoError, IoRequest};

const SECOND: Duration = Duration::from_secs(1);

/// A write of 7 to block 5 and a read of block 6 on a device that was lost then, and does not stop.
fn stuck(options: ControllerOptions, second_path: bool) -> (Bench, Arc<Head>, Controller) {
    let mut bench = Bench::new();
    let a = bench.connect_with("a", options);
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| (a.io, a.stubborn) = (Io::Hold, true));
    bench.write(&head, 5, 7);
    bench.channel.submit(&head, IoRequest::read(6, vec![0; 512].into(), 8)).unwrap();
    bench.settle();
    if second_path {
        bench.connect("b");
    }
    assert_eq!(bench.world.held("a"), 2);
    bench.world.pull("a");
    bench.settle();
    // The channel may be the one that finds it out.
    assert!(matches!(a.state(), State::Resetting), "{:?}", a.state());
    (bench, head, a)
}

/// It stops at last.
fn relent(bench: &mut Bench) {
    bench.world.port("a", |a| (a.io, a.stubborn) = (Io::Answer, false));
    bench.run(SECOND / 5);
}

fn told(bench: &Bench) -> (usize, usize) {
    let unstopped = bench.count(|e| matches!(e, Event::DeviceUnstopped { .. }));
    (unstopped, bench.count(|e| matches!(e, Event::DeviceStopped { .. })))
}

fn executed(bench: &Bench, port: &str) -> Vec<(u64, u8)> {
    bench.world.port(port, |p| p.executed.iter().map(|e| (e.2, e.3)).collect())
}

#[test]
fn what_it_has_is_kept_and_the_other_path_goes_on() {
    let (mut bench, head, a) = stuck(quiet(), true);
    // It could be reached again, but is in use.
    bench.world.plug("a");
    bench.write(&head, 9, 1);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    // It would be undone by the one that the device still has.
    bench.write(&head, 5, 9);
    bench.channel.submit(&head, IoRequest::read(5, vec![0; 512].into(), 10)).unwrap();
    bench.settle();
    assert_eq!(bench.one().user_data, 10, "reads change nothing");
    assert_eq!(bench.channel.held(), 1);
    let attempts = bench.world.port("a", |a| a.attempts);

    bench.run(2 * SECOND);
    assert_eq!(
        (a.state(), told(&bench), bench.host.unstopped().len()),
        (State::Resetting, (0, 0), 0)
    );
    bench.run(2 * SECOND);
    assert_eq!((a.state(), told(&bench)), (State::Connecting, (1, 0)));
    let snapshot = bench.host.snapshot();
    assert_eq!((snapshot.unstopped.len(), bench.host.unstopped()[0].controller), (1, a.id()));
    assert!(snapshot.unstopped[0].unstopped_for >= 3 * SECOND);
    assert!(snapshot.to_prometheus().contains("nvme_host_unstopped_seconds{controller=\"0\""));
    // Neither time nor a wish gives anything back.
    assert_eq!(bench.channel.cancel(8), 1);
    bench.run(100 * SECOND);
    assert!(bench.done.is_empty(), "{:?}", bench.done);
    assert_eq!(bench.world.port("a", |a| a.attempts), attempts, "the device is not used twice");
    let why = a.last_error().expect("a reason").to_string();
    assert!(why.contains("has not been stopped since its last use"), "{why}");
    assert_eq!(told(&bench), (1, 0), "told once");

    relent(&mut bench);
    bench.done.sort_by_key(|d| d.user_data);
    let ended: Vec<u64> = bench.done.iter().map(|d| d.user_data).collect();
    assert_eq!(ended, [7, 8, 9], "each once");
    assert!(bench.done[0].result.is_ok() && bench.done[2].result.is_ok(), "{:?}", bench.done);
    let error = bench.done[1].result.as_ref().expect_err("it was cancelled");
    assert!(matches!(**error, IoError::Cancelled { .. }), "{error}");
    assert_eq!((a.state(), told(&bench), bench.host.unstopped()), (State::Live, (1, 1), vec![]));
    let mut to_five: Vec<_> = executed(&bench, "a");
    to_five.extend(executed(&bench, "b"));
    to_five.retain(|(slba, user)| *slba == 5 && *user != 0);
    assert_eq!(to_five, [(5, 7), (5, 9)], "in their order");
}

#[test]
fn its_controller_is_given_up_when_its_time_is_over() {
    let mut options = quiet();
    options.ctrl_loss_tmo = Some(10 * SECOND);
    let (mut bench, head, a) = stuck(options, false);
    bench.run(9 * SECOND);
    assert_eq!((a.removed(), head.state()), (None, HeadState::Live));
    bench.run(2 * SECOND);
    assert_eq!(a.removed(), Some(RemovedCause::LossTimeout));
    assert!(matches!(head.state(), HeadState::Gone(_)), "{:?}", head.state());
    assert!(bench.done.is_empty(), "{:?}", bench.done);
    assert_eq!((bench.channel.in_flight(), bench.host.unstopped().len()), (2, 1));
    relent(&mut bench);
    assert_eq!(bench.done.len(), 2);
    for d in &bench.done {
        let error = d.result.as_ref().expect_err("no path");
        assert!(matches!(**error, IoError::HeadRemoved { .. }), "{error}");
        assert_eq!((d.uncertain, d.buffer.len()), (d.user_data == 7, 512));
    }
    assert_eq!((bench.host.unstopped(), told(&bench)), (vec![], (1, 1)));
}

#[test]
fn a_disconnect_does_not_wait_for_it() {
    let (mut bench, _, a) = stuck(quiet(), false);
    a.disconnect();
    bench.run(4 * SECOND);
    assert_eq!(a.removed(), Some(RemovedCause::Deleted));
    assert!(bench.done.is_empty(), "{:?}", bench.done);
    relent(&mut bench);
    assert_eq!(bench.done.len(), 2);
}

#[test]
fn a_new_life_of_it_is_used_beside_the_old_one() {
    let (mut bench, head, a) = stuck(quiet(), false);
    bench.world.port("a", |a| (a.io, a.apart) = (Io::Answer, true));
    bench.world.plug("a");
    bench.run(6 * SECOND);
    assert_eq!((a.state(), bench.host.unstopped().len()), (State::Live, 1));
    bench.write(&head, 9, 1);
    bench.write(&head, 5, 9);
    bench.settle();
    assert_eq!(bench.one().user_data, 1, "the other one waits for the one before it");
    bench.run(SECOND);
    relent(&mut bench);
    let mut ended: Vec<u64> = bench.done.iter().map(|d| d.user_data).collect();
    ended.sort_unstable();
    assert_eq!(ended, [7, 8, 9]);
    assert!(bench.done.iter().all(|d| d.result.is_ok()), "{:?}", bench.done);
    let writes: Vec<_> = executed(&bench, "a").into_iter().filter(|(slba, _)| *slba == 5).collect();
    assert_eq!(writes, [(5, 7), (5, 9)]);
    assert_eq!((a.state(), a.reconnects()), (State::Live, 1));
}

#[test]
fn the_end_of_a_host_waits_for_it_and_no_longer_than_told() {
    let (mut bench, _, _) = stuck(quiet(), false);
    bench.host.begin_shutdown(true).unwrap();
    bench.run(4 * SECOND);
    assert!(bench.host.drive(Duration::ZERO), "it waits");
    bench.run(2 * SECOND);
    assert!(!bench.host.drive(Duration::ZERO), "and ends");
    assert_eq!((bench.host.unstopped().len(), told(&bench)), (1, (1, 0)));
    assert!(bench.done.is_empty(), "{:?}", bench.done);
    bench.world.port("a", |a| a.stubborn = false);
    bench.settle();
    assert_eq!(bench.done.len(), 2);
    for d in &bench.done {
        let error = d.result.as_ref().expect_err("the host has ended");
        assert!(matches!(**error, IoError::Shutdown { .. }), "{error}");
    }

    // One that stops meanwhile.
    let (mut bench, _, _) = stuck(quiet(), false);
    bench.host.begin_shutdown(true).unwrap();
    bench.run(2 * SECOND);
    assert!(bench.host.drive(Duration::ZERO), "it waits");
    relent(&mut bench);
    assert!(!bench.host.drive(Duration::ZERO), "and ends");
    assert_eq!((bench.host.unstopped(), told(&bench), bench.done.len()), (vec![], (0, 0), 2));
}
