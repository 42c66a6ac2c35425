//! I/O commands as the program made them: one path and one try, unless the program says that a command
//! is idempotent.

use std::sync::Arc;

use nvme_core::buffer::Buffer;
use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io};
use nvme_mpath::{
    BlockingError, Head, IoCompletion, IoError, IoOp, PassthroughCommand, SubmitReason,
};

const SECOND: Duration = Duration::from_secs(1);
/// A vendor's command that sends data, and one that receives some.
const SENDS: u8 = 0x81;
const RECEIVES: u8 = 0x82;

fn submit(bench: &mut Bench, head: &Arc<Head>, command: PassthroughCommand, user: u64) {
    let buffer = if command.opcode & 3 == 0 { vec![] } else { vec![user as u8; 64] };
    bench.channel.submit_passthrough(head, command, buffer.into(), user).unwrap();
    bench.settle();
}

/// Two paths, and a command in flight on `a`.
fn in_flight(command: PassthroughCommand) -> (Bench, Arc<Head>) {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    submit(&mut bench, &head, command, 7);
    bench.connect("b");
    assert_eq!((bench.world.held("a"), bench.done.len()), (1, 0));
    (bench, head)
}

fn executed(bench: &Bench, port: &str) -> usize {
    bench.world.port(port, |p| p.executed.len())
}

fn error(done: IoCompletion) -> IoError {
    *done.result.expect_err("it failed")
}

#[test]
fn a_command_goes_as_it_is() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.content = 0x5a);
    submit(&mut bench, &head, PassthroughCommand::new(SENDS).dwords([3, 0, 0, 0, 0, 0]), 9);
    let done = bench.one();
    assert_eq!((done.op, done.user_data, done.result), (IoOp::Passthrough, 9, Ok(())));
    assert_eq!((done.buffer.len(), done.uncertain), (64, false));
    bench.world.port("a", |a| assert_eq!(a.executed, [(1, SENDS, 3, 9)]));
    submit(&mut bench, &head, PassthroughCommand::new(RECEIVES), 1);
    assert_eq!(bench.one().buffer.as_slice(), [0x5a; 64]);
    submit(&mut bench, &head, PassthroughCommand::new(0x80), 2);
    assert_eq!(bench.one().result, Ok(()));
    bench.world.port("a", |a| assert_eq!(a.executed.len(), 3));
}

#[test]
fn a_command_that_was_lost_is_not_sent_again_and_its_outcome_is_unknown() {
    let (mut bench, _head) = in_flight(PassthroughCommand::new(SENDS));
    bench.world.pull("a");
    bench.run(SECOND * 5);
    let done = bench.one();
    assert_eq!((done.uncertain, done.buffer.len()), (true, 64));
    let error = error(done);
    assert!(matches!(error, IoError::OutcomeUnknown { .. }), "{error}");
    assert_eq!(executed(&bench, "b"), 0);
}

#[test]
fn one_that_is_idempotent_fails_over() {
    let (mut bench, head) = in_flight(PassthroughCommand::new(SENDS).idempotent());
    bench.world.pull("a");
    bench.run(SECOND * 5);
    let done = bench.one();
    assert_eq!((done.result, done.uncertain, done.buffer.len()), (Ok(()), false, 64));
    bench.world.port("b", |b| assert_eq!(b.executed, [(1, SENDS, 0, 7)]));
    assert_eq!(head.stats().failovers, 1);
}

#[test]
fn one_that_is_idempotent_is_held_until_the_lost_controller_is_fenced() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.cqt = 500);
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    submit(&mut bench, &head, PassthroughCommand::new(SENDS).idempotent(), 7);
    bench.connect("b");
    bench.world.pull("a");
    bench.settle();
    assert_eq!((bench.channel.held(), executed(&bench, "b")), (1, 0));
    bench.run(SECOND * 30);
    assert_eq!((bench.one().result, executed(&bench, "b")), (Ok(()), 1));
}

