//! What a connection does with a controller that keeps to the rules.

mod support;

use nvme_core::buffer::Buffer;
use nvme_core::spec::tcp::{DataHeader, IcReq, PduFlags, PduType};
use nvme_core::spec::{SglDescriptor, Sqe, Status};
use nvme_core::transport::{Data, Queue, QueueSetup, QueueStatus, RejectReason};
use nvme_tcp::conn::Config;
use support::wire::crc32c;
use support::{Pair, READ, WRITE, bytes, pattern};
use zerocopy::FromBytes;

fn digests() -> [Config; 4] {
    [(false, false), (true, false), (false, true), (true, true)].map(|(h, d)| Config {
        header_digest: h,
        data_digest: d,
        ..Config::default()
    })
}

#[test]
fn the_request_to_connect_says_what_was_configured() {
    let config = Config { header_digest: true, max_r2t: 8, hpda: 3, ..Config::default() };
    let mut pair = Pair::new(config);
    assert!(pair.queue.has_pending_work());
    assert!(matches!(pair.poll(), QueueStatus::Opening));
    assert!(pair.queue.deadline().is_some());
    let pdu = pair.take_one();
    let req = IcReq::read_from_bytes(&pdu.bytes).unwrap();
    assert_eq!((req.pfv.get(), req.hpda, req.dgst.bits(), req.maxr2t.get()), (0, 3, 1, 7));
    assert_eq!((pdu.header.hlen, pdu.header.flags, pdu.bytes.len()), (128, PduFlags::empty(), 128));

    let early = pair.queue.submit(Sqe::new(READ, 1), Data::Read(Buffer::zeroed(512)), 1);
    let early = early.unwrap_err();
    assert_eq!((early.reason, early.data.len()), (RejectReason::NotReady, 512));

    pair.send(&pair.format.ic_resp(0, 4096));
    assert!(matches!(pair.poll(), QueueStatus::Ready));
    assert_eq!(pair.queue.deadline(), None);
    assert!(matches!(pair.queue.setup(), QueueSetup::Connect));
}

#[test]
fn a_read_arrives_in_the_callers_buffer() {
    for config in digests() {
        for len in [512, 4096, 128 * 1024, 1 << 20] {
            let mut pair = Pair::ready(config);
            let buffer = Buffer::zeroed(len);
            let at = buffer.as_slice().as_ptr();
            let cid = pair.issue(READ, Data::Read(buffer), 7);
            pair.send(&pair.format.c2h_success(cid, &pattern(len)));
            pair.poll();
            let done = pair.done_one();
            assert_eq!(done.tag, 7);
            assert_eq!(bytes(&done), pattern(len));
            assert_eq!(bytes(&done).as_ptr(), at);
            assert_eq!(pair.queue.in_flight(), 0);
        }
    }
}

#[test]
fn the_data_pointer_says_where_the_data_goes() {
    let mut pair = Pair::ready(Config::default());
    pair.queue.set_in_capsule_data(4096);
    let sqe = |pair: &mut Pair, opcode, data| {
        pair.queue.submit(Sqe::new(opcode, 1), data, 0).unwrap();
        pair.queue.flush();
        let pdu = pair.take_one();
        (pdu.sqe(), pdu.bytes.len())
    };
    let (none, len) = sqe(&mut pair, 0, Data::None);
    assert_eq!((none.sgl(), len), (SglDescriptor::transport(0), 72));
    let (read, len) = sqe(&mut pair, READ, Data::Read(Buffer::zeroed(512)));
    assert_eq!((read.sgl(), len), (SglDescriptor::transport(512), 72));
    let (small, len) = sqe(&mut pair, WRITE, Data::Write(Buffer::zeroed(4096)));
    assert_eq!((small.sgl(), len), (SglDescriptor::in_capsule(0, 4096), 72 + 4096));
    let (large, len) = sqe(&mut pair, WRITE, Data::Write(Buffer::zeroed(4097)));
    assert_eq!((large.sgl(), len), (SglDescriptor::transport(4097), 72));
    assert_eq!(large.psdt(), nvme_core::spec::command::Psdt::Sgl);
}

#[test]
fn fabrics_commands_and_the_admin_queue_have_8192_bytes_in_the_capsule() {
    let connect = Sqe::connect(1, 127, Default::default(), 0);
    let mut pair = Pair::ready(Config::default());
    pair.queue.submit(connect, Data::Write(pattern(1024).into()), 0).unwrap();
    pair.queue.flush();
    let pdu = pair.take_one();
    assert_eq!(pdu.data(&pair.format), pattern(1024));
    assert_eq!(pdu.sqe().sgl(), SglDescriptor::in_capsule(0, 1024));

    let mut pair = Pair::ready(Config { admin: true, entries: 32, ..Config::default() });
    // IOCCSZ is about I/O queues.
    pair.queue.set_in_capsule_data(0);
    for (len, inside) in [(8192, true), (8193, false)] {
        pair.queue.submit(Sqe::new(0x11, 0), Data::Write(Buffer::zeroed(len)), 0).unwrap();
        pair.queue.flush();
        assert_eq!(pair.take_one().bytes.len() > 72, inside);
    }
}

