//! Requests that are handed in together, or made where they are handed in.

use std::sync::Arc;

use nvme_core::buffer::Buffer;
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io, SUBSYSTEM, TestClock, World, host_options, quiet};
use nvme_mpath::{
    BlockingError, ChannelOptions, DelayedRemoval, Geometry, Head, Host, IoRequest, SubmitError,
    SubmitReason, Window,
};

/// Writes of one block each, whose user data is the block.
fn writes(blocks: std::ops::Range<u64>) -> impl Iterator<Item = IoRequest> {
    blocks.map(|n| IoRequest::write(n, Buffer::from(vec![n as u8; 512]), n))
}

fn one_path() -> (Bench, Arc<Head>) {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).expect("a namespace");
    (bench, head)
}

#[test]
fn all_are_executed_in_their_order_and_end_once() {
    let (mut bench, head) = one_path();
    assert_eq!(bench.channel.submit_all(&head, writes(3..9)).expect("room"), 6);
    assert_eq!(bench.channel.submit_all(&head, writes(0..0)).expect("nothing"), 0);
    bench.settle();
    let mut ended: Vec<u64> = bench.done.iter().map(|done| done.user_data).collect();
    ended.sort_unstable();
    assert_eq!(ended, [3, 4, 5, 6, 7, 8]);
    assert!(bench.done.iter().all(|done| done.result.is_ok() && done.slba == done.user_data));
    let executed: Vec<_> = (3..9).map(|n| (1, 1, n, n as u8)).collect();
    bench.world.port("a", |a| assert_eq!(a.executed, executed));
}

#[test]
fn what_there_is_no_room_for_stays_in_the_iterator() {
    let (mut bench, head) = one_path();
    let mut options = ChannelOptions::default();
    options.depth = 4;
    let mut channel = bench.host.channel(options).expect("a channel");
    let mut all = writes(0..10);
    let mut done = Vec::new();
    let mut handed = Vec::new();
    while done.len() < 10 {
        handed.push(channel.submit_all(&head, all.by_ref()).expect("nothing is wrong"));
        assert!(handed.len() < 10_000, "they do not end: {done:?}");
        bench.step();
        channel.poll(&mut done);
    }
    assert_eq!((handed[0], handed.iter().sum::<usize>()), (4, 10));
    assert!(done.iter().all(|done| done.result.is_ok()), "{done:?}");
    assert!(all.next().is_none());
}

#[test]
fn one_that_cannot_be_right_is_given_back_and_ends_the_call() {
    let (mut bench, head) = one_path();
    let odd = IoRequest::write(0, Buffer::from(vec![9; 511]), 77);
    let mut all = writes(0..2).chain([odd]).chain(writes(5..7));
    let refused = bench.channel.submit_all(&head, all.by_ref()).expect_err("511 bytes");
    assert!(matches!(refused.reason, SubmitReason::Unaligned { len: 511, .. }), "{refused}");
    assert_eq!(refused.buffer.as_slice(), [9; 511]);
    assert_eq!(bench.channel.in_flight(), 2);
    assert_eq!(bench.channel.submit_all(&head, all).expect("the rest"), 2);
    bench.settle();
    bench.world.port("a", |a| {
        assert_eq!(a.executed, [(1, 1, 0, 0), (1, 1, 1, 1), (1, 1, 5, 5), (1, 1, 6, 6)]);
    });
}

#[test]
fn a_head_of_another_host_takes_none_of_them() {
    let (mut bench, _) = one_path();
    let world = World::new();
    let other = Host::new(host_options(&world, &TestClock::new())).expect("a host");
    let _ = other.connect(&format!("fake://a/{SUBSYSTEM}"), quiet()).expect("a URL");
    for _ in 0..30 {
        other.drive(Duration::ZERO);
    }
    let subsystem = nvme_core::nqn::Nqn::new(SUBSYSTEM).expect("a name");
    let foreign = other.head(&subsystem, 1).expect("a namespace");
    let refused = bench.channel.submit_all(&foreign, writes(0..3)).expect_err("another host's");
    assert_eq!((refused.reason, refused.buffer.len()), (SubmitReason::ForeignHead, 512));
    assert_eq!(bench.channel.submit_all(&foreign, writes(0..0)).expect("none"), 0);
    assert_eq!(bench.channel.in_flight(), 0);
}

#[test]
fn paths_that_came_and_went_since_are_known() {
    let mut bench = Bench::new();
    bench.host.set_delayed_removal(DelayedRemoval::after(Window::For(Duration::from_secs(5))));
    bench.connect("a");
    let head = bench.head(1).expect("a namespace");
    assert_eq!(bench.channel.submit_all(&head, writes(0..2)).expect("room"), 2);
    bench.settle();
    bench.connect("b");
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.world.port("b", |b| b.io = Io::Hold);
    assert_eq!(bench.channel.submit_all(&head, writes(2..6)).expect("room"), 4);
    bench.settle();
    bench.world.release("a", nvme_core::spec::Status::SUCCESS);
    bench.world.release("b", nvme_core::spec::Status::SUCCESS);
    bench.settle();
    // In turn.
    bench.world.port("b", |b| assert_eq!(b.executed.len(), 2, "{:?}", b.executed));
    for controller in bench.host.controllers() {
        controller.disconnect();
    }
    bench.settle();
    assert_eq!(bench.channel.submit_all(&head, writes(6..9)).expect("they wait"), 3);
    bench.settle();
    assert_eq!((bench.channel.parked(), bench.done.len()), (3, 6));
}

#[test]
fn a_request_is_checked_by_the_geometry_that_it_is_made_from() {
    let (mut bench, head) = one_path();
    // What was a block is one eighth of one in the moment in which the request is made.
    let Bench { channel, world, host, .. } = &mut bench;
    let write = |geometry: &Geometry| -> Result<_, SubmitError> {
        assert_eq!(geometry.block_size, 512);
        world.namespaces("a", |all| all.get_mut(&1).unwrap().lbads = 12);
        while head.geometry().block_size == 512 {
            host.drive(Duration::ZERO);
        }
        Ok(IoRequest::write(1, Buffer::from(vec![7; 512]), 1))
    };
    channel.submit_with(&head, write).expect("one block, when it was made");
    // The next one is made from what is so now.
    let write = |geometry: &Geometry| -> Result<_, SubmitError> {
        Ok(IoRequest::write(1, Buffer::from(vec![7; geometry.block_size as usize]), 2))
    };
    channel.submit_with(&head, write).expect("one block");
    bench.settle();
    let done: Vec<_> = bench.done.iter().map(|done| (done.user_data, done.buffer.len())).collect();
    assert_eq!(done, [(1, 512), (2, 4096)]);
}

/// What a program says of a request that it does not make, or that is not taken in.
#[derive(Debug, PartialEq)]
struct Refusal(String);

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        Self(error.to_string())
    }
}

impl From<BlockingError> for Refusal {
    fn from(error: BlockingError) -> Self {
        Self(error.to_string())
    }
}

#[test]
fn what_its_maker_refuses_is_not_handed_in() {
    let (mut bench, head) = one_path();
    let make = |geometry: &Geometry| Err(Refusal(format!("blocks of {}", geometry.block_size)));
    let refused = Refusal("blocks of 512".to_owned());
    assert_eq!(bench.channel.submit_with(&head, make).unwrap_err(), refused);
    assert_eq!(bench.channel.execute_with(&head, make).unwrap_err(), refused);
    assert_eq!(bench.channel.in_flight(), 0);
}