#[test]
fn an_error_is_the_programs_to_judge() {
    let statuses = [
        Status::NAMESPACE_NOT_READY,
        Status::INTERNAL_PATH_ERROR,
        Status::ANA_INACCESSIBLE,
        Status::INVALID_FIELD.with_dnr(),
    ];
    for status in statuses {
        let (mut bench, head) = in_flight(PassthroughCommand::new(SENDS));
        bench.world.release("a", status);
        bench.settle();
        let IoError::Status { status: told, op, .. } = error(bench.one()) else { panic!() };
        assert_eq!((told, op, executed(&bench, "b")), (status, IoOp::Passthrough, 0));
        assert_eq!((head.stats().retries, head.stats().failovers), (0, 0));

        let (mut bench, _head) = in_flight(PassthroughCommand::new(SENDS).idempotent());
        bench.world.port("a", |a| a.io = Io::Answer);
        bench.world.release("a", status);
        bench.run(SECOND);
        assert_eq!(bench.one().result.is_ok(), !status.dnr(), "{status}");
    }
}

#[test]
fn one_that_was_aborted_for_its_time_is_not_sent_again() {
    let (mut bench, _head) = in_flight(PassthroughCommand::new(SENDS));
    bench.run(SECOND * 40);
    let IoError::Status { status, .. } = error(bench.one()) else { panic!() };
    assert!(status.is(Status::ABORT_REQUESTED));
    assert_eq!(executed(&bench, "b"), 0);
}

#[test]
fn without_a_path_it_fails_at_once_unless_it_is_idempotent() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.pull("a");
    bench.settle();
    submit(&mut bench, &head, PassthroughCommand::new(0x80), 1);
    assert!(matches!(error(bench.one()), IoError::NoPath { .. }));
    let limited = PassthroughCommand::new(0x80).idempotent().timeout(SECOND / 2);
    submit(&mut bench, &head, limited, 2);
    submit(&mut bench, &head, PassthroughCommand::new(0x80).idempotent(), 3);
    assert_eq!(bench.channel.parked(), 2);
    bench.run(SECOND);
    assert!(matches!(error(bench.one()), IoError::Expired { .. }));
    bench.world.plug("a");
    bench.run(SECOND * 4);
    assert_eq!((bench.one().result, executed(&bench, "a")), (Ok(()), 1));
}

#[test]
fn one_that_waits_for_room_goes_when_there_is_some() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    for i in 0..200 {
        bench
            .channel
            .submit_passthrough(&head, PassthroughCommand::new(0x80), Buffer::empty(), i)
            .unwrap();
    }
    bench.settle();
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert!(bench.done.len() == 200 && bench.done.iter().all(|d| d.result.is_ok()));
    assert_eq!(executed(&bench, "a"), 200);
}

#[test]
fn what_cannot_be_is_refused_with_the_buffer() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    let read = |blocks: u32| PassthroughCommand::new(2).dwords([0, 0, blocks - 1, 0, 0, 0]);
    let cases = [
        (PassthroughCommand::new(0x80), 8, false),
        (PassthroughCommand::new(SENDS), 0, false),
        (PassthroughCommand::new(0x83), 8, false),
        (PassthroughCommand::new(0x7f), 8, false),
        (read(1), 512, true),
        (read(2), 512, false),
        (read(1), 1024, false),
    ];
    for (command, len, good) in cases {
        match bench.channel.submit_passthrough(&head, command, vec![1; len].into(), 1) {
            Ok(()) => assert!(good, "{command:?}"),
            Err(refused) => {
                assert!(!good && refused.buffer.len() == len, "{command:?}");
                assert!(matches!(refused.reason, SubmitReason::Command { .. }), "{refused}");
            }
        }
    }
    let most = head.geometry().max_transfer;
    let long = vec![0; most + 4].into();
    let refused = bench.channel.submit_passthrough(&head, PassthroughCommand::new(SENDS), long, 1);
    assert!(matches!(refused.unwrap_err().reason, SubmitReason::TooLarge { .. }));
}

#[test]
fn a_blocking_command_gives_the_answer_and_keeps_what_ends_meanwhile_for_the_next_poll() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.content = 0x5a);
    bench.write(&head, 1, 1);
    let receive = PassthroughCommand::new(RECEIVES);
    let (buffer, _) =
        bench.channel.execute_passthrough(&head, receive, vec![0; 64].into()).unwrap();
    assert_eq!(buffer.as_slice(), [0x5a; 64]);
    bench.settle();
    assert_eq!(bench.one().user_data, 1);
    let refused = bench.channel.execute_passthrough(&head, receive, Buffer::empty());
    assert!(matches!(refused, Err(BlockingError::Submit(_))), "{refused:?}");
}