#[test]
fn a_write_inside_the_capsule_is_padded_and_digested() {
    for config in digests() {
        for cpda in [0, 1, 7, 31] {
            let mut pair = Pair::ready_with(config, cpda, 4096);
            pair.queue.set_in_capsule_data(4096);
            pair.queue.submit(Sqe::new(WRITE, 1), Data::Write(pattern(1000).into()), 3).unwrap();
            pair.queue.flush();
            let pdu = pair.take_one();
            let format = pair.format;
            let align = (usize::from(cpda) + 1) * 4;
            let head = if format.header_digest { 76usize } else { 72 };
            assert_eq!(usize::from(pdu.header.pdo), head.next_multiple_of(align));
            assert_eq!(pdu.header.flags.contains(PduFlags::HDGSTF), format.header_digest);
            assert_eq!(pdu.header.flags.contains(PduFlags::DDGSTF), format.data_digest);
            assert_eq!(pdu.data(&format), pattern(1000));
            if format.header_digest {
                assert_eq!(pdu.bytes[72..76], crc32c(&pdu.bytes[..72]).to_le_bytes());
            }
            if format.data_digest {
                assert_eq!(*pdu.bytes.last_chunk().unwrap(), crc32c(&pattern(1000)).to_le_bytes());
            }
            pair.send(&format.ok(pdu.cid()));
            pair.poll();
            assert_eq!(pair.done_one().tag, 3);
        }
    }
}

/// Answers all R2Ts that are given in `grants` and returns the data PDUs.
fn data_pdus(pair: &mut Pair) -> Vec<(DataHeader, Vec<u8>)> {
    let format = pair.format;
    let pdus = pair.take().into_iter().map(|pdu| {
        assert_eq!(pdu.header.pdu_type, PduType::H2C_DATA);
        let header = DataHeader::read_from_prefix(&pdu.bytes).unwrap().0;
        assert_eq!(header.datal.get() as usize, pdu.data(&format).len());
        if format.data_digest {
            let crc = crc32c(pdu.data(&format)).to_le_bytes();
            assert_eq!(*pdu.bytes.last_chunk().unwrap(), crc);
        }
        (header, pdu.data(&format).to_vec())
    });
    pdus.collect()
}

#[test]
fn a_write_is_sent_as_the_controller_asks_for_it() {
    for config in digests() {
        let mut pair = Pair::ready_with(config, 3, 4096);
        let len = 10_000u32;
        let cid = pair.write(len as usize, 5);
        pair.poll();
        assert!(pair.take().is_empty(), "nothing is sent unasked");

        pair.send(&pair.format.r2t(cid, 0xabcd, 0, 9000));
        pair.poll();
        let pdus = data_pdus(&mut pair);
        let shape: Vec<_> = pdus
            .iter()
            .map(|(h, _)| {
                assert_eq!((h.cccid.get(), h.ttag.get()), (cid, 0xabcd));
                assert_eq!(usize::from(h.header.pdo) % 16, 0);
                let last = h.header.flags.contains(PduFlags::LAST_PDU);
                (h.datao.get(), h.datal.get(), last)
            })
            .collect();
        assert_eq!(shape, [(0, 4096, false), (4096, 4096, false), (8192, 808, true)]);

        pair.send(&pair.format.r2t(cid, 1, 9000, 1000));
        pair.poll();
        let mut all: Vec<u8> = pdus.into_iter().flat_map(|p| p.1).collect();
        let rest = data_pdus(&mut pair);
        assert_eq!((rest.len(), rest[0].0.ttag.get()), (1, 1));
        all.extend(&rest[0].1);
        assert_eq!(all, pattern(len as usize));

        pair.send(&pair.format.ok(cid));
        pair.poll();
        assert_eq!(bytes(&pair.done_one()), pattern(len as usize));
    }
}

