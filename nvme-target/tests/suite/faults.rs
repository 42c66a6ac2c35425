//! Every fault does what it says, to what it was asked to, and counts that.

use std::io::Write;
use std::time::{Duration, Instant};

use nvme_core::spec::command::GetLogPage;
use nvme_core::spec::fabrics::{PropertySize, property};
use nvme_core::spec::log::{AnaLog, lid};
use nvme_core::spec::opcode::{AdminOpcode, FabricsType, NvmOpcode};
use nvme_core::spec::tcp::{CapsuleCmd, DigestFlags, IcReq, PduFlags, PduType};
use nvme_core::spec::{BlockCount, SglDescriptor, Sqe, Status};
use nvme_target::{BadIcResp, BadPdu, FaultAction, FaultId, FaultRule, Target};
use zerocopy::IntoBytes;

use crate::host::{Host, NQN, Pdu, Queue, raw, target, until};

const DIGESTS: DigestFlags = DigestFlags::HEADER.union(DigestFlags::DATA);

/// A target whose next read on an I/O queue meets `action`, and a connected queue.
fn faulty(action: FaultAction, digests: DigestFlags) -> (Target, FaultId, Host, Queue) {
    let target = target();
    let host = Host::with(target.addr(0).unwrap(), NQN, digests, 0);
    let queue = host.queue(1);
    let rule = FaultRule::new(action).io().opcode(NvmOpcode::READ.0).times(1);
    let id = target.add_fault(rule);
    (target, id, host, queue)
}

fn read() -> Sqe {
    Sqe::read(1, 0, BlockCount::ONE)
}

fn read_on(queue: &mut Queue) -> u16 {
    queue.send_transport(read(), 512)
}

/// Does a read, which meets no fault any more.
fn works(queue: &mut Queue) {
    let (data, cqe) = queue.fetch(read(), 512);
    assert_eq!(data.len(), 512);
    assert!(cqe.unwrap().status().is_success());
}

#[test]
fn a_dropped_command_is_never_answered() {
    for action in [FaultAction::Drop, FaultAction::DropAnswer] {
        let (target, id, _host, mut queue) = faulty(action, DIGESTS);
        read_on(&mut queue);
        works(&mut queue);
        assert_eq!(target.fault_hits(id), Some(1));
        assert_eq!(target.remove_fault(id), Some(1));
        assert_eq!(target.fault_hits(id), None);
    }
}

#[test]
fn a_dropped_write_is_executed_or_not_as_the_action_says() {
    let target = target();
    let host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    for (action, expected) in [(FaultAction::Drop, [0; 512]), (FaultAction::DropAnswer, [9; 512])] {
        target.add_fault(FaultRule::new(action).opcode(NvmOpcode::WRITE.0).io().times(1));
        queue.send_in_capsule(Sqe::write(1, 0, BlockCount::ONE), &[9; 512]);
        assert_eq!(queue.fetch(read(), 512).0, expected);
    }
}

#[test]
fn a_delayed_command_is_overtaken() {
    // long enough for the next command to get there first on any machine
    let delay = Duration::from_secs(1);
    let (target, id, _host, mut queue) = faulty(FaultAction::Delay(delay), DIGESTS);
    let start = Instant::now();
    let late = read_on(&mut queue);
    works(&mut queue);
    assert_eq!(queue.pdu().data_header().cccid.get(), late);
    assert!(queue.response(late).status().is_success());
    assert!(start.elapsed() >= delay);
    assert_eq!(target.fault_hits(id), Some(1));
}

#[test]
fn a_command_fails_with_the_status_asked_for() {
    let status = Status::NAMESPACE_NOT_READY.with_crd(2);
    let (_target, _, _host, mut queue) = faulty(FaultAction::Fail(status), DIGESTS);
    assert_eq!(queue.run(read()).status(), status);
    works(&mut queue);
}

