//! Hosts that break the protocol get a termination request that says why, and the target lives on.

use std::io::{Read, Write};
use std::net::Shutdown;

use nvme_core::spec::tcp::{
    CapsuleCmd, CommonHeader, DataHeader, DigestFlags, FatalError, IcReq, PduFlags, PduType,
    TermReq,
};
use nvme_core::spec::{BlockCount, SglDescriptor, Sqe, Status};
use nvme_target::{SubsystemConfig, Target, Transport};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::host::{Host, NQN, Queue, raw, target};

const NONE: DigestFlags = DigestFlags::empty();

/// The termination request that ends a connection.
fn termination(queue: &mut Queue) -> (FatalError, u32) {
    loop {
        let pdu = queue.pdu();
        if pdu.header.pdu_type != PduType::C2H_TERM_REQ {
            continue;
        }
        let (req, copy) = TermReq::read_from_prefix(&pdu.head).unwrap();
        assert!(!copy.is_empty() && copy.len() <= 128);
        assert!(queue.recv().is_none(), "the connection ends after it");
        return (req.fatal_error(), req.fei.get());
    }
}

fn field(offset: u32) -> (FatalError, u32) {
    (FatalError::INVALID_HEADER_FIELD, offset)
}

const SEQUENCE: (FatalError, u32) = (FatalError::PDU_SEQUENCE, 0);

/// What a fresh connection answers to these bytes.
fn first(bytes: &[u8]) -> (FatalError, u32) {
    let target = target();
    let mut socket = raw(target.addr(0).unwrap());
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let (req, _) = TermReq::read_from_prefix(&answer).unwrap();
    assert_eq!(req.header.pdu_type, PduType::C2H_TERM_REQ);
    assert_eq!(req.header.plen.get() as usize, answer.len());
    assert_eq!(target.stats().terminated, 1);
    (req.fatal_error(), req.fei.get())
}

fn ic(change: impl FnOnce(&mut IcReq)) -> Vec<u8> {
    let mut req = IcReq::new(0, NONE, 0);
    change(&mut req);
    req.as_bytes().to_vec()
}

#[test]
fn each_field_of_an_icreq_is_checked() {
    assert_eq!(first(&ic(|r| r.header.pdu_type = PduType::CAPSULE_CMD)), SEQUENCE);
    assert_eq!(first(&ic(|r| r.header.pdu_type = PduType(0x55))), field(0));
    assert_eq!(first(&ic(|r| r.header.pdu_type = PduType::IC_RESP)), field(0));
    assert_eq!(first(&ic(|r| r.header.flags = PduFlags::HDGSTF)), field(1));
    assert_eq!(first(&ic(|r| r.header.hlen = 127)), field(2));
    assert_eq!(first(&ic(|r| r.header.plen = 129.into())), field(4));
    let unsupported = (FatalError::UNSUPPORTED_PARAMETER, 8);
    assert_eq!(first(&ic(|r| r.pfv = 1.into())), unsupported);
    assert_eq!(first(&ic(|r| r.hpda = 32)), field(10));
}

/// What a connected I/O queue answers to these bytes.
fn on_queue(digests: DigestFlags, bytes: &[u8]) -> (FatalError, u32) {
    let target = target();
    let mut host = Host::with(target.addr(0).unwrap(), NQN, digests, 0);
    let mut queue = host.queue(1);
    queue.socket.write_all(bytes).unwrap();
    let result = termination(&mut queue);
    // a fatal error on one queue ends the association
    host.admin.expect_close();
    result
}

fn capsule(sqe: Sqe, change: impl FnOnce(&mut CommonHeader)) -> Vec<u8> {
    let mut pdu = CapsuleCmd::new(sqe);
    change(&mut pdu.header);
    pdu.as_bytes().to_vec()
}