#[test]
fn several_requests_for_data_may_be_outstanding() {
    let config = Config { max_r2t: 3, ..Config::default() };
    let mut pair = Pair::ready_with(config, 0, 4096);
    let cid = pair.write(24_576, 1);
    pair.credit(Some(0));
    for i in 0..3u32 {
        pair.send(&pair.format.r2t(cid, i as u16, i * 8192, 8192));
    }
    pair.poll();
    pair.credit(None);
    pair.poll();
    let pdus = data_pdus(&mut pair);
    let tags: Vec<_> = pdus.iter().map(|p| p.0.ttag.get()).collect();
    assert_eq!(tags, [0, 0, 1, 1, 2, 2]);
    let all: Vec<u8> = pdus.into_iter().flat_map(|p| p.1).collect();
    assert_eq!(all, pattern(24_576));
    pair.send(&pair.format.ok(cid));
    pair.poll();
    pair.done_one();
}

#[test]
fn large_writes_take_turns() {
    let mut pair = Pair::ready_with(Config::default(), 0, 4096);
    let a = pair.write(16_384, 1);
    let b = pair.write(16_384, 2);
    pair.send(&pair.format.r2t(a, 0, 0, 16_384));
    pair.send(&pair.format.r2t(b, 0, 0, 16_384));
    pair.poll();
    let order: Vec<_> = data_pdus(&mut pair).iter().map(|p| p.0.cccid.get()).collect();
    assert_eq!(order, [a, b, a, b, a, b, a, b]);
}

#[test]
fn a_read_may_come_in_many_pieces_and_alignments() {
    for config in digests() {
        for hpda in [0, 1, 31] {
            for piece in [1usize, 7, 511, 4096, 20_001] {
                let mut pair = Pair::ready(Config { hpda, ..config });
                let data = pattern(65_536 + 77);
                let data = if piece < 500 { &data[..4099] } else { &data };
                let cid = pair.read(data.len(), 9);
                let count = data.chunks(piece).count();
                for (i, chunk) in data.chunks(piece).enumerate() {
                    let flags = if i + 1 == count { PduFlags::LAST_PDU } else { PduFlags::empty() };
                    pair.send(&pair.format.c2h(cid, (i * piece) as u32, chunk, flags));
                }
                pair.poll();
                assert!(pair.done.is_empty(), "LAST without SUCCESS is no completion");
                pair.send(&pair.format.ok(cid));
                pair.poll();
                assert_eq!(bytes(&pair.done_one()), data);
            }
        }
    }
}

#[test]
fn a_result_and_an_error_are_passed_on() {
    let mut pair = Pair::ready(Config::default());
    let cid = pair.issue(0x0a, Data::None, 1);
    let mut cqe = nvme_core::spec::Cqe::new(cid, Status::SUCCESS, 0x1234_5678_9abc);
    cqe.sqhd = 5.into();
    pair.send(zerocopy::IntoBytes::as_bytes(&nvme_core::spec::tcp::CapsuleResp::new(cqe)));
    let read = pair.read(512, 2);
    pair.send(&pair.format.resp(read, Status::DATA_TRANSFER_ERROR.with_dnr()));
    pair.poll();
    assert_eq!(pair.done[0].cqe, cqe);
    let status = pair.done[1].cqe.status();
    assert!(status.is(Status::DATA_TRANSFER_ERROR) && status.dnr());
    assert_eq!(pair.done[1].data.len(), 512);
}

#[test]
fn one_write_call_carries_a_whole_batch() {
    let mut pair = Pair::ready(Config { entries: 128, ..Config::default() });
    let before = pair.writes();
    for tag in 0..127 {
        pair.queue.submit(Sqe::new(READ, 1), Data::Read(Buffer::zeroed(4096)), tag).unwrap();
    }
    assert_eq!(pair.writes(), before, "submit only queues");
    let full = pair.queue.submit(Sqe::new(READ, 1), Data::Read(Buffer::zeroed(8)), 999);
    assert_eq!(full.unwrap_err().reason, RejectReason::Full);
    assert_eq!((pair.queue.capacity(), pair.queue.in_flight()), (127, 127));
    pair.queue.flush();
    assert_eq!(pair.writes(), before + 1);
    let pdus = pair.take();
    assert_eq!(pdus.len(), 127);
    // Answered in another order, all in one go.
    for pdu in pdus.iter().rev() {
        let data = pattern(4096 + usize::from(pdu.cid()));
        pair.send(&pair.format.c2h_success(pdu.cid(), &data[usize::from(pdu.cid())..]));
    }
    pair.poll();
    let mut tags: Vec<_> = pair.done.iter().map(|d| d.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..127).collect::<Vec<_>>());
    for done in &pair.done {
        let cid = usize::from(done.cqe.cid.get());
        assert_eq!(bytes(done), &pattern(4096 + cid)[cid..]);
    }
}