#[test]
fn digests_are_corrupted_one_at_a_time() {
    let (_target, _, _host, mut queue) = faulty(FaultAction::CorruptDataDigest, DIGESTS);
    let cid = read_on(&mut queue);
    let pdu = queue.pdu();
    assert_ne!(pdu.data_digest.unwrap(), crc_fast::crc32_iscsi(&pdu.data).to_le_bytes());
    assert!(header_digest_is_right(&pdu));
    assert!(queue.response(cid).status().is_success());
    works(&mut queue);

    let (_target, _, _host, mut queue) = faulty(FaultAction::CorruptHeaderDigest, DIGESTS);
    read_on(&mut queue);
    let pdu = queue.pdu();
    assert_eq!(pdu.data_digest.unwrap(), crc_fast::crc32_iscsi(&pdu.data).to_le_bytes());
    assert!(!header_digest_is_right(&pdu));
    assert!(header_digest_is_right(&queue.pdu()));
}

fn header_digest_is_right(pdu: &Pdu) -> bool {
    let hlen = usize::from(pdu.header.hlen);
    pdu.head[hlen..hlen + 4] == crc_fast::crc32_iscsi(&pdu.head[..hlen]).to_le_bytes()
}

#[test]
fn connections_close_before_or_after_a_write_is_executed() {
    for (action, expected) in
        [(FaultAction::CloseBefore, [0; 512]), (FaultAction::CloseAfter, [9; 512])]
    {
        let target = target();
        let host = Host::new(target.addr(0).unwrap());
        let mut queue = host.queue(1);
        target.add_fault(FaultRule::new(action).opcode(NvmOpcode::WRITE.0).io().times(1));
        queue.send_in_capsule(Sqe::write(1, 0, BlockCount::ONE), &[9; 512]);
        assert!(queue.recv().is_none(), "closed without an answer");
        assert_eq!(host.queue(2).fetch(read(), 512).0, expected);
    }
}

#[test]
fn an_answer_comes_twice_or_under_another_identifier() {
    let (_target, _, _host, mut queue) = faulty(FaultAction::AnswerTwice, DIGESTS);
    let cid = read_on(&mut queue);
    assert_eq!(queue.pdu().data_header().cccid.get(), cid);
    assert_eq!([queue.pdu().cqe().cid.get(), queue.pdu().cqe().cid.get()], [cid, cid]);
    works(&mut queue);

    let (_target, _, _host, mut queue) = faulty(FaultAction::StaleCommandId(0x1000), DIGESTS);
    let cid = read_on(&mut queue);
    assert_eq!(queue.pdu().data_header().cccid.get(), cid);
    assert_eq!(queue.pdu().cqe().cid.get(), cid ^ 0x1000);
}

#[test]
fn pdus_are_cut_at_any_byte() {
    // C2HData: 24 bytes of header, 4 of digest, 512 of data, 4 of digest; then the response of 28
    for (pdu, bytes, before) in [
        (PduType::C2H_DATA, 0, 0),
        (PduType::C2H_DATA, 7, 0),
        (PduType::C2H_DATA, 24, 0),
        (PduType::C2H_DATA, 28, 0),
        (PduType::C2H_DATA, 540, 0),
        (PduType::C2H_DATA, 10_000, 0),
        (PduType::CAPSULE_RESP, 0, 544),
        (PduType::CAPSULE_RESP, 20, 544),
        (PduType::CAPSULE_RESP, 28, 544),
    ] {
        let (target, id, _host, mut queue) =
            faulty(FaultAction::TruncateAt { pdu, bytes }, DIGESTS);
        read_on(&mut queue);
        let mut received = Vec::new();
        std::io::Read::read_to_end(&mut queue.socket, &mut received).unwrap();
        let whole = if pdu == PduType::C2H_DATA { 544 } else { 28 };
        assert_eq!(received.len(), before + bytes.min(whole), "{pdu:?} at {bytes}");
        assert_eq!(target.fault_hits(id), Some(1));
    }
    let target = target();
    target.add_fault(FaultRule::new(FaultAction::TruncateAt { pdu: PduType::IC_RESP, bytes: 100 }));
    let mut socket = raw(target.addr(0).unwrap());
    socket.write_all(IcReq::new(0, DIGESTS, 0).as_bytes()).unwrap();
    let mut received = Vec::new();
    std::io::Read::read_to_end(&mut socket, &mut received).unwrap();
    assert_eq!(received.len(), 100);
}

