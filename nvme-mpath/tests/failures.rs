//! What a host does when things go wrong in the order that nobody expects: over a transport whose
//! every answer the test controls, and with a clock of the test's own.

use std::sync::Arc;

use nvme_core::controller::{RemovedCause, State};
use nvme_core::nqn::Nqn;
use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io, Ns, SUBSYSTEM, TestClock, World, host_options, quiet};
use nvme_mpath::{
    ChannelOptions, DelayedRemoval, Event, Host, IoError, IoRequest, SubmitReason, Window,
};

const SECOND: Duration = Duration::from_secs(1);

fn window(bench: &Bench, seconds: u32) {
    bench.host.set_delayed_removal(DelayedRemoval::after(Window::For(SECOND * seconds)));
}

#[test]
fn a_namespace_becomes_a_head_and_takes_io() {
    let mut bench = Bench::new();
    let controller = bench.connect("a");
    assert_eq!(controller.state(), State::Live, "{:?}", controller.last_error());
    let head = bench.head(1).unwrap();
    bench.write(&head, 5, 7);
    bench.settle();
    let done = bench.one();
    assert_eq!((done.user_data, done.result, done.buffer.len()), (7, Ok(()), 512));
    bench.world.port("a", |a| assert_eq!(a.executed, [(1, 1, 5, 7)]));
}

#[test]
fn what_is_in_flight_at_a_disconnect_waits_for_the_window() {
    let mut bench = Bench::new();
    window(&bench, 5);
    let a = bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 1);
    bench.settle();
    a.disconnect();
    bench.settle();
    // It may still be answered: the controller is told to shut down when its queues are back.
    assert_eq!((a.state(), bench.host.pin_count()), (State::Live, 0));
    bench.run(SECOND);
    assert!(bench.done.is_empty(), "{:?}", bench.done);
    assert_eq!((bench.host.pin_count(), bench.channel.parked()), (1, 1));
    bench.connect("b");
    assert_eq!((bench.one().result, bench.host.pin_count()), (Ok(()), 0));
}

#[test]
fn what_is_in_flight_at_a_disconnect_may_end_in_peace() {
    let mut bench = Bench::new();
    let (a, _) = (bench.connect("a"), bench.connect("b"));
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.world.port("b", |b| b.io = Io::Hold);
    for i in 0..2 {
        bench.write(&head, i, i);
    }
    bench.settle();
    a.disconnect();
    bench.settle();
    bench.write(&head, 2, 2);
    bench.settle();
    assert!(bench.done.is_empty(), "{:?}", bench.done);
    for name in ["a", "b"] {
        bench.world.port(name, |port| port.io = Io::Answer);
        bench.world.release(name, Status::SUCCESS);
    }
    bench.settle();
    assert_eq!(bench.done.len(), 3);
    assert!(bench.done.iter().all(|d| d.result.is_ok()), "{:?}", bench.done);
    bench.world.port("a", |a| assert_eq!(a.executed.len(), 1, "what it had, and no more"));
    assert_eq!((head.stats().failovers, a.removed()), (0, Some(RemovedCause::Deleted)));
}

#[test]
fn nothing_is_sent_to_a_controller_that_was_told_to_shut_down() {
    let mut bench = Bench::new();
    let (a, _) = (bench.connect("a"), bench.connect("b"));
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.slow_shutdown = true);
    a.disconnect();
    bench.settle();
    assert_eq!(a.state(), State::Deleting);
    for i in 0..8 {
        bench.write(&head, i, i);
        bench.settle();
    }
    bench.world.port("a", |a| assert!(a.executed.is_empty()));
    assert_eq!(bench.done.len(), 8);
}

#[test]
fn a_path_comes_back_although_the_log_says_what_it_said_before() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.ana = Some([(1, 1)].into()));
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Fail(Status::ANA_TRANSITION));
    bench.write(&head, 1, 1);
    bench.step();
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    assert!(head.paths()[0].usable);
}

#[test]
fn an_ana_error_of_a_controller_without_ana_is_not_for_ever() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Fail(Status::ANA_INACCESSIBLE));
    bench.write(&head, 1, 1);
    bench.step();
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    assert!(head.paths()[0].usable);
}

#[test]
fn many_ana_errors_make_one_reading_of_the_log() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.ana = Some([(1, 1)].into()));
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    for i in 0..100 {
        bench.write(&head, i, i);
    }
    bench.settle();
    let before = bench.world.port("a", |a| a.log_reads);
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.world.release("a", Status::ANA_TRANSITION);
    bench.settle();
    assert_eq!(bench.done.len(), 100);
    assert!(bench.world.port("a", |a| a.log_reads) <= before + 2);
}