#[test]
fn nothing_is_lost_when_the_stream_takes_little_at_a_time() {
    for config in digests() {
        let mut pair = Pair::ready(config);
        pair.queue.set_in_capsule_data(8192);
        pair.credit(Some(0));
        for tag in 0..20 {
            let data = Data::Write(pattern(100 + 397 * tag as usize).into());
            pair.queue.submit(Sqe::new(WRITE, 1), data, tag).unwrap();
        }
        let mut pdus = Vec::new();
        let mut step = 1;
        while pdus.len() < 20 {
            pair.credit(Some(step));
            step = step % 97 + 1;
            pair.poll();
            pdus.extend(pair.take());
        }
        for (tag, pdu) in pdus.iter().enumerate() {
            assert_eq!(pdu.data(&pair.format), pattern(100 + 397 * tag));
            pair.send(&pair.format.ok(pdu.cid()));
        }
        pair.credit(None);
        pair.poll();
        assert_eq!(pair.done.len(), 20);
    }
}

#[test]
fn a_write_that_fails_early_completes_when_its_buffer_is_free() {
    let mut pair = Pair::ready_with(Config::default(), 0, 8192);
    let cid = pair.write(16_384, 4);
    // Half of the first data PDU goes out; then the controller gives up.
    pair.credit(Some(4000));
    pair.send(&pair.format.r2t(cid, 0, 0, 16_384));
    pair.poll();
    pair.send(&pair.format.resp(cid, Status::new(2, 0x80)));
    assert!(matches!(pair.poll(), QueueStatus::Ready));
    assert!(pair.done.is_empty(), "the socket still sends from the buffer");
    pair.credit(None);
    assert!(!pair.queue.has_pending_work());
    pair.poll();
    assert_eq!(pair.done.len(), 1);
    assert_eq!(pair.done[0].cqe.status(), Status::new(2, 0x80));
    // What was staged is sent to the end, so that the stream stays in step.
    assert!(pair.take().len() <= 2);
    assert_eq!(pair.partial(), 0);
    pair.done.clear();
    let cid = pair.issue(0, Data::None, 5);
    pair.send(&pair.format.ok(cid));
    pair.poll();
    assert_eq!(pair.done_one().tag, 5);
}

#[test]
fn a_damaged_read_fails_alone_and_only_when_it_is_answered() {
    let config = Config { data_digest: true, ..Config::default() };
    for success in [false, true] {
        let mut pair = Pair::ready(config);
        let cid = pair.read(8192, 1);
        let mut first = pair.format.c2h(cid, 0, &pattern(4096), PduFlags::empty());
        first[1000] ^= 1;
        pair.send(&first);
        let mut flags = PduFlags::LAST_PDU;
        flags.set(PduFlags::SUCCESS, success);
        assert!(matches!(pair.poll(), QueueStatus::Ready));
        assert!(pair.done.is_empty());
        pair.send(&pair.format.c2h(cid, 4096, &pattern(4096), flags));
        pair.poll();
        if !success {
            assert!(pair.done.is_empty());
            pair.send(&pair.format.ok(cid));
            pair.poll();
        }
        assert_eq!(pair.done.len(), 1);
        assert_eq!(pair.done[0].cqe.status(), Status::DATA_TRANSFER_ERROR);
        pair.done.clear();
        // The next one is not affected.
        let cid = pair.read(4096, 2);
        pair.send(&pair.format.c2h_success(cid, &pattern(4096)));
        pair.poll();
        assert_eq!(bytes(&pair.done_one()), pattern(4096));
    }
}

#[test]
fn the_controllers_own_error_is_kept_for_a_damaged_read() {
    let mut pair = Pair::ready(Config { data_digest: true, ..Config::default() });
    let cid = pair.read(4096, 1);
    let mut pdu = pair.format.c2h(cid, 0, &pattern(4096), PduFlags::LAST_PDU);
    *pdu.last_mut().unwrap() ^= 0x80;
    pair.send(&pdu);
    pair.send(&pair.format.resp(cid, Status::new(2, 0x81)));
    pair.poll();
    assert_eq!(pair.done[0].cqe.status(), Status::new(2, 0x81));
}

#[test]
fn data_is_not_sent_for_a_command_that_was_answered() {
    let mut pair = Pair::ready_with(Config { max_r2t: 2, ..Config::default() }, 0, 4096);
    let cid = pair.write(8192, 4);
    pair.send(&pair.format.r2t(cid, 0, 0, 4096));
    pair.poll();
    assert_eq!(data_pdus(&mut pair).len(), 1);
    // A request and the answer in one go.
    pair.send(&pair.format.r2t(cid, 1, 4096, 4096));
    pair.send(&pair.format.resp(cid, Status::new(2, 0x80)));
    pair.poll();
    assert_eq!(pair.done.len(), 1);
    assert!(pair.take().is_empty());
}