#[test]
fn an_r2t_can_be_cut_too() {
    let target = target();
    let host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let cut = FaultAction::TruncateAt { pdu: PduType::R2T, bytes: 3 };
    let id = target.add_fault(FaultRule::new(cut).io());
    queue.send_transport(Sqe::write(1, 0, BlockCount::ONE), 512);
    let mut received = Vec::new();
    std::io::Read::read_to_end(&mut queue.socket, &mut received).unwrap();
    assert_eq!(received.len(), 3);
    assert_eq!(target.fault_hits(id), Some(1));
}

#[test]
fn a_short_read_claims_success() {
    let (_target, _, _host, mut queue) = faulty(FaultAction::ShortRead(12), DIGESTS);
    let cid = read_on(&mut queue);
    let pdu = queue.pdu();
    assert_eq!(pdu.data.len(), 500);
    assert!(pdu.header.flags.contains(PduFlags::LAST_PDU));
    assert!(queue.response(cid).status().is_success());
}

#[test]
fn pages_can_be_made_to_lie() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    let lie = FaultAction::PatchData { offset: 16 + 4, bytes: 5000_u32.to_le_bytes().to_vec() };
    let rule = FaultRule::new(lie).admin().opcode(AdminOpcode::GET_LOG_PAGE.0).skip(1).times(1);
    target.add_fault(rule);
    let args = GetLogPage::new(lid::ANA, 4096);
    assert!(AnaLog::parse(&host.log(args).unwrap()).is_ok(), "skipped");
    assert!(AnaLog::parse(&host.log(args).unwrap()).is_err(), "more namespaces than bytes");
    assert!(AnaLog::parse(&host.log(args).unwrap()).is_ok(), "spent");

    // the offset counts from the start of the page, wherever the read begins
    let mark = FaultAction::PatchData { offset: 36, bytes: vec![1, 2, 3, 4] };
    target.add_fault(FaultRule::new(mark).admin().times(1));
    let part = GetLogPage { offset: 32, ..GetLogPage::new(lid::ANA, 16) };
    assert_eq!(host.log(part).unwrap()[4..8], [1, 2, 3, 4]);
}

#[test]
fn a_late_write_lands_after_its_connection_is_gone() {
    let target = target();
    let host = Host::new(target.addr(0).unwrap());
    // long enough for the second write to get there first on any machine
    let late = FaultAction::LateWrite(Duration::from_secs(1));
    let rule = FaultRule::new(late).io().opcode(NvmOpcode::WRITE.0).times(1);
    target.add_fault(rule);
    let mut first = host.queue(1);
    first.send_in_capsule(Sqe::write(1, 0, BlockCount::ONE), &[1; 512]);
    works(&mut first);
    drop(first);
    let mut second = host.queue(2);
    assert!(second.store(Sqe::write(1, 0, BlockCount::ONE), &[2; 512]).status().is_success());
    // the old write overtakes the new one: what fencing is there to prevent
    until("the late write lands", || second.fetch(read(), 512).0 == [1; 512]);
}

