//! Reads that are sent down a second path because the first takes too long.

use std::sync::Arc;

use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io};
use nvme_mpath::{ChannelOptions, Controller, Head, HedgeOptions, IoRequest, PathPolicy};

const MS: Duration = Duration::from_millis(1);

/// Two paths, a preferred; 200 reads that took 1 ms each; reads are hedged from then on.
fn bench(options: HedgeOptions) -> (Bench, Arc<Head>, [Controller; 2]) {
    let mut bench = Bench::with(|o| o.policy = PathPolicy::ActivePassive);
    let paths = [bench.connect("a"), bench.connect("b")];
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| (a.io, a.content) = (Io::Hold, 0xaa));
    bench.world.port("b", |b| b.content = 0xbb);
    head.set_hedged_reads(Some(options));
    for i in 0..200 {
        read(&mut bench, &head, i);
        bench.step();
        bench.clock.advance(MS);
        bench.world.release("a", Status::SUCCESS);
        bench.step();
    }
    assert_eq!((bench.done.len(), head.stats().hedges), (200, 0));
    bench.done.clear();
    (bench, head, paths)
}

/// Submits a read into poison; returns the address of its buffer.
fn read(bench: &mut Bench, head: &Arc<Head>, user: u64) -> usize {
    let buffer = vec![0x11; 512];
    let address = buffer.as_ptr() as usize;
    bench.channel.submit(head, IoRequest::read(user % 64, buffer.into(), user)).unwrap();
    address
}

/// Lets `time` pass in steps of 100 µs.
fn pass(bench: &mut Bench, time: Duration) {
    for _ in 0..time.as_micros() / 100 {
        bench.clock.advance(MS / 10);
        bench.step();
    }
}

#[test]
fn the_second_path_wins_and_the_buffers_are_exchanged() {
    let (mut bench, head, _) = bench(HedgeOptions::default());
    let first = read(&mut bench, &head, 1);
    pass(&mut bench, MS / 2);
    assert_eq!((head.stats().hedges, bench.done.len()), (0, 0), "not before its time");
    pass(&mut bench, MS);
    let done = bench.one();
    assert_eq!((done.user_data, done.result, done.exchanged), (1, Ok(()), true));
    let vec = done.buffer.into_vec().unwrap();
    assert!(vec.iter().all(|b| *b == 0xbb) && vec.as_ptr() as usize != first);
    let stats = head.stats();
    assert_eq!((stats.hedges, stats.hedges_won, bench.channel.in_flight()), (1, 1, 0));
    // The slow path writes into the buffer that it has, and nothing of the program's changes.
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert!(bench.done.is_empty(), "once only: {:?}", bench.done);
    assert!(vec.iter().all(|b| *b == 0xbb));
    // The next hedge gets what the slow path gave back: no memory is made or lost.
    read(&mut bench, &head, 2);
    pass(&mut bench, MS * 2);
    assert_eq!(bench.one().buffer.as_slice().as_ptr() as usize, first);
}

#[test]
fn the_first_path_wins_after_all() {
    let (mut bench, head, _) = bench(HedgeOptions::default());
    bench.world.port("b", |b| b.io = Io::Hold);
    let first = read(&mut bench, &head, 1);
    pass(&mut bench, MS * 2);
    assert_eq!((head.stats().hedges, bench.done.len()), (1, 0));
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    let done = bench.one();
    assert_eq!((done.buffer.as_slice().as_ptr() as usize, done.exchanged), (first, false));
    assert!(done.buffer.as_slice().iter().all(|b| *b == 0xaa));
    bench.world.release("b", Status::SUCCESS);
    bench.settle();
    assert!(bench.done.is_empty() && head.stats().hedges_won == 0);
    // Both at once: one completion all the same.
    read(&mut bench, &head, 2);
    pass(&mut bench, MS * 2);
    bench.world.release("a", Status::SUCCESS);
    bench.world.release("b", Status::SUCCESS);
    bench.settle();
    assert_eq!((bench.one().user_data, bench.channel.in_flight()), (2, 0));
}

#[test]
fn an_error_of_the_second_path_is_nobodys() {
    let (mut bench, head, _) = bench(HedgeOptions::default());
    let error = Status::UNRECOVERED_READ_ERROR.with_dnr();
    bench.world.port("b", |b| b.io = Io::Fail(error));
    read(&mut bench, &head, 1);
    pass(&mut bench, MS * 2);
    assert_eq!((head.stats().hedges, bench.done.len()), (1, 0));
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
}