#[test]
fn a_head_of_another_host_is_refused_and_not_taken_for_ones_own() {
    let mut bench = Bench::new();
    bench.connect("a");
    let world = World::new();
    world.port("a", |a| {
        a.namespaces.clear();
        a.namespaces.insert(9, Ns::new(9));
    });
    let other = Host::new(host_options(&world, &TestClock::new())).unwrap();
    let _ = other.connect(&format!("fake://a/{SUBSYSTEM}"), quiet()).unwrap();
    for _ in 0..30 {
        other.drive(Duration::ZERO);
    }
    let foreign = other.head(&Nqn::new(SUBSYSTEM).unwrap(), 9).unwrap();
    let refused = bench.channel.submit(&foreign, IoRequest::flush(1)).unwrap_err();
    assert_eq!(refused.reason, SubmitReason::ForeignHead);
    let head = bench.head(1).unwrap();
    bench.write(&head, 1, 2);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    bench.world.port("a", |a| assert_eq!(a.executed, [(1, 1, 1, 2)]));
}

#[test]
fn what_would_be_tried_again_ends_at_once_when_the_host_ends() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| (a.io, a.slow_shutdown) = (Io::Hold, true));
    bench.write(&head, 1, 1);
    bench.settle();
    bench.host.begin_shutdown(false).unwrap();
    bench.settle();
    assert!(bench.done.is_empty(), "it is in a queue still");
    // There is no other path: it would be sent again after a while.
    bench.world.release("a", Status::INTERNAL_PATH_ERROR);
    bench.settle();
    let error = bench.one().result.unwrap_err();
    assert!(matches!(*error, IoError::Shutdown { .. }), "{error}");
    assert_eq!(bench.channel.deadline(), None);
}

#[test]
fn a_shutdown_gives_every_buffer_back() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    for i in 0..3 {
        bench.write(&head, i, i);
    }
    bench.settle();
    assert_eq!(bench.world.held("a"), 3);
    bench.host.shutdown().unwrap();
    bench.settle();
    assert_eq!(bench.done.len(), 3);
    for done in &bench.done {
        assert!(matches!(done.result.as_ref().unwrap_err().as_ref(), IoError::Shutdown { .. }));
        assert_eq!(done.buffer.len(), 512);
    }
}

#[test]
fn a_head_whose_queues_are_full_does_not_hold_up_another() {
    let mut bench = Bench::new();
    bench.connect("a");
    bench.world.port("b", |b| {
        b.namespaces.clear();
        b.namespaces.insert(2, Ns::new(2));
    });
    bench.connect("b");
    let (one, two) = (bench.head(1).unwrap(), bench.head(2).unwrap());
    bench.world.port("a", |a| a.io = Io::Hold);
    for i in 0..200 {
        bench.write(&one, i, i);
    }
    bench.write(&two, 1, 1000);
    bench.settle();
    assert_eq!(bench.one().user_data, 1000);
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    let order: Vec<u64> = bench.world.port("a", |a| a.executed.iter().map(|e| e.2).collect());
    assert_eq!(order, (0..200).collect::<Vec<_>>(), "requests that waited keep their order");
    assert_eq!(bench.done.len(), 200);
}

#[test]
fn a_channel_that_closes_while_its_queue_is_opened_costs_nothing() {
    let mut bench = Bench::new();
    let a = bench.connect("a");
    bench.world.port("a", |a| a.hold_io_connect = true);
    let second = bench.host.channel(ChannelOptions::default()).unwrap();
    bench.settle();
    drop(second);
    bench.world.port("a", |a| a.hold_io_connect = false);
    bench.run(100 * SECOND);
    assert_eq!((a.state(), a.reconnects()), (State::Live, 0), "{:?}", a.last_error());
    let third = bench.host.channel(ChannelOptions::default()).unwrap();
    bench.settle();
    drop(third);
    assert_eq!(a.state(), State::Live);
}

#[test]
fn a_queue_that_came_free_is_given_to_the_next_channel() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.granted = 2);
    bench.connect("a");
    let head = bench.head(1).unwrap();
    for round in 0..4 {
        let mut second = bench.host.channel(ChannelOptions::default()).unwrap();
        bench.settle();
        second.submit(&head, IoRequest::flush(round)).unwrap();
        let mut done = Vec::new();
        for _ in 0..10 {
            second.poll(&mut done);
            bench.step();
        }
        assert_eq!(done.len(), 1);
        assert_eq!(done[0].result, Ok(()), "round {round}");
        drop(second);
        bench.settle();
    }
}

#[test]
fn a_request_is_not_sent_to_a_namespace_that_was_formatted_meanwhile() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.pull("a");
    bench.step();
    bench.write(&head, 8, 1);
    bench.world.port("a", |a| a.namespaces.get_mut(&1).unwrap().lbads = 12);
    bench.world.plug("a");
    bench.run(5 * SECOND);
    assert_eq!(head.geometry().block_size, 4096);
    assert!(bench.one().result.is_err());
    bench.world.port("a", |a| assert!(a.executed.is_empty(), "{:?}", a.executed));
}

#[test]
fn a_path_error_goes_elsewhere_even_to_a_worse_path() {
    let mut bench = Bench::new();
    for (port, state) in [("a", 1), ("b", 2)] {
        bench.world.port(port, |p| p.ana = Some([(1, state)].into()));
        bench.connect(port);
    }
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Fail(Status::INTERNAL_PATH_ERROR));
    bench.write(&head, 1, 1);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    bench.world.port("b", |b| assert_eq!(b.executed.len(), 1));
}

