//! Writes that were in flight on a path that is lost: when they are sent again, and when not.

use std::sync::Arc;

use nvme_core::spec::Status;
use nvme_core::spec::log::ResetState;
use nvme_core::time::Duration;
use nvme_fake::{Abort, Bench, Io, quiet};
use nvme_mpath::{
    Controller, ControllerOptions, DelayedRemoval, Event, Fence, FencedBy, Head, IoError,
    IoRequest, Window,
};

const SECOND: Duration = Duration::from_secs(1);

/// How a port is set up.
type Setup = fn(&mut nvme_fake::Port);

const PLAIN: Setup = |_| {};
const QUIESCES: Setup = |p| p.cqt = 500;
const RESETS: Setup = |p| p.ccrl = 2;

fn options() -> ControllerOptions {
    let mut options = quiet();
    options.fence_time = Some(2 * SECOND);
    options
}

/// Two paths, a write of 7 to block 5 in flight on the first, and that path gone.
fn lost_write(setup: Setup, fence: Fence) -> (Bench, Arc<Head>, [Controller; 2]) {
    let mut bench = Bench::with(|o| o.fence = fence);
    for port in ["a", "b"] {
        bench.world.port(port, setup);
    }
    let a = bench.connect_with("a", options());
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 5, 7);
    bench.settle();
    let b = bench.connect_with("b", options());
    assert_eq!(bench.world.held("a"), 1);
    bench.world.pull("a");
    (bench, head, [a, b])
}

fn executed(bench: &Bench, port: &str) -> Vec<u8> {
    bench.world.port(port, |p| p.executed.iter().map(|e| e.3).collect())
}

/// How the first fence came about.
fn fenced(bench: &Bench) -> Option<(FencedBy, Duration)> {
    bench.log.iter().find_map(|e| match e {
        Event::Fenced { by, after, .. } => Some((*by, *after)),
        _ => None,
    })
}

#[test]
fn where_nothing_is_reported_auto_does_as_linux_does() {
    let (mut bench, head, _) = lost_write(PLAIN, Fence::Auto);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    assert_eq!((executed(&bench, "b"), head.stats().held), (vec![7], 0));
    // and this is what it risks
    bench.write(&head, 5, 8);
    bench.settle();
    assert_eq!(bench.world.execute_late("a"), [7], "the old write lands on the new one");
}

#[test]
fn off_holds_nothing_whatever_is_reported() {
    for setup in [QUIESCES, RESETS] {
        let (mut bench, _, _) = lost_write(setup, Fence::Off);
        bench.settle();
        assert_eq!(bench.one().result, Ok(()));
        assert_eq!(fenced(&bench), None);
    }
}

#[test]
fn by_time_a_write_is_held_and_a_read_is_not() {
    for (setup, fence) in [(PLAIN, Fence::Strict), (QUIESCES, Fence::Auto)] {
        let (mut bench, head, [a, b]) = lost_write(setup, fence);
        bench.settle();
        assert!(bench.done.is_empty(), "{:?}", bench.done);
        assert_eq!((bench.channel.held(), head.stats().held, head.stats().held_now), (1, 1, 1));
        let held =
            |c: &Controller| head.paths().iter().find(|p| p.controller == c.id()).unwrap().held;
        assert_eq!((held(&a), held(&b)), (1, 0));
        let told =
            |e: &Event| matches!(e, Event::Fencing { at_most, .. } if *at_most == 2 * SECOND);
        assert_eq!(bench.count(told), 1);
        let read = IoRequest::read(5, vec![0; 512].into(), 9);
        bench.channel.submit(&head, read).unwrap();
        bench.channel.submit(&head, IoRequest::flush(10)).unwrap();
        bench.settle();
        assert_eq!(bench.done.drain(..).filter(|d| d.result.is_ok()).count(), 2);
        bench.run(SECOND * 19 / 10);
        assert!(bench.done.is_empty() && bench.world.execute_late("a") == [7]);
        bench.run(SECOND / 5);
        assert_eq!(bench.one().result, Ok(()));
        assert_eq!(executed(&bench, "b").last(), Some(&7));
        let (by, after) = fenced(&bench).unwrap();
        assert_eq!(by, FencedBy::Time);
        assert!(after >= 2 * SECOND, "{after:?}");
        assert_eq!((bench.channel.held(), head.stats().held_now), (0, 0));
    }
}

