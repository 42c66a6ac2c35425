//! I/O commands as the program made them, to a target that loses its connection in the middle.

use std::sync::Arc;

use nvme_core::buffer::Buffer;
use nvme_core::spec::opcode::NvmOpcode;
use nvme_e2e::{ChannelExt, PORTS, Pattern, Session, Software, persistent};
use nvme_mpath::{Channel, Head, IoCompletion, IoError, PassthroughCommand};
use nvme_target::{FaultAction, FaultRule};

const LEN: usize = 4096;
const OLD: Pattern = Pattern { salt: 5, version: 1 };
const NEW: Pattern = Pattern { salt: 5, version: 2 };

/// A command for the first 4 KiB of a namespace with blocks of 512 bytes.
fn command(opcode: NvmOpcode) -> PassthroughCommand {
    PassthroughCommand::new(opcode.0).dwords([0, 0, (LEN / 512) as u32 - 1, 0, 0, 0])
}

fn run(
    channel: &mut Channel,
    head: &Arc<Head>,
    command: PassthroughCommand,
    data: Buffer,
) -> IoCompletion {
    channel.submit_passthrough(head, command, data, 1).expect("it is taken");
    let [done] = channel.finish(1).try_into().expect("one");
    done
}

fn connected() -> (Software, Session, Arc<Head>, Channel) {
    let bed = Software::new();
    let session = Session::new(&bed);
    session.connect_all(&bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, PORTS.len());
    let mut channel = session.channel();
    channel.put(&head, 0, LEN, OLD);
    (bed, session, head, channel)
}

#[test]
fn what_is_written_by_passthrough_is_read_and_the_other_way_round() {
    let (_bed, session, head, mut channel) = connected();
    let done = run(&mut channel, &head, command(NvmOpcode::READ), Buffer::zeroed(LEN));
    assert_eq!((&done.result, OLD.difference(0, done.buffer.as_slice())), (&Ok(()), None));
    let done = run(&mut channel, &head, command(NvmOpcode::WRITE), NEW.bytes(0, LEN).into());
    assert_eq!(done.result, Ok(()));
    channel.check(&head, 0, LEN, NEW);
    session.shutdown();
}

#[test]
fn what_was_lost_may_have_been_executed_and_is_not_sent_again() {
    // The target executes it, or not, and closes the connection: from here that looks the same.
    for (fault, executed) in [(FaultAction::CloseAfter, true), (FaultAction::CloseBefore, false)] {
        let (bed, session, head, mut channel) = connected();
        let rule = FaultRule::new(fault).io().opcode(NvmOpcode::WRITE.0);
        let fault = bed.target.add_fault(rule);
        let done = run(&mut channel, &head, command(NvmOpcode::WRITE), NEW.bytes(0, LEN).into());
        let error = done.result.expect_err("its connection was lost");
        assert!(matches!(*error, IoError::OutcomeUnknown { .. }), "{error}");
        assert!(done.uncertain && done.buffer.len() == LEN);
        assert_eq!(bed.target.fault_hits(fault), Some(1), "sent once");
        let _ = bed.target.remove_fault(fault);
        channel.check(&head, 0, LEN, if executed { NEW } else { OLD });
        session.shutdown();
    }
}

#[test]
fn what_is_idempotent_fails_over() {
    for fault in [FaultAction::CloseAfter, FaultAction::CloseBefore] {
        let (bed, session, head, mut channel) = connected();
        let rule = FaultRule::new(fault).io().opcode(NvmOpcode::WRITE.0).times(1);
        let fault = bed.target.add_fault(rule);
        let write = command(NvmOpcode::WRITE).idempotent();
        let done = run(&mut channel, &head, write, NEW.bytes(0, LEN).into());
        assert_eq!((&done.result, done.uncertain), (&Ok(()), false));
        assert_eq!(bed.target.fault_hits(fault), Some(1));
        assert!(head.stats().failovers > 0, "{:?}", head.stats());
        channel.check(&head, 0, LEN, NEW);
        session.shutdown();
    }
}

#[test]
fn an_answer_is_the_programs_to_judge() {
    let (_bed, session, head, mut channel) = connected();
    let unknown = run(&mut channel, &head, PassthroughCommand::new(0x80), Buffer::empty());
    let error = unknown.result.expect_err("no such command");
    assert!(matches!(*error, IoError::Status { .. }), "{error}");
    // A comparison with what is not there.
    let differs = run(&mut channel, &head, command(NvmOpcode::COMPARE), NEW.bytes(0, LEN).into());
    assert!(matches!(*differs.result.expect_err("it differs"), IoError::Status { .. }));
    channel.check(&head, 0, LEN, OLD);
    session.shutdown();
}