#[test]
fn a_resize_told_by_the_first_path_alone_is_seen() {
    let mut bench = Bench::new();
    bench.connect("a");
    bench.connect("b");
    let head = bench.head(1).unwrap();
    bench.world.namespaces("a", |n| n.get_mut(&1).unwrap().blocks = 4096);
    bench.settle();
    assert_eq!(head.geometry().blocks, 4096);
}

#[test]
fn a_namespace_that_was_refused_is_taken_when_the_one_in_its_way_is_pending() {
    let mut bench = Bench::new();
    window(&bench, 10);
    for port in ["a", "b"] {
        bench.world.port(port, |p| p.namespaces.get_mut(&1).unwrap().shared = false);
    }
    let a = bench.connect("a");
    bench.connect("b");
    let head = bench.head(1).unwrap();
    assert_eq!(bench.count(|e| matches!(e, Event::NamespaceRefused { .. })), 1);
    a.disconnect();
    bench.settle();
    assert_eq!((head.paths().len(), bench.host.pin_count()), (1, 0));
}

#[test]
fn a_wait_for_ever_does_not_overflow() {
    let bench = Bench::new();
    let (world, clock) = (World::new(), TestClock::new());
    let mut options = host_options(&world, &clock);
    options.control_thread = true;
    let host = Host::new(options).unwrap();
    let events = host.events(4);
    let controller = host.connect(&format!("fake://a/{SUBSYSTEM}"), quiet()).unwrap();
    controller.wait_ready(Duration::MAX).unwrap();
    assert!(events.next_timeout(Duration::MAX).is_some());
    host.shutdown_forced(Duration::MAX).unwrap();
    drop(bench);
}

#[test]
fn nothing_is_waited_for_on_a_host_that_has_ended() {
    let mut bench = Bench::new();
    let a = bench.connect("a");
    bench.host.shutdown().unwrap();
    let began = std::time::Instant::now();
    let sqe = nvme_core::spec::Sqe::keep_alive();
    assert!(a.admin(sqe, nvme_core::transport::Data::None, 60 * SECOND).is_err());
    assert!(began.elapsed() < 30 * SECOND);
}

#[test]
fn a_driven_host_that_is_dropped_leaves_nothing_behind() {
    let mut bench = Bench::new();
    window(&bench, 10);
    bench.connect("a");
    let b = bench.connect("b");
    let head = bench.head(1).unwrap();
    for port in ["a", "b"] {
        bench.world.port(port, |a| a.io = Io::Hold);
    }
    bench.write(&head, 1, 1);
    bench.write(&head, 1, 2);
    bench.settle();
    let Bench { world, host, mut channel, mut done, .. } = bench;
    drop(host);
    assert!(b.removed().is_some());
    channel.poll(&mut done);
    channel.poll(&mut done);
    assert_eq!(done.len(), 2);
    assert!(done.iter().all(|d| d.result.is_err() && d.buffer.len() == 512));
    drop((channel, b, head));
    assert_eq!(Arc::strong_count(&world), 1, "the world is still held");
}

#[test]
fn a_channel_opened_just_before_a_driven_host_is_dropped_is_told() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    // The control plane has not heard of it, and will not be driven any more.
    let mut late = bench.host.channel(ChannelOptions::default()).unwrap();
    late.submit(&head, IoRequest::write(0, vec![1; 512].into(), 7)).unwrap();
    let Bench { host, mut done, .. } = bench;
    late.poll(&mut done);
    assert_eq!((done.len(), late.parked()), (0, 1));
    drop(host);
    late.poll(&mut done);
    assert!(matches!(&done[..], [d] if d.user_data == 7 && d.result.is_err()), "{done:?}");
}

#[test]
fn a_channel_that_is_never_polled_does_not_collect_queues() {
    let mut bench = Bench::new();
    let a = bench.connect("a");
    let _lazy = bench.host.channel(ChannelOptions::default()).unwrap();
    bench.settle();
    for _ in 0..20 {
        a.reset("again");
        bench.run(3 * SECOND);
        assert_eq!(a.state(), State::Live);
    }
    let open = bench.world.port("a", |a| a.links.iter().filter(|l| !l.lock().dropped).count());
    let all = bench.world.port("a", |a| a.queues_not_dropped());
    assert_eq!((open, all), (3, 3));
}

#[test]
fn an_ana_transition_without_end_resets_the_controller() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| (a.ana, a.anatt) = (Some([(1, 1)].into()), 5));
    let a = bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.ana("a", 1, 0xf);
    bench.settle();
    assert!(!head.paths()[0].usable);
    bench.write(&head, 1, 1);
    bench.run(SECOND * 9);
    assert_eq!((a.reconnects(), bench.done.len()), (0, 0));
    bench.run(SECOND * 4);
    assert_eq!((a.reconnects(), bench.done.len()), (1, 0));
    bench.world.ana("a", 1, 1);
    bench.settle();
    assert_eq!((bench.one().result, a.reconnects()), (Ok(()), 1));
}
