//! Each check on what a controller sends: a PDU that breaks it ends the connection with an error
//! that names it, a termination request tells the controller, and every command completes once.

mod support;

use nvme_core::spec::tcp::{FatalError, PduFlags, PduType, TermReq};
use nvme_core::spec::{Sqe, Status};
use nvme_core::transport::{Data, Queue, QueueStatus, RejectReason, TransportError};
use nvme_tcp::conn::Config;
use support::wire::Format;
use support::{Pair, pattern};
use zerocopy::FromBytes;

/// Commands in flight when the bad PDU comes.
struct Flight {
    none: u16,
    read: u16,
    write: u16,
}

const READ_LEN: u32 = 8192;
const WRITE_LEN: u32 = 16_384;

/// A connection with a command of each kind in flight.
fn in_flight(config: Config) -> (Pair, Flight) {
    let mut pair = Pair::ready_with(config, 0, 4096);
    let none = pair.issue(0, Data::None, 100);
    let read = pair.read(READ_LEN as usize, 101);
    let write = pair.write(WRITE_LEN as usize, 102);
    (pair, Flight { none, read, write })
}

/// Polls, expects the failure, checks that commands `tags` were completed, and returns what the host
/// told the controller.
#[track_caller]
fn expect_failure(pair: &mut Pair, tags: &[u32], want: &str) -> Option<TermReq> {
    let QueueStatus::Failed(error) = pair.poll() else { panic!("no failure for: {want}") };
    assert!(matches!(error, TransportError::Protocol { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("tcp://peer:4420: protocol error: "), "{text}");
    assert!(text.contains(want), "wanted `{want}`, got `{text}`");
    let mut done: Vec<_> = pair.done.iter().map(|d| d.tag).collect();
    done.sort_unstable();
    assert_eq!(done, tags);
    for completion in &pair.done {
        let status = completion.cqe.status();
        assert!(status.is(Status::ABORTED_BY_HOST) && !status.dnr(), "{status:?}");
        assert_eq!((status.sct(), status.sc()), (3, 0x71));
    }
    assert_eq!(pair.queue.in_flight(), 0);
    // It stays dead, and says nothing more.
    pair.done.clear();
    pair.send(&[0; 64]);
    assert!(matches!(pair.poll(), QueueStatus::Failed(e) if e == error));
    assert!(pair.done.is_empty());
    let rejected = pair.queue.submit(Sqe::new(0, 1), Data::None, 1).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::NotReady);
    let sent = pair.take();
    assert!(sent.len() <= 1 && pair.partial() == 0, "{sent:?}");
    sent.first().map(|pdu| {
        assert_eq!(pdu.header.pdu_type, PduType::H2C_TERM_REQ);
        assert!(pdu.bytes.len() <= 152);
        TermReq::read_from_prefix(&pdu.bytes).unwrap().0
    })
}

/// One bad PDU on a connection in use, with every combination of digests.
#[track_caller]
fn bad(
    want: &str,
    (fes, fei): (FatalError, u32),
    max_r2t: u16,
    make: impl Fn(&Format, &Flight) -> Vec<u8>,
) {
    for (header_digest, data_digest) in [(false, false), (true, false), (false, true), (true, true)]
    {
        let config = Config { header_digest, data_digest, max_r2t, ..Config::default() };
        let (mut pair, flight) = in_flight(config);
        let bytes = make(&pair.format, &flight);
        pair.send(&bytes);
        let term = expect_failure(&mut pair, &[100, 101, 102], want).expect("told");
        assert_eq!((term.fatal_error(), term.fei.get()), (fes, fei), "{want}");
    }
}

fn field(offset: u32) -> (FatalError, u32) {
    (FatalError::INVALID_HEADER_FIELD, offset)
}

const SEQUENCE: (FatalError, u32) = (FatalError::PDU_SEQUENCE, 0);
const RANGE: (FatalError, u32) = (FatalError::DATA_OUT_OF_RANGE, 0);

#[test]
fn types() {
    for code in [0x00, 0x02, 0x04, 0x06, 0x08, 0x0a, 0x0b, 0x80, 0xff] {
        bad("that no controller sends", field(0), 1, |f, c| {
            let mut pdu = f.ok(c.none);
            pdu[0] = code;
            pdu
        });
    }
    bad("already set up", SEQUENCE, 1, |f, _| f.ic_resp(0, 4096));
}

#[test]
fn header_lengths() {
    for len in [0, 8, 23, 25, 72, 128, 255] {
        bad("CapsuleResp (05h): HLEN", field(2), 1, |f, c| {
            f.changed(&f.ok(c.none), |h| h[2] = len)
        });
        bad("C2HData (07h): HLEN", field(2), 1, |f, c| {
            f.changed(&f.c2h_success(c.read, &pattern(8192)), |h| h[2] = len)
        });
        bad("R2T (09h): HLEN", field(2), 1, |f, c| {
            f.changed(&f.r2t(c.write, 0, 0, 4096), |h| h[2] = len)
        });
        bad("C2HTermReq (03h): HLEN", field(2), 1, |f, _| {
            let mut pdu = f.term(FatalError::PDU_SEQUENCE, 0);
            pdu[2] = len;
            pdu
        });
    }
}

fn set_plen(header: &mut [u8], change: i64) {
    let plen = u32::from_le_bytes(header[4..8].try_into().unwrap());
    let plen = (i64::from(plen) + change) as u32;
    header[4..8].copy_from_slice(&plen.to_le_bytes());
}

#[test]
fn whole_lengths() {
    for change in [-24, -1, 1, 4, 0x7fff_0000, -4096] {
        bad("CapsuleResp (05h): PLEN (byte 4)", field(4), 1, |f, c| {
            f.changed(&f.ok(c.none), |h| set_plen(h, change))
        });
        bad("R2T (09h): PLEN (byte 4)", field(4), 1, |f, c| {
            f.changed(&f.r2t(c.write, 0, 0, 4096), |h| set_plen(h, change))
        });
        bad("C2HData (07h): PLEN (byte 4)", field(4), 1, |f, c| {
            f.changed(&f.c2h_success(c.read, &pattern(8192)), |h| set_plen(h, change))
        });
    }
    for plen in [0u32, 23, 153, u32::MAX] {
        bad("C2HTermReq (03h): PLEN (byte 4)", field(4), 1, |f, _| {
            let mut pdu = f.term(FatalError::PDU_SEQUENCE, 0);
            pdu[4..8].copy_from_slice(&plen.to_le_bytes());
            pdu
        });
    }
}

#[test]
fn digest_flags_that_were_not_agreed() {
    let flip = |h: &mut [u8], bit: u8| h[1] ^= bit;
    bad("CapsuleResp (05h): FLAGS.HDGSTF", field(1), 1, |f, c| {
        f.changed(&f.ok(c.none), |h| flip(h, 1))
    });
    bad("R2T (09h): FLAGS.HDGSTF", field(1), 1, |f, c| {
        f.changed(&f.r2t(c.write, 0, 0, 512), |h| flip(h, 1))
    });
    bad("C2HData (07h): FLAGS.HDGSTF", field(1), 1, |f, c| {
        f.changed(&f.c2h_success(c.read, &pattern(8192)), |h| flip(h, 1))
    });
    bad("C2HData (07h): FLAGS.DDGSTF", field(1), 1, |f, c| {
        f.changed(&f.c2h_success(c.read, &pattern(8192)), |h| flip(h, 2))
    });
    bad("C2HTermReq (03h): FLAGS.HDGSTF", field(1), 1, |f, _| {
        let mut pdu = f.term(FatalError::PDU_SEQUENCE, 0);
        flip(&mut pdu, 1);
        pdu
    });
}

#[test]
fn header_digests() {
    let config = Config { header_digest: true, ..Config::default() };
    type Make = fn(&Format, &Flight) -> Vec<u8>;
    let makes: [(&str, Make); 3] = [
        ("CapsuleResp (05h): header digest", |f, c| f.ok(c.none)),
        ("C2HData (07h): header digest", |f, c| f.c2h_success(c.read, &pattern(8192))),
        ("R2T (09h): header digest", |f, c| f.r2t(c.write, 0, 0, 4096)),
    ];
    for (want, make) in makes {
        // Bytes that no other check looks at before the digest is compared.
        for at in (8..28).chain([1]) {
            let (mut pair, flight) = in_flight(config);
            let mut pdu = make(&pair.format, &flight);
            pdu[at] ^= 0x40;
            let received = u32::from_le_bytes(pdu[24..28].try_into().unwrap());
            pair.send(&pdu);
            let term = expect_failure(&mut pair, &[100, 101, 102], want).unwrap();
            assert_eq!(term.fatal_error(), FatalError::HEADER_DIGEST);
            assert_eq!(term.fei.get(), received);
        }
    }
}

#[test]
fn data_offsets() {
    for pdo in [0u8, 8, 23, 25, 27, 29, 254] {
        bad("C2HData (07h): PDO (byte 3)", field(3), 1, |f, c| {
            f.changed(&f.c2h_success(c.read, &pattern(8192)), |h| h[3] = pdo)
        });
    }
    let config = Config { hpda: 31, ..Config::default() };
    let (mut pair, flight) = in_flight(config);
    pair.send(&Format::plain().c2h_success(flight.read, &pattern(8192)));
    expect_failure(&mut pair, &[100, 101, 102], "alignment that HPDA asked for");
}

#[test]
fn command_identifiers() {
    type Make = fn(&Format, u16) -> Vec<u8>;
    let makes: [(&str, u32, Make); 3] = [
        ("CapsuleResp (05h) for command", 20, |f, cid| f.ok(cid)),
        ("C2HData (07h) for command", 8, |f, cid| f.c2h_success(cid, &pattern(8192))),
        ("R2T (09h) for command", 8, |f, cid| f.r2t(cid, 0, 0, 512)),
    ];
    for (want, at, make) in makes {
        // Queue of 127: 7 bits of index, of which 127 itself cannot be.
        bad(want, field(at), 1, |f, _| make(f, 127));
        bad("can exist", field(at), 1, |f, _| make(f, 0xffff));
        bad("generation", field(at), 1, |f, c| make(f, c.read ^ 0x80));
        bad("generation", field(at), 1, |f, c| make(f, c.read.wrapping_add(0x4000)));
        bad("never sent", field(at), 1, |f, _| make(f, 50));
    }
    // Answered twice: together, and after the slot has been used again.
    let (mut pair, flight) = in_flight(Config::default());
    pair.send(&[pair.format.ok(flight.none), pair.format.ok(flight.none)].concat());
    let status = pair.poll();
    assert!(
        matches!(status, QueueStatus::Failed(e) if e.to_string().contains("already completed"))
    );
    let tags: Vec<_> = pair.done.iter().map(|d| d.tag).collect();
    assert_eq!(tags, [100, 101, 102]);
    let (mut pair, flight) = in_flight(Config { entries: 4, ..Config::default() });
    pair.send(&pair.format.ok(flight.none));
    pair.poll();
    pair.done.clear();
    let again = pair.issue(0, Data::None, 103);
    assert_ne!(again, flight.none);
    pair.send(&pair.format.ok(flight.none));
    expect_failure(&mut pair, &[101, 102, 103], "another generation");
}

#[test]
fn answers_before_the_command_was_sent() {
    type Make = fn(&Format, u16) -> Vec<u8>;
    let makes: [Make; 3] = [
        |f, cid| f.ok(cid),
        |f, cid| f.c2h_success(cid, &pattern(512)),
        |f, cid| f.r2t(cid, 0, 0, 512),
    ];
    for make in makes {
        for part in [0, 1, 71] {
            let mut pair = Pair::ready(Config::default());
            // The first identifier of the first slot, learnt from a connection just like this one.
            let cid = Pair::ready(Config::default()).read(512, 0);
            pair.credit(Some(part));
            let data = Data::Read(nvme_core::buffer::Buffer::zeroed(512));
            pair.queue.submit(Sqe::new(2, 1), data, 1).unwrap();
            pair.queue.flush();
            pair.send(&make(&pair.format, cid));
            pair.credit(Some(0));
            let QueueStatus::Failed(error) = pair.poll() else { panic!() };
            assert!(error.to_string().contains("has not been sent yet"), "{error}");
            assert_eq!(pair.done.len(), 1);
        }
    }
}

#[test]
fn data_for_the_wrong_command() {
    bad("data for a command that writes", field(8), 1, |f, c| {
        f.c2h(c.write, 0, &pattern(512), PduFlags::LAST_PDU)
    });
    bad("data for a command without data", field(8), 1, |f, c| {
        f.c2h(c.none, 0, &pattern(512), PduFlags::LAST_PDU)
    });
}

#[test]
fn data_that_does_not_fit() {
    bad("DATAL (byte 16) is 0", field(16), 1, |f, c| {
        let pdu = f.c2h(c.read, 0, &[], PduFlags::LAST_PDU);
        f.changed(&pdu, |h| {
            h[1] |= if f.data_digest { 2 } else { 0 };
            h[3] = h[4];
        })
    });
    for (offset, len) in [(0, 8196), (8192, 4), (8188, 8), (u32::MAX, 1), (u32::MAX - 3, 8)] {
        bad("outside of its 8192 bytes", RANGE, 1, |f, c| {
            f.c2h(c.read, offset, &pattern(len), PduFlags::empty())
        });
    }
    for offset in [1, 4, 4096] {
        bad("out of order, expected 0", RANGE, 1, |f, c| {
            f.c2h(c.read, offset, &pattern(512), PduFlags::empty())
        });
    }
    for offset in [0, 511, 513, 1024] {
        bad("out of order, expected 512", RANGE, 1, |f, c| {
            let first = f.c2h(c.read, 0, &pattern(512), PduFlags::empty());
            [first, f.c2h(c.read, offset, &pattern(512), PduFlags::empty())].concat()
        });
    }
    bad("after the last data PDU", SEQUENCE, 1, |f, c| {
        let first = f.c2h(c.read, 0, &pattern(512), PduFlags::LAST_PDU);
        [first, f.c2h(c.read, 512, &pattern(512), PduFlags::empty())].concat()
    });
}

#[test]
fn success_that_cannot_be() {
    bad("FLAGS.SUCCESS", field(1), 1, |f, c| f.c2h(c.read, 0, &pattern(8192), PduFlags::SUCCESS));
    bad("C2HData (07h) for command", SEQUENCE, 1, |f, c| f.c2h_success(c.read, &pattern(4096)));
    bad("success after 0 of 8192 bytes read", SEQUENCE, 1, |f, c| f.ok(c.read));
    bad("success after 8188 of 8192 bytes read", SEQUENCE, 1, |f, c| {
        let data = f.c2h(c.read, 0, &pattern(8188), PduFlags::LAST_PDU);
        [data, f.ok(c.read)].concat()
    });
    bad("success after 0 of 16384 bytes written", SEQUENCE, 1, |f, c| f.ok(c.write));
}

#[test]
fn requests_for_data_that_cannot_be() {
    bad("the command does not write", field(8), 1, |f, c| f.r2t(c.read, 0, 0, 512));
    bad("the command does not write", field(8), 1, |f, c| f.r2t(c.none, 0, 0, 512));
    bad("R2TL (byte 16) is 0", field(16), 1, |f, c| f.r2t(c.write, 0, 0, 0));
    for (offset, len) in [(0, 16_385), (16_384, 1), (16_380, 8), (u32::MAX, 2), (1, u32::MAX)] {
        bad("outside of its 16384 bytes", RANGE, 1, |f, c| f.r2t(c.write, 0, offset, len));
    }
    bad("out of order, expected 4096", RANGE, 2, |f, c| {
        [f.r2t(c.write, 0, 0, 4096), f.r2t(c.write, 1, 4092, 4096)].concat()
    });
    for limit in [1u16, 2, 5] {
        bad("outstanding", (FatalError::LIMIT_EXCEEDED, 0), limit, |f, c| {
            (0..=limit).flat_map(|i| f.r2t(c.write, i, u32::from(i) * 512, 512)).collect()
        });
    }
}

#[test]
fn a_request_for_data_that_went_in_the_capsule() {
    let mut pair = Pair::ready(Config::default());
    pair.queue.set_in_capsule_data(4096);
    let cid = pair.write(4096, 1);
    pair.send(&pair.format.r2t(cid, 0, 0, 512));
    expect_failure(&mut pair, &[1], "out of order, expected 4096");
}

#[test]
fn a_termination_by_the_controller_is_reported_and_not_answered() {
    let (mut pair, _) = in_flight(Config::default());
    pair.send(&pair.format.term(FatalError::HEADER_DIGEST, 0x1234));
    let want =
        "controller terminated the connection: Header Digest Error (03h), information 0x1234";
    assert!(expect_failure(&mut pair, &[100, 101, 102], want).is_none());
    let (mut pair, _) = in_flight(Config::default());
    pair.send(&pair.format.term(FatalError(0x77), 0));
    assert!(expect_failure(&mut pair, &[100, 101, 102], "unknown (77h)").is_none());
}

/// One bad answer to ICReq.
#[track_caller]
fn bad_set_up(want: &str, told: (FatalError, u32), make: impl Fn(&Format) -> Vec<u8>) {
    for (header_digest, data_digest) in [(false, false), (true, false), (false, true), (true, true)]
    {
        let mut pair = Pair::new(Config { header_digest, data_digest, ..Config::default() });
        pair.poll();
        pair.take_one();
        let bytes = make(&pair.format);
        pair.send(&bytes);
        let term = expect_failure(&mut pair, &[], want).expect("told");
        assert_eq!((term.fatal_error(), term.fei.get()), told, "{want}");
    }
}

#[test]
fn set_up() {
    let parameter = |at| (FatalError::UNSUPPORTED_PARAMETER, at);
    let changed = |f: &Format, at: usize, value: u8| {
        let mut pdu = f.ic_resp(0, 4096);
        pdu[at] = value;
        pdu
    };
    for (at, value) in [(8, 1), (9, 1), (8, 0xff)] {
        bad_set_up("ICResp: PFV (byte 8)", parameter(8), |f| changed(f, at, value));
    }
    for cpda in [32, 255] {
        bad_set_up("ICResp: CPDA (byte 10)", parameter(10), |f| changed(f, 10, cpda));
    }
    for flip in [1, 2, 3] {
        bad_set_up("ICResp: DGST (byte 11)", parameter(11), |f| {
            changed(f, 11, f.digests().bits() ^ flip)
        });
    }
    for max in [0, 1, 4092, 4095, 4097, 4098, u32::MAX] {
        bad_set_up("ICResp: MAXH2CDATA (byte 12)", parameter(12), |f| f.ic_resp(0, max));
    }
    for hlen in [0, 24, 127, 129] {
        bad_set_up("ICResp (01h): HLEN", field(2), |f| changed(f, 2, hlen));
    }
    for (at, value) in [(4, 127), (4, 129), (5, 1), (7, 1)] {
        bad_set_up("ICResp (01h): PLEN", field(4), |f| changed(f, at, value));
    }
    bad_set_up("ICResp (01h): FLAGS.HDGSTF", field(1), |f| changed(f, 1, 1));
    bad_set_up("ICResp (01h): FLAGS.DDGSTF", field(1), |f| changed(f, 1, 2));
    bad_set_up("CapsuleResp (05h) while waiting for ICResp", SEQUENCE, |f| f.ok(0));
    bad_set_up("R2T (09h) while waiting for ICResp", SEQUENCE, |f| f.r2t(0, 0, 0, 1));
    bad_set_up("C2HData (07h) while waiting for ICResp", SEQUENCE, |f| f.c2h_success(0, &[1]));
    for code in [0, 2, 4, 6, 8, 10, 255] {
        bad_set_up("that no controller sends", field(0), |f| changed(f, 0, code));
    }
    bad_set_up("already set up", SEQUENCE, |f| [f.ic_resp(0, 4096), f.ic_resp(0, 4096)].concat());

    let mut pair = Pair::new(Config::default());
    pair.poll();
    pair.take_one();
    pair.send(&pair.format.term(FatalError::UNSUPPORTED_PARAMETER, 12));
    assert!(expect_failure(&mut pair, &[], "Unsupported Parameter (06h)").is_none());
}

#[test]
fn reserved_bits_are_not_looked_at() {
    // "The recipient is not required to check" reserved fields (NVMe 2.1 §1.4.2).
    let mut pair = Pair::new(Config::default());
    pair.poll();
    pair.take_one();
    let mut resp = pair.format.ic_resp(31, 4096);
    resp[3] = 77;
    resp[11] |= 0xfc;
    resp[127] = 1;
    pair.send(&resp);
    assert!(matches!(pair.poll(), QueueStatus::Ready));
    let cid = pair.read(512, 1);
    let mut pdu = pair.format.c2h(cid, 0, &pattern(512), PduFlags::LAST_PDU);
    pdu[1] |= 0xf0;
    pdu[10] = 3;
    pdu[20] = 3;
    pair.send(&pdu);
    let mut pdu = pair.format.ok(cid);
    pdu[1] |= 0xf2;
    pdu[3] = 24;
    pair.send(&pdu);
    assert!(matches!(pair.poll(), QueueStatus::Ready));
    pair.done_one();
}

#[test]
fn the_termination_request_shows_the_header_that_was_wrong() {
    let (mut pair, flight) = in_flight(Config::default());
    let pdu = pair.format.r2t(flight.read, 9, 0, 512);
    pair.send(&pdu);
    assert!(matches!(pair.poll(), QueueStatus::Failed(_)));
    let told = pair.take_one();
    assert_eq!(told.header.hlen, 24);
    assert_eq!(told.bytes[24..], pdu);
}

#[test]
fn the_termination_request_waits_for_the_end_of_the_pdu_before_it() {
    let mut pair = Pair::ready_with(Config::default(), 0, 8192);
    let cid = pair.write(8192, 1);
    pair.credit(Some(1000));
    pair.send(&pair.format.r2t(cid, 0, 0, 8192));
    pair.poll();
    pair.credit(None);
    // The next poll first sends the rest; so the failure is made to come by way of a blocked stream.
    pair.credit(Some(1));
    pair.send(&pair.format.r2t(cid, 1, 0, 8192));
    assert!(matches!(pair.poll(), QueueStatus::Failed(_)));
    assert!(pair.take().is_empty(), "no termination request inside of a data PDU");
    assert_eq!(pair.done.len(), 1);
}