#[test]
fn the_time_follows_from_keep_alive_and_quiesce_time() {
    let mut bench = Bench::with(|o| o.fence = Fence::Auto);
    bench.world.port("a", QUIESCES);
    let mut options = quiet();
    options.keep_alive = 4 * SECOND;
    bench.connect_with("a", options);
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 5, 7);
    bench.settle();
    bench.world.pull("a");
    bench.settle();
    let at_most = bench.log.iter().find_map(|e| match e {
        Event::Fencing { at_most, .. } => Some(*at_most),
        _ => None,
    });
    assert_eq!(at_most, Some(Duration::from_millis(2 * 4000 + 500)));
}

#[test]
fn a_keep_alive_timeout_without_end_is_a_fence_without_end() {
    let mut bench = Bench::with(|o| o.fence = Fence::Strict);
    let mut options = quiet();
    options.keep_alive = Duration::MAX;
    bench.connect_with("a", options);
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 5, 7);
    bench.settle();
    bench.world.pull("a");
    bench.run(SECOND);
    assert_eq!((bench.channel.held(), bench.done.len()), (1, 0));
    assert_eq!(bench.channel.cancel_all(), 1);
    bench.settle();
    assert!(bench.one().uncertain);
}

#[test]
fn a_reset_by_another_controller_ends_the_hold_at_once() {
    let (mut bench, _, _) = lost_write(RESETS, Fence::Auto);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    assert_eq!(fenced(&bench), Some((FencedBy::Reset, Duration::ZERO)));
    assert_eq!(executed(&bench, "b"), [7]);
    assert!(bench.world.execute_late("a").is_empty(), "it was reset");
}

#[test]
fn a_reset_that_takes_its_time_is_waited_for_and_one_that_fails_is_not() {
    for (state, by) in
        [(ResetState::SUCCESS, FencedBy::Reset), (ResetState::FAILED, FencedBy::Time)]
    {
        let (mut bench, _, _) = lost_write(
            |p| {
                p.ccrl = 1;
                p.slow_reset = true;
            },
            Fence::Auto,
        );
        bench.run(SECOND / 2);
        assert!(bench.done.is_empty() && bench.channel.held() == 1);
        bench.world.finish_resets("b", state);
        bench.settle();
        assert_eq!(bench.done.len(), usize::from(by == FencedBy::Reset));
        bench.run(3 * SECOND);
        assert_eq!(fenced(&bench).map(|f| f.0), Some(by));
        assert_eq!(bench.one().result, Ok(()));
    }
}

#[test]
fn with_one_path_the_controller_that_comes_back_resets_the_one_that_was() {
    let mut bench = Bench::new();
    bench.world.port("a", RESETS);
    let mut options = options();
    options.fence_time = Some(100 * SECOND);
    bench.connect_with("a", options);
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 5, 7);
    bench.settle();
    bench.world.cut("a", 1);
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.run(3 * SECOND);
    assert_eq!(bench.one().result, Ok(()));
    assert!(matches!(fenced(&bench), Some((FencedBy::Reset, _))));
    assert!(bench.world.execute_late("a").is_empty());
}

#[test]
fn when_the_controller_that_resets_is_lost_another_is_asked() {
    let (mut bench, _, _) = lost_write(
        |p| {
            p.ccrl = 1;
            p.slow_reset = true;
        },
        Fence::Auto,
    );
    bench.settle();
    bench.world.port("c", RESETS);
    bench.connect_with("c", options());
    assert!(bench.done.is_empty(), "b is asked");
    bench.world.pull("b");
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    assert_eq!(executed(&bench, "c"), [7]);
}