#[test]
fn each_field_of_a_capsule_is_checked() {
    let read = || {
        let mut sqe = Sqe::read(1, 0, BlockCount::ONE);
        sqe.set_sgl(SglDescriptor::transport(512));
        sqe
    };
    let with = |change: fn(&mut CommonHeader)| on_queue(NONE, &capsule(read(), change));
    assert_eq!(with(|h| h.pdu_type = PduType::IC_REQ), SEQUENCE);
    assert_eq!(with(|h| h.pdu_type = PduType::C2H_DATA), field(0));
    assert_eq!(with(|h| h.flags = PduFlags::HDGSTF), field(1));
    assert_eq!(with(|h| h.hlen = 24), field(2));
    assert_eq!(with(|h| h.plen = 71.into()), field(4));
    assert_eq!(with(|h| h.plen = u32::MAX.into()), field(3), "no data offset");
    let huge = |h: &mut CommonHeader| {
        h.pdo = 72;
        h.plen = u32::MAX.into();
    };
    let limit = (FatalError::LIMIT_EXCEEDED, 0);
    assert_eq!(on_queue(NONE, &capsule(read(), huge)), limit);

    // data where the command says there is none, and less than it says
    let mut bytes = capsule(read(), |h| {
        h.pdo = 72;
        h.plen = (72 + 512).into();
    });
    bytes.resize(72 + 512, 0);
    assert_eq!(on_queue(NONE, &bytes), field(4));
    let mut write = Sqe::write(1, 0, BlockCount::ONE);
    write.set_sgl(SglDescriptor::in_capsule(0, 1024));
    let mut bytes = capsule(write, |h| {
        h.pdo = 72;
        h.plen = (72 + 512).into();
    });
    bytes.resize(72 + 512, 0);
    assert_eq!(on_queue(NONE, &bytes), field(4));

    let mut bytes = capsule(read(), |h| {
        h.flags = PduFlags::HDGSTF;
        h.plen = 76.into();
    });
    bytes.extend_from_slice(&[1, 2, 3, 4]);
    let wrong_digest = (FatalError::HEADER_DIGEST, u32::from_le_bytes([1, 2, 3, 4]));
    assert_eq!(on_queue(DigestFlags::HEADER, &bytes), wrong_digest);
    assert_eq!(on_queue(DigestFlags::HEADER, &capsule(read(), |_| ())), field(1));
}

/// What the target answers to a wrong H2CData PDU, when it has asked for 8192 bytes in two R2Ts of 4096.
fn on_h2c(change: impl FnOnce(&mut DataHeader)) -> (FatalError, u32) {
    let subsystem = SubsystemConfig::new(NQN)
        .unwrap()
        .namespace(nvme_target::NamespaceConfig::memory(1, 1 << 20).block_size(512));
    let target = Target::builder()
        .subsystem(subsystem)
        .transport(Transport::new().r2t_bytes(4096).max_h2c_data(8192))
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let cid = queue.send_transport(Sqe::write(1, 0, BlockCount::new(16).unwrap()), 8192);
    let r2t = queue.pdu().r2t();
    assert_eq!((r2t.r2to.get(), r2t.r2tl.get()), (0, 4096), "one at a time");
    let mut header = DataHeader::h2c(cid, r2t.ttag.get(), 0, 4096);
    header.header.flags = PduFlags::LAST_PDU;
    header.header.pdo = 24;
    header.header.plen = (24 + 4096).into();
    change(&mut header);
    queue.socket.write_all(header.as_bytes()).unwrap();
    let _ = queue.socket.write_all(&vec![0; 10_000]);
    termination(&mut queue)
}

#[test]
fn each_field_of_h2c_data_is_checked() {
    let out_of_range = (FatalError::DATA_OUT_OF_RANGE, 0);
    fn sized(header: &mut DataHeader, len: u32) {
        header.datal = len.into();
        header.header.plen = (24 + len).into();
    }
    assert_eq!(on_h2c(|h| h.ttag = 77.into()), field(10));
    assert_eq!(on_h2c(|h| h.cccid = 77.into()), field(8));
    assert_eq!(on_h2c(|h| h.datao = 4.into()), out_of_range);
    assert_eq!(on_h2c(|h| h.datao = u32::MAX.into()), out_of_range);
    assert_eq!(on_h2c(|h| h.datal = 4092.into()), field(16));
    assert_eq!(on_h2c(|h| sized(h, 8192)), out_of_range, "more than the R2T asked for");
    assert_eq!(on_h2c(|h| sized(h, 8196)), (FatalError::LIMIT_EXCEEDED, 0));
    assert_eq!(on_h2c(|h| h.header.flags = PduFlags::empty()), field(1), "the last PDU says so");
    assert_eq!(on_h2c(|h| sized(h, 2048)), field(1), "and no other does");
    assert_eq!(on_h2c(|h| h.header.pdo = 20), field(3));
    assert_eq!(on_h2c(|h| h.header.pdo = 25), field(3));
    assert_eq!(on_h2c(|h| h.header.plen = 24.into()), field(4), "no data at all");
}

