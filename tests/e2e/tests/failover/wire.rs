//! A controller that breaks the protocol costs its association, and no request.
use nvme_core::spec::opcode::NvmOpcode;
use nvme_e2e::{Bed, Load, Session, Software, persistent, wait_until};
use nvme_target::{BadPdu, FaultAction, FaultRule};

const LEN: usize = 16 << 10;

/// Each fault meets one read and one write on one path under load.
fn survives(faults: &[FaultAction], parameters: &str) {
    let bed = Software::new();
    let session = Session::new(&bed);
    let controller = session.connect_url(&format!("{}{parameters}", bed.url(1)), &persistent());
    session.connect_url(&format!("{}{parameters}", bed.url(2)), &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 8, LEN);
    load.wait_more(10);
    for fault in faults {
        for opcode in [NvmOpcode::READ, NvmOpcode::WRITE] {
            let before = controller.reconnects();
            let rule = FaultRule::new(fault.clone()).listener(0).io().opcode(opcode.0).times(1);
            let id = bed.target.add_fault(rule);
            let what = format!("{fault:?} of {opcode:?}");
            wait_until(&what, || bed.target.fault_hits(id) > Some(0));
            wait_until(&format!("the loss after {what}"), || controller.reconnects() > before);
            session.wait_usable(&head, 2);
            load.wait_more(10);
            let _ = bed.target.remove_fault(id);
        }
    }
    load.stop().assert_clean();
    session.shutdown();
}

#[test]
fn connections_that_close_at_a_command() {
    survives(&[FaultAction::CloseBefore, FaultAction::CloseAfter], "");
}

#[test]
fn answers_that_are_wrong() {
    let faults = [FaultAction::AnswerTwice, FaultAction::StaleCommandId(0x8000)];
    survives(&faults, "");
}

#[test]
fn digests_that_are_wrong() {
    survives(&[FaultAction::CorruptHeaderDigest], "?hdgst=1&ddgst=1");
}

#[test]
fn pdus_that_are_wrong() {
    let faults = [
        BadPdu::UnknownType,
        BadPdu::WrongDirection,
        BadPdu::SecondIcResp,
        BadPdu::HeaderLength,
        BadPdu::LengthTooShort,
        BadPdu::LengthTooLong,
        BadPdu::HeaderDigestFlag,
        BadPdu::DataDigestFlag,
        BadPdu::DataOffset,
        BadPdu::DataUnknownCommand,
        BadPdu::DataPastEnd,
        BadPdu::DataOffsetSkips,
        BadPdu::DataEmpty,
        BadPdu::SuccessWithoutLast,
        BadPdu::UnknownCommand,
        BadPdu::R2tUnexpected,
        BadPdu::R2tEmpty,
        BadPdu::R2tPastEnd,
        BadPdu::R2tUnknownCommand,
        BadPdu::TermReq,
    ];
    survives(&faults.map(FaultAction::BadPdu), "");
}

/// A wrong data digest, or data that end early, cost only the command: it is sent again.
#[test]
fn data_that_are_wrong() {
    let bed = Software::new();
    let session = Session::new(&bed);
    for port in [1, 2] {
        session.connect_url(&format!("{}?ddgst=1", bed.url(port)), &persistent());
    }
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 8, LEN);
    for fault in [FaultAction::CorruptDataDigest, FaultAction::ShortRead(512)] {
        for _ in 0..4 {
            let rule = FaultRule::new(fault.clone()).io().opcode(NvmOpcode::READ.0).times(1);
            let id = bed.target.add_fault(rule);
            wait_until("the fault", || bed.target.fault_hits(id) > Some(0));
            load.wait_more(30);
        }
    }
    session.wait_usable(&head, 2);
    load.stop().assert_clean();
    session.shutdown();
}