#[test]
fn a_held_write_that_is_cancelled_is_not_reported_as_not_done() {
    let (mut bench, head, _) = lost_write(PLAIN, Fence::Strict);
    bench.settle();
    // One behind it was never sent: that is certain.
    bench.write(&head, 5, 8);
    bench.settle();
    assert_eq!(bench.channel.held(), 2);
    assert_eq!(bench.channel.cancel_all(), 2);
    bench.settle();
    bench.done.sort_by_key(|d| d.user_data);
    let ended: Vec<_> = bench.done.iter().map(|d| (d.user_data, d.uncertain)).collect();
    assert_eq!(ended, [(7, true), (8, false)]);
    assert!(bench.done.iter().all(|d| d.result.is_err() && d.buffer.len() == 512));
    assert_eq!((bench.channel.held(), head.stats().held_now), (0, 0));
    bench.run(5 * SECOND);
    assert!(executed(&bench, "b").is_empty());
}

#[test]
fn a_held_write_ends_with_its_head_and_is_not_reported_as_not_done() {
    let (mut bench, head, [a, b]) = lost_write(PLAIN, Fence::Strict);
    bench.settle();
    bench.host.set_delayed_removal(DelayedRemoval::after(Window::For(SECOND / 2)));
    head.set_delayed_removal(SECOND / 2);
    b.disconnect();
    a.disconnect();
    bench.run(SECOND);
    let done = bench.one();
    assert!(matches!(*done.result.unwrap_err(), IoError::HeadRemoved { .. }));
    assert!(done.uncertain);
    assert_eq!(head.stats().held_now, 0);
}

#[test]
fn a_shutdown_gives_held_buffers_back() {
    let (mut bench, _, _) = lost_write(PLAIN, Fence::Strict);
    bench.settle();
    assert_eq!(bench.channel.held(), 1);
    bench.host.shutdown_forced(Duration::ZERO).unwrap();
    bench.settle();
    let done = bench.one();
    assert!(matches!(*done.result.unwrap_err(), IoError::Shutdown { .. }) && done.uncertain);
}

#[test]
fn a_write_in_flight_at_a_shutdown_is_not_reported_as_not_done() {
    let mut bench = Bench::new();
    bench.connect_with("a", options());
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 5, 7);
    bench.settle();
    bench.host.shutdown_forced(Duration::ZERO).unwrap();
    bench.run(5 * SECOND);
    let done = bench.one();
    assert!(matches!(*done.result.unwrap_err(), IoError::Shutdown { .. }) && done.uncertain);
}

#[test]
fn nothing_waits_for_a_fence_when_the_writes_were_given_up() {
    let (mut bench, _, [a, _]) = lost_write(PLAIN, Fence::Strict);
    bench.settle();
    a.disconnect();
    bench.settle();
    assert!(bench.host.deadline().is_some());
    bench.channel.cancel_all();
    bench.settle();
    assert_eq!((bench.channel.held(), bench.host.deadline()), (0, None));
}

#[test]
fn a_newer_write_to_the_same_blocks_waits_for_a_held_one_and_others_do_not() {
    let (mut bench, head, _) = lost_write(PLAIN, Fence::Strict);
    bench.settle();
    for (slba, user) in [(5, 8), (6, 9), (5, 10)] {
        bench.write(&head, slba, user);
    }
    bench.settle();
    assert_eq!(executed(&bench, "b"), [9], "another block");
    bench.world.port("b", |b| b.io = Io::Hold);
    bench.run(3 * SECOND);
    for user in [7, 8, 10] {
        assert_eq!(bench.world.held("b"), 1, "one at a time");
        bench.world.release("b", nvme_core::spec::Status::SUCCESS);
        bench.settle();
        assert_eq!(executed(&bench, "b").last(), Some(&user));
    }
    assert_eq!(bench.done.len(), 4);
}

#[test]
fn a_controller_that_said_it_is_shut_down_needs_no_fence() {
    let mut bench = Bench::with(|o| o.fence = Fence::Strict);
    let a = bench.connect_with("a", options());
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 5, 7);
    bench.settle();
    bench.connect_with("b", options());
    a.disconnect();
    // What it does not answer in a second it is told to shut down with.
    bench.run(SECOND * 3 / 2);
    assert_eq!(bench.one().result, Ok(()));
    assert_eq!((fenced(&bench), executed(&bench, "b")), (None, vec![7]));
}