#[test]
fn as_many_r2ts_are_outstanding_as_the_host_takes() {
    let subsystem = SubsystemConfig::new(NQN)
        .unwrap()
        .namespace(nvme_target::NamespaceConfig::memory(1, 1 << 20).block_size(512));
    let target = Target::builder()
        .subsystem(subsystem)
        .transport(Transport::new().r2t_bytes(4096).max_h2c_data(8192))
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let host = Host::new(target.addr(0).unwrap());
    // MAXR2T is less one; data comes aligned to 32 bytes
    let mut queue = Queue::open_with(host.addr, IcReq::new(7, NONE, 2));
    assert!(queue.connect(NQN, host.cntlid, 1, 0).status().is_success());
    let data: Vec<u8> = (0..20 << 10).map(|i| (i / 100) as u8).collect();
    let blocks = BlockCount::new(40).unwrap();
    let cid = queue.send_transport(Sqe::write(1, 0, blocks), data.len() as u32);
    let tag = queue.pdu().r2t().ttag.get();
    let asked = [queue.pdu().r2t().r2to.get(), queue.pdu().r2t().r2to.get()];
    assert_eq!(asked, [4096, 8192], "three at once");
    queue.send_h2c(cid, tag, 0, &data[..4096], true);
    assert_eq!(queue.pdu().r2t().r2to.get(), 12288, "the next when one is done");
    for (piece, at) in data.chunks(4096).zip((0..).step_by(4096)).skip(1) {
        queue.send_h2c(cid, tag, at, piece, true);
    }
    assert_eq!(queue.pdu().r2t().r2to.get(), 16384);
    assert!(queue.response(cid).status().is_success());
    let (back, _) = queue.fetch(Sqe::read(1, 0, blocks), data.len() as u32);
    assert!(back == data);
    let cid = queue.send_transport(Sqe::read(1, 0, BlockCount::ONE), 512);
    assert_eq!(queue.pdu().data_header().header.pdo, 32);
    queue.response(cid);

    // one PDU across two of the ranges that were asked for
    let cid = queue.send_transport(Sqe::write(1, 0, blocks), data.len() as u32);
    let tag = queue.pdu().r2t().ttag.get();
    queue.send_h2c(cid, tag, 0, &data[..8192], true);
    assert_eq!(termination(&mut queue), (FatalError::DATA_OUT_OF_RANGE, 0));
}

#[test]
fn a_wrong_data_digest_fails_the_command_and_spares_the_connection() {
    let target = target();
    let host = Host::with(target.addr(0).unwrap(), NQN, DigestFlags::DATA, 0);
    let mut queue = host.queue(1);
    let mut sqe = Sqe::write(1, 0, BlockCount::ONE).with_cid(500);
    sqe.set_sgl(SglDescriptor::in_capsule(0, 512));
    let mut bytes = capsule(sqe, |h| {
        h.flags = PduFlags::DDGSTF;
        h.pdo = 72;
        h.plen = (72 + 512 + 4).into();
    });
    bytes.resize(72 + 512 + 4, 0xee);
    queue.socket.write_all(&bytes).unwrap();
    assert_eq!(queue.response(500).status(), Status::TRANSIENT_TRANSPORT_ERROR);

    let cid = queue.send_transport(Sqe::write(1, 0, BlockCount::ONE), 512);
    let r2t = queue.pdu().r2t();
    let mut header = DataHeader::h2c(cid, r2t.ttag.get(), 0, 512);
    header.header.flags = PduFlags::LAST_PDU | PduFlags::DDGSTF;
    header.header.pdo = 24;
    header.header.plen = (24 + 512 + 4).into();
    queue.socket.write_all(header.as_bytes()).unwrap();
    queue.socket.write_all(&[0xee; 516]).unwrap();
    assert_eq!(queue.response(cid).status(), Status::TRANSIENT_TRANSPORT_ERROR);
    let (data, _) = queue.fetch(Sqe::read(1, 0, BlockCount::ONE), 512);
    assert_eq!(data, [0; 512], "nothing was written");
}

#[test]
fn a_termination_request_from_the_host_ends_the_connection_quietly() {
    let target = target();
    let host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let req = TermReq::new(PduType::H2C_TERM_REQ, FatalError::PDU_SEQUENCE, 0, 0);
    queue.socket.write_all(req.as_bytes()).unwrap();
    assert!(queue.recv().is_none());
    assert_eq!(target.stats().terminated, 0);
}