#[test]
fn either_path_may_be_lost_at_any_time() {
    for lost in ["a", "b"] {
        for answered in [false, true] {
            let (mut bench, head, _) = bench(HedgeOptions::default());
            if !answered {
                bench.world.port("b", |b| b.io = Io::Hold);
            }
            for user in 0..4 {
                read(&mut bench, &head, user);
            }
            pass(&mut bench, MS * 2);
            assert_eq!(head.stats().hedges, 4);
            bench.world.pull(lost);
            bench.settle();
            for port in ["a", "b"] {
                bench.world.port(port, |p| p.io = Io::Answer);
                bench.world.release(port, Status::SUCCESS);
            }
            bench.settle();
            let mut users: Vec<u64> = bench.done.iter().map(|d| d.user_data).collect();
            users.sort_unstable();
            assert_eq!(users, [0, 1, 2, 3], "{lost} lost, answered: {answered}");
            for done in bench.done.drain(..) {
                assert_eq!(done.result, Ok(()));
                let byte = done.buffer.as_slice()[0];
                assert!(byte == 0xaa || byte == 0xbb, "{byte:#x} is not what a path read");
            }
            assert_eq!(bench.channel.in_flight(), 0);
        }
    }
}

#[test]
fn the_budget_bounds_the_extra_reads() {
    let mut options = HedgeOptions::default();
    (options.budget, options.burst) = (0.1, 8.0);
    let (mut bench, head, _) = bench(options);
    // The allowance is 8, and grows by a tenth of each read.
    for user in 0..100 {
        read(&mut bench, &head, user);
    }
    pass(&mut bench, MS * 3);
    let stats = head.stats();
    assert_eq!((stats.hedges, stats.hedges_denied), (8, 92));
    assert_eq!(bench.done.len(), 8);
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert_eq!((bench.done.len(), bench.channel.in_flight()), (100, 0));
}

#[test]
fn buffers_that_are_out_are_bounded_and_do_not_take_the_programs_room() {
    let (mut bench, head, paths) = bench(HedgeOptions::default());
    let mut options = ChannelOptions::default();
    (options.depth, options.hedge_buffers) = (8, 4);
    bench.channel = bench.host.channel(options).unwrap();
    bench.settle();
    for i in 0..200 {
        read(&mut bench, &head, i);
        bench.step();
        bench.clock.advance(MS);
        bench.world.release("a", Status::SUCCESS);
        bench.step();
    }
    bench.done.clear();
    for user in 0..4 {
        read(&mut bench, &head, user);
    }
    pass(&mut bench, MS * 2);
    assert_eq!((bench.done.len(), bench.channel.in_flight()), (4, 0));
    // Four buffers are owed by the slow path: no more is hedged, and eight fit all the same.
    for user in 10..18 {
        read(&mut bench, &head, user);
    }
    let extra = IoRequest::read(0, vec![0; 512].into(), 99);
    assert!(bench.channel.submit(&head, extra).is_err());
    pass(&mut bench, MS * 5);
    assert_eq!((bench.done.len(), head.stats().hedges), (4, 4));
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert_eq!((bench.done.len(), bench.channel.in_flight()), (12, 0));
    // What is owed is aborted when it is overdue, as any request is.
    bench.done.clear();
    read(&mut bench, &head, 20);
    pass(&mut bench, MS * 2);
    assert_eq!((bench.done.len(), bench.world.held("a")), (1, 1));
    bench.run(Duration::from_secs(60));
    assert_eq!((bench.world.held("a"), bench.world.port("a", |a| a.aborts)), (0, 1));
    assert_eq!((bench.done.len(), paths[0].reconnects()), (1, 0));
}

#[test]
fn nothing_but_reads_into_vectors_is_hedged_and_only_where_that_is_on() {
    let (mut bench, head, _) = bench(HedgeOptions::default());
    bench.write(&head, 1, 1);
    bench.channel.submit(&head, IoRequest::flush(2)).unwrap();
    pass(&mut bench, MS * 5);
    head.set_hedged_reads(None);
    read(&mut bench, &head, 3);
    pass(&mut bench, MS * 5);
    assert_eq!((head.stats().hedges, bench.done.len()), (0, 0));
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert_eq!(bench.done.len(), 3);
}

#[test]
fn a_cancelled_read_ends_once_however_it_is_answered() {
    let (mut bench, head, _) = bench(HedgeOptions::default());
    read(&mut bench, &head, 1);
    assert_eq!(bench.channel.cancel(1), 1);
    pass(&mut bench, MS * 2);
    assert_eq!(bench.channel.cancel_all(), 0);
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert_eq!((bench.one().user_data, bench.channel.in_flight()), (1, 0));
}

#[test]
fn a_read_is_not_sent_again_to_a_namespace_that_was_formatted_meanwhile() {
    let (mut bench, head, _) = bench(HedgeOptions::default());
    read(&mut bench, &head, 1);
    bench.step();
    assert_eq!(bench.world.held("a"), 1);
    // Eight times as many bytes would come, for the same number of blocks.
    for port in ["a", "b"] {
        bench.world.namespaces(port, |all| all.get_mut(&1).unwrap().lbads = 12);
    }
    bench.settle();
    assert_eq!(head.geometry().block_size, 4096);
    pass(&mut bench, MS * 5);
    assert_eq!((head.stats().hedges, bench.done.len(), bench.world.held("b")), (0, 0, 0));
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert_eq!((bench.one().result, bench.channel.in_flight()), (Ok(()), 0));
}