#[test]
fn a_head_says_for_itself() {
    let (mut bench, head, _) = lost_write(PLAIN, Fence::Strict);
    head.set_fence(Some(Fence::Off));
    bench.settle();
    assert_eq!((bench.one().result, head.fence()), (Ok(()), Some(Fence::Off)));
    let (mut bench, head, _) = lost_write(PLAIN, Fence::Off);
    head.set_fence(Some(Fence::Strict));
    bench.settle();
    assert!(bench.done.is_empty() && bench.channel.held() == 1);
}

#[test]
fn a_write_lost_a_second_time_is_held_for_the_second_controller() {
    let (mut bench, _, _) = lost_write(PLAIN, Fence::Strict);
    bench.settle();
    bench.world.port("b", |b| b.io = Io::Hold);
    bench.run(3 * SECOND);
    assert_eq!(bench.world.held("b"), 1);
    bench.connect_with("c", options());
    bench.world.pull("b");
    bench.settle();
    assert!(bench.done.is_empty() && bench.channel.held() == 1);
    bench.run(3 * SECOND);
    assert_eq!((bench.one().result, executed(&bench, "c")), (Ok(()), vec![7]));
}

#[test]
fn a_request_with_its_own_time_limit_waits_no_longer_and_keeps_its_buffer_until_it_is_safe() {
    let (mut bench, head, _) = lost_write(PLAIN, Fence::Strict);
    bench.settle();
    let write = |slba, user: u64| IoRequest::write(slba, vec![user as u8; 512].into(), user);
    // behind the held write; on a queue that does not answer; answered in time
    bench.channel.submit(&head, write(5, 1).timeout(SECOND)).unwrap();
    bench.world.port("b", |b| (b.io, b.abort) = (Io::Hold, Abort::Refuses));
    bench.channel.submit(&head, write(6, 2).timeout(SECOND)).unwrap();
    bench.channel.submit(&head, write(7, 3).timeout(5 * SECOND)).unwrap();
    bench.run(SECOND * 3 / 2);
    let done = bench.one();
    assert!(matches!(*done.result.unwrap_err(), IoError::Expired { .. }));
    assert_eq!((done.user_data, done.uncertain, done.buffer.len()), (1, false, 512));
    // the one that a controller has, and will not abort, ends as it is answered, or with its connection
    bench.world.port("b", |b| assert_eq!(b.aborts, 1));
    bench.world.port("b", |b| b.io = Io::Answer);
    bench.world.pull("b");
    bench.settle();
    let done = bench.one();
    assert!(matches!(*done.result.unwrap_err(), IoError::Expired { .. }));
    assert_eq!((done.user_data, done.uncertain), (2, true));
    bench.run(4 * SECOND);
    let done = bench.one();
    assert_eq!((done.user_data, done.uncertain), (3, true), "no path for it in its time");
}

#[test]
fn a_time_limit_ends_a_request_that_is_parked() {
    let mut bench = Bench::new();
    bench.connect_with("a", options());
    let head = bench.head(1).unwrap();
    bench.world.pull("a");
    bench.settle();
    let request = IoRequest::read(1, vec![0; 512].into(), 1).timeout(SECOND);
    bench.channel.submit(&head, request).unwrap();
    bench.run(SECOND / 2);
    assert!(bench.done.is_empty());
    bench.run(SECOND);
    assert!(matches!(*bench.one().result.unwrap_err(), IoError::Expired { .. }));
    assert_eq!(bench.channel.parked(), 0);
}

#[test]
fn what_a_controller_that_lives_answers_is_not_lost_with_another_queue() {
    let mut bench = Bench::with(|o| o.fence = Fence::Strict);
    for port in ["a", "b"] {
        bench.connect_with(port, options());
        bench.world.port(port, |p| p.io = Io::Hold);
    }
    let head = bench.head(1).unwrap();
    for i in 0..2 {
        bench.write(&head, i, i);
    }
    bench.settle();
    assert_eq!((bench.world.held("a"), bench.world.held("b")), (1, 1));
    // Both are seen by one poll: the one answers with the status that stands for no answer, the other
    // is gone.
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.world.release("a", Status::ABORTED_BY_HOST);
    bench.world.pull("b");
    bench.run(SECOND);
    assert_eq!((bench.one().result, bench.channel.held()), (Ok(()), 1), "nothing to be fenced");
    bench.run(2 * SECOND);
    assert_eq!((bench.one().result, bench.channel.held()), (Ok(()), 0));
}
