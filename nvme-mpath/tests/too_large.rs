//! Requests that the queue of a path can never take, because they are larger than what it moves at
//! once: they go where they fit, or end with an error that says so, and take no queue down.

use std::sync::Arc;

use nvme_core::controller::State;
use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io, quiet};
use nvme_mpath::{ControllerOptions, Event, Head, IoError, IoRequest, PathPolicy, SubmitReason};

const SMALL: usize = 4096;
const LARGE: usize = 65536;

/// Two paths, of which `a` moves little at once.
fn uneven() -> (Bench, Arc<Head>) {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.most = SMALL);
    bench.connect("a");
    bench.connect("b");
    let head = bench.head(1).unwrap();
    (bench, head)
}

fn write(bench: &mut Bench, head: &Arc<Head>, user: u64, len: usize) {
    let request = IoRequest::write(0, vec![user as u8; len].into(), user);
    bench.channel.submit(head, request).unwrap();
}

fn executed(bench: &Bench, port: &str) -> usize {
    bench.world.port(port, |port| std::mem::take(&mut port.executed).len())
}

/// Nothing happened to any path or controller.
fn in_peace(bench: &Bench) {
    let trouble = |e: &Event| {
        matches!(
            e,
            Event::PathDown { .. } | Event::ControllerFailed { .. } | Event::HeadNoPath { .. }
        )
    };
    assert_eq!(bench.count(trouble), 0, "{:?}", bench.log);
    assert!(bench.host.controllers().iter().all(|c| c.state() == State::Live));
    assert_eq!(bench.channel.parked(), 0);
}

#[test]
fn a_request_that_no_path_can_move_fails_and_says_so() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.most = SMALL);
    bench.connect("a");
    let head = bench.head(1).unwrap();
    write(&mut bench, &head, 1, LARGE);
    // Others are not held up by it, before or after.
    write(&mut bench, &head, 2, SMALL);
    bench.settle();
    let large = bench.done.iter().position(|d| d.user_data == 1).expect("it has ended");
    let large = bench.done.remove(large);
    let Err(error) = large.result else { panic!("it cannot have been written") };
    assert!(matches!(*error, IoError::TooLarge { len: LARGE, .. }), "{error}");
    assert!(error.to_string().contains(head.name()), "{error}");
    assert_eq!((large.buffer.len(), large.uncertain), (LARGE, false));
    assert_eq!(bench.one().result, Ok(()));
    write(&mut bench, &head, 3, SMALL);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    assert_eq!(executed(&bench, "a"), 2);
    in_peace(&bench);
}

#[test]
fn a_request_goes_to_the_path_that_can_move_it_by_every_policy() {
    for policy in [
        PathPolicy::RoundRobin,
        PathPolicy::Numa,
        PathPolicy::QueueDepth,
        PathPolicy::ActivePassive,
        PathPolicy::ServiceTime,
    ] {
        let (mut bench, head) = uneven();
        head.set_policy(Some(policy));
        bench.settle();
        for user in 0..20 {
            write(&mut bench, &head, user, LARGE);
        }
        bench.settle();
        assert_eq!(bench.done.len(), 20, "{policy:?}");
        assert!(bench.done.drain(..).all(|d| d.result.is_ok()), "{policy:?}");
        assert_eq!((executed(&bench, "a"), executed(&bench, "b")), (0, 20), "{policy:?}");
        in_peace(&bench);
    }
}

#[test]
fn small_requests_use_both_paths_meanwhile() {
    let (mut bench, head) = uneven();
    for user in 0..40 {
        write(&mut bench, &head, user, if user % 3 == 0 { LARGE } else { SMALL });
    }
    bench.settle();
    assert_eq!(bench.done.len(), 40);
    assert!(bench.done.drain(..).all(|d| d.result.is_ok()));
    let (a, b) = (executed(&bench, "a"), executed(&bench, "b"));
    assert!(a > 0 && b >= 14 && a + b == 40, "{a} and {b}");
    in_peace(&bench);
}

#[test]
fn a_path_of_a_lower_rank_will_do() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| (a.most, a.ana) = (SMALL, Some([(1, 1)].into())));
    bench.world.port("b", |b| b.ana = Some([(1, 2)].into()));
    bench.connect("a");
    bench.connect("b");
    let head = bench.head(1).unwrap();
    write(&mut bench, &head, 1, LARGE);
    write(&mut bench, &head, 2, SMALL);
    bench.settle();
    assert!(bench.done.drain(..).all(|d| d.result.is_ok()));
    assert_eq!((executed(&bench, "a"), executed(&bench, "b")), (1, 1));
}

#[test]
fn it_waits_for_room_on_the_path_that_can_move_it() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.most = SMALL);
    bench.world.port("b", |b| b.io = Io::Hold);
    bench.connect("a");
    let mut few = quiet();
    few.io_entries = 16;
    bench.connect_with("b", few);
    let head = bench.head(1).unwrap();
    for user in 0..40 {
        write(&mut bench, &head, user, LARGE);
    }
    bench.settle();
    assert_eq!((bench.done.len(), bench.world.held("b")), (0, 15));
    for round in 0..3 {
        bench.world.release("b", Status::SUCCESS);
        bench.settle();
        assert_eq!(bench.done.len(), (15 * (round + 1)).min(40));
    }
    assert!(bench.done.drain(..).all(|d| d.result.is_ok()));
    assert_eq!((executed(&bench, "a"), executed(&bench, "b")), (0, 40));
    in_peace(&bench);
}