#[test]
fn a_silent_listener_accepts_and_says_nothing() {
    let target = target();
    let rule = FaultRule::new(FaultAction::SilentListener).listener(0).times(1);
    let id = target.add_fault(rule);
    let mut silent = raw(target.addr(0).unwrap());
    silent.write_all(IcReq::new(0, DIGESTS, 0).as_bytes()).unwrap();
    until("it is accepted", || target.fault_hits(id) == Some(1));
    let mut host = Host::new(target.addr(0).unwrap());
    assert!(host.admin.run(Sqe::keep_alive()).status().is_success());
    silent.set_nonblocking(true).unwrap();
    let nothing = std::io::Read::read(&mut silent, &mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);

    target.add_fault(FaultRule::new(FaultAction::CloseOnAccept).listener(1).times(1));
    let mut closed = raw(target.addr(1).unwrap());
    assert!(matches!(std::io::Read::read(&mut closed, &mut [0]), Ok(0) | Err(_)));
}

#[test]
fn an_icresp_is_wrong_in_the_field_asked_for() {
    let target = target();
    let ic = |kind: BadIcResp| {
        target.add_fault(FaultRule::new(FaultAction::BadIcResp(kind)).times(1));
        Queue::open(target.addr(0).unwrap(), DigestFlags::HEADER).ic
    };
    assert_eq!(ic(BadIcResp::Version).pfv.get(), 1);
    assert_eq!(ic(BadIcResp::Digests).dgst, DigestFlags::DATA);
    assert_eq!(ic(BadIcResp::Alignment).cpda, 32);
    assert_eq!(ic(BadIcResp::MaxDataTooSmall).maxh2cdata.get(), 2048);
    assert_eq!(ic(BadIcResp::MaxDataUnaligned).maxh2cdata.get(), 8193);
    assert_eq!(ic(BadIcResp::Length).header.plen.get(), 132);
    assert_eq!(ic(BadIcResp::HeaderLength).header.hlen, 24);
    assert_eq!(ic(BadIcResp::Type).header.pdu_type, PduType::CAPSULE_RESP);
}

/// The PDU that answers a read when `kind` strikes, or a write that is asked for its data.
fn bad(kind: BadPdu, sqe: Sqe) -> (u16, Pdu) {
    let target = target();
    let host = Host::with(target.addr(0).unwrap(), NQN, DIGESTS, 0);
    let mut queue = host.queue(1);
    let id = target.add_fault(FaultRule::new(FaultAction::BadPdu(kind)).io().times(1));
    let cid = queue.send_transport(sqe, 512);
    let pdu = queue.pdu();
    assert_eq!(target.fault_hits(id), Some(1));
    (cid, pdu)
}

#[test]
fn bad_pdus_are_bad_in_one_way_each() {
    let write = Sqe::write(1, 0, BlockCount::ONE);
    let (_, pdu) = bad(BadPdu::UnknownType, read());
    assert_eq!(pdu.header.pdu_type.header_len(), None);
    assert_eq!(bad(BadPdu::WrongDirection, read()).1.header.pdu_type, PduType::CAPSULE_CMD);
    assert_eq!(bad(BadPdu::SecondIcResp, read()).1.header.pdu_type, PduType::IC_RESP);
    assert_eq!(bad(BadPdu::HeaderLength, read()).1.header.hlen, 16);
    let (_, pdu) = bad(BadPdu::HeaderDigestFlag, read());
    assert!(!pdu.header.flags.contains(PduFlags::HDGSTF));
    let (cid, pdu) = bad(BadPdu::UnknownCommand, read());
    assert_ne!(pdu.cqe().cid.get(), cid);
    assert_eq!(bad(BadPdu::TermReq, read()).1.header.pdu_type, PduType::C2H_TERM_REQ);

    let data = |kind| {
        let (cid, pdu) = bad(kind, read());
        (cid, pdu.data_header(), pdu)
    };
    let (_, header, _) = data(BadPdu::DataDigestFlag);
    assert!(!header.header.flags.contains(PduFlags::DDGSTF));
    assert_eq!(data(BadPdu::DataOffset).1.header.pdo, 8);
    let (cid, header, _) = data(BadPdu::DataUnknownCommand);
    assert_ne!(header.cccid.get(), cid);
    assert_eq!(data(BadPdu::DataPastEnd).1.datal.get(), 1024);
    assert_eq!(data(BadPdu::DataOffsetSkips).1.datao.get(), 4);
    assert_eq!(data(BadPdu::DataEmpty).1.datal.get(), 0);
    let flags = data(BadPdu::SuccessWithoutLast).1.header.flags;
    assert!(flags.contains(PduFlags::SUCCESS) && !flags.contains(PduFlags::LAST_PDU));

    assert_eq!(bad(BadPdu::R2tUnexpected, read()).1.r2t().r2tl.get(), 512);
    assert_eq!(bad(BadPdu::R2tEmpty, write).1.r2t().r2tl.get(), 0);
    assert_eq!(bad(BadPdu::R2tPastEnd, write).1.r2t().r2tl.get(), 1024);
    let (cid, pdu) = bad(BadPdu::R2tUnknownCommand, write);
    assert_ne!(pdu.r2t().cccid.get(), cid);
}