#[test]
fn pdus_in_single_bytes_are_understood() {
    let target = target();
    let host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let mut sqe = Sqe::read(1, 0, BlockCount::ONE).with_cid(9);
    sqe.set_sgl(SglDescriptor::transport(512));
    for byte in capsule(sqe, |_| ()) {
        queue.socket.write_all(&[byte]).unwrap();
    }
    assert_eq!(queue.pdu().data_header().cccid.get(), 9);
    assert!(queue.response(9).status().is_success());
}

#[test]
fn data_alignment_is_kept_both_ways() {
    let subsystem = SubsystemConfig::new(NQN)
        .unwrap()
        .namespace(nvme_target::NamespaceConfig::memory(1, 1 << 20).block_size(512));
    let target = Target::builder()
        .subsystem(subsystem)
        .transport(Transport::new().cpda(31))
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    // our host does not align, so it is told off
    let mut queue = Queue::open(target.addr(0).unwrap(), NONE);
    assert_eq!(queue.ic.cpda, 31);
    queue.send_in_capsule(Sqe::connect(0, 31, Default::default(), 0), &[0; 1024]);
    assert_eq!(termination(&mut queue), field(3));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever comes, the target neither dies nor stops serving others.
    #[test]
    fn arbitrary_bytes_do_no_harm(
        pdus in prop::collection::vec((any::<u8>(), any::<[u8; 8]>(), prop::collection::vec(any::<u8>(), 0..200)), 1..8),
        stage in 0..3,
        digests in 0..4_u8,
    ) {
        let target = target();
        let addr = target.addr(0).unwrap();
        let digests = DigestFlags::from_bits_retain(digests);
        let host;
        let mut socket = match stage {
            0 => raw(addr),
            1 => Queue::open(addr, digests).socket,
            _ => {
                host = Host::with(addr, NQN, digests, 0);
                host.queue(1).socket
            }
        };
        for (choice, header, body) in pdus {
            let mut bytes = header.to_vec();
            // mostly headers that get past the first checks
            let types = [0x04, 0x06, 0x00, 0x02];
            if choice & 0x80 == 0 {
                bytes[0] = types[usize::from(choice & 3)];
                bytes[1] &= 0x07;
                bytes[2] = PduType(bytes[0]).header_len().unwrap();
                bytes[3] = bytes[2];
                let plen = usize::from(bytes[2]).max(8 + body.len()) as u32;
                bytes[4..8].copy_from_slice(&plen.to_le_bytes());
            }
            bytes.extend_from_slice(&body);
            if socket.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
        let mut other = Host::new(target.addr(1).unwrap());
        prop_assert!(other.admin.run(Sqe::keep_alive()).status().is_success());
    }

    /// Well framed commands with arbitrary content are all answered.
    #[test]
    fn arbitrary_commands_are_answered(
        commands in prop::collection::vec((any::<[u8; 64]>(), any::<bool>(), 0..0x90_u8), 1..20),
    ) {
        let target = target();
        let mut host = Host::new(target.addr(0).unwrap());
        let mut queue = host.queue(1);
        for (bytes, admin, opcode) in commands {
            let mut sqe = Sqe::read_from_bytes(&bytes).unwrap();
            sqe.opcode = opcode;
            // an event request is answered when there is an event, a Property Set may turn the controller off
            if admin && matches!(opcode, 0x0c | 0x7f) {
                continue;
            }
            sqe.nsid = (sqe.nsid.get() % 4).into();
            sqe.flags = 0x40;
            let queue = if admin { &mut host.admin } else { &mut queue };
            let cid = queue.send_transport(sqe, sqe.cdw15.get() % 8192);
            loop {
                let pdu = queue.pdu();
                match pdu.header.pdu_type {
                    PduType::C2H_DATA => prop_assert_eq!(pdu.data_header().cccid.get(), cid),
                    PduType::R2T => {
                        let r2t = pdu.r2t();
                        let data = vec![0; r2t.r2tl.get() as usize];
                        queue.send_h2c(cid, r2t.ttag.get(), r2t.r2to.get(), &data, true);
                    }
                    _ => {
                        prop_assert_eq!(pdu.cqe().cid.get(), cid);
                        break;
                    }
                }
            }
        }
    }
}