#[test]
fn one_that_was_sent_on_a_path_that_is_lost_waits_for_it_and_fails_when_it_is_given_up() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.most = SMALL);
    bench.connect("a");
    let mut impatient = quiet();
    impatient.ctrl_loss_tmo = Some(Duration::from_secs(5));
    bench.connect_with("b", impatient);
    let head = bench.head(1).unwrap();
    bench.world.port("b", |b| b.io = Io::Hold);
    write(&mut bench, &head, 1, LARGE);
    bench.settle();
    assert_eq!(bench.world.held("b"), 1);
    bench.world.pull("b");
    bench.run(Duration::from_secs(3));
    assert_eq!((bench.done.len(), bench.channel.parked()), (0, 1));
    bench.run(Duration::from_secs(3));
    let done = bench.one();
    assert!(matches!(done.result, Err(e) if matches!(*e, IoError::TooLarge { .. })));
    assert!(done.uncertain, "it may have been executed on the path that was lost");
    assert_eq!(bench.host.controllers()[0].state(), State::Live);
}

/// MDTS of 8 KiB and of 64 KiB.
const MDTS: (u8, u8) = (1, 4);

/// Two paths whose controllers tell how much they move at once; `b`, which moves [`LARGE`], has a request
/// of that size, accepted before `a`, which does not, was there.
fn outgrown(options: ControllerOptions, limit: Option<Duration>) -> (Bench, Arc<Head>) {
    let mut bench = Bench::new();
    bench.world.port("a", |a| (a.mdts, a.ana) = (MDTS.0, Some([(1, 1)].into())));
    bench.world.port("b", |b| (b.mdts, b.ana) = (MDTS.1, Some([(1, 1)].into())));
    bench.connect_with("b", options);
    let head = bench.head(1).unwrap();
    assert_eq!(head.geometry().max_transfer, LARGE);
    bench.world.port("b", |b| b.io = Io::Hold);
    let request = IoRequest::write(0, vec![1; LARGE].into(), 1);
    let request = limit.into_iter().fold(request, IoRequest::timeout);
    bench.channel.submit(&head, request).unwrap();
    bench.settle();
    bench.connect("a");
    // What the head takes is what each of its paths does, those that are away included.
    assert_eq!(head.geometry().max_transfer, 4096 << MDTS.0);
    let refused = bench.channel.submit(&head, IoRequest::write(0, vec![2; LARGE].into(), 2));
    let reason = refused.unwrap_err().reason;
    assert_eq!(reason, SubmitReason::TooLarge { len: LARGE, max: 4096 << MDTS.0 });
    assert_eq!(bench.world.held("b"), 1);
    (bench, head)
}

#[test]
fn one_that_the_other_path_does_not_take_waits_for_the_one_that_does() {
    let (mut bench, head) = outgrown(quiet(), None);
    bench.world.pull("b");
    bench.run(Duration::from_secs(30));
    assert_eq!((bench.done.len(), bench.channel.parked()), (0, 1), "{:?}", bench.done);
    assert_eq!(head.geometry().max_transfer, 4096 << MDTS.0);
    // The others go on meanwhile.
    write(&mut bench, &head, 3, SMALL);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    assert_eq!(executed(&bench, "a"), 1);
    bench.world.port("b", |b| b.io = Io::Answer);
    bench.world.plug("b");
    bench.run(Duration::from_secs(30));
    assert_eq!(bench.one().result, Ok(()));
    assert_eq!((executed(&bench, "a"), executed(&bench, "b")), (0, 1));
}

#[test]
fn it_waits_for_a_path_that_is_not_accessible_at_the_moment() {
    let (mut bench, _head) = outgrown(quiet(), None);
    bench.world.ana("b", 1, 3);
    bench.settle();
    bench.world.release("b", Status::ANA_INACCESSIBLE);
    bench.run(Duration::from_secs(10));
    assert_eq!((bench.done.len(), bench.channel.parked()), (0, 1), "{:?}", bench.done);
    bench.world.port("b", |b| b.io = Io::Answer);
    bench.world.ana("b", 1, 2);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    assert_eq!((executed(&bench, "a"), executed(&bench, "b")), (0, 1));
}

#[test]
fn it_waits_no_longer_than_for_any_path() {
    let second = Duration::from_secs(1);
    let mut given_up = quiet();
    given_up.ctrl_loss_tmo = Some(5 * second);
    let mut fails_fast = quiet();
    fails_fast.fast_io_fail_tmo = Some(5 * second);
    for (options, limit, expired) in
        [(given_up, None, false), (fails_fast, None, false), (quiet(), Some(8 * second), true)]
    {
        let (mut bench, head) = outgrown(options, limit);
        bench.world.pull("b");
        bench.run(3 * second);
        assert_eq!((bench.done.len(), bench.channel.parked()), (0, 1), "{:?}", bench.done);
        bench.run(10 * second);
        let done = bench.one();
        let Err(error) = done.result else { panic!("nobody took it") };
        match *error {
            IoError::TooLarge { len: LARGE, .. } => assert!(!expired),
            IoError::Expired { .. } => assert!(expired),
            other => panic!("{other}"),
        }
        assert_eq!((executed(&bench, "a"), bench.channel.parked()), (0, 0));
        drop(head);
    }
}

#[test]
fn it_does_not_wait_where_the_program_does_not_want_to() {
    let (mut bench, head) = outgrown(quiet(), None);
    head.set_fail_if_no_path(true);
    bench.world.pull("b");
    bench.settle();
    assert!(matches!(bench.one().result, Err(e) if matches!(*e, IoError::TooLarge { .. })));
}