#[test]
fn impossible_lengths_are_sent_as_they_are() {
    for (kind, plen) in [(BadPdu::LengthTooShort, 8), (BadPdu::LengthTooLong, u32::MAX)] {
        let (_target, _, _host, mut queue) = faulty(FaultAction::BadPdu(kind), DIGESTS);
        read_on(&mut queue);
        let mut common = [0; 8];
        std::io::Read::read_exact(&mut queue.socket, &mut common).unwrap();
        assert_eq!(common[4..], plen.to_le_bytes());
    }
}

#[test]
fn results_can_be_made_to_lie() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    let lie = FaultRule::new(FaultAction::Result(0xdead_beef_0000)).times(1);
    target.add_fault(lie.admin().fabrics(FabricsType::PROPERTY_GET));
    let get = Sqe::property_get(property::CAP, PropertySize::Eight);
    assert_eq!(host.admin.run(get).result(), 0xdead_beef_0000);
    assert_ne!(host.admin.run(get).result(), 0xdead_beef_0000);
}

#[test]
fn rules_pick_fabrics_commands_and_controllers() {
    let target = target();
    let busy = FaultAction::Fail(Status::CONNECT_CONTROLLER_BUSY);
    let id = target.add_fault(FaultRule::new(busy).fabrics(FabricsType::CONNECT).io().times(1));
    let host = Host::new(target.addr(0).unwrap());
    assert_eq!(target.fault_hits(id), Some(0), "the admin queue's Connect passes");
    let mut queue = Queue::open(host.addr, DigestFlags::empty());
    let status = queue.connect(NQN, host.cntlid, 1, 0).status();
    assert_eq!(status, Status::CONNECT_CONTROLLER_BUSY);
    let mut queue = host.queue(1);

    let other = Host::new(target.addr(0).unwrap());
    let mut others = other.queue(1);
    let rule = FaultRule::new(FaultAction::Fail(Status::INTERNAL_ERROR)).io();
    target.add_fault(rule.controller(other.cntlid).nsid(1));
    works(&mut queue);
    assert!(others.run(read()).status().is(Status::INTERNAL_ERROR));
}

#[test]
fn a_host_whose_commands_are_all_lost_is_given_up() {
    let target = target();
    let mut host = Host::with(target.addr(0).unwrap(), NQN, DigestFlags::empty(), 200);
    target.add_fault(FaultRule::new(FaultAction::Drop).listener(0));
    let mut keep_alive = Sqe::keep_alive();
    keep_alive.set_sgl(SglDescriptor::transport(0));
    let capsule = CapsuleCmd::new(keep_alive);
    until("the association ends", || {
        // fails once the connection is closed
        let _ = host.admin.socket.write_all(capsule.as_bytes());
        target.first_subsystem().unwrap().controllers().is_empty()
    });
}
