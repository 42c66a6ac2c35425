//! However the bytes are cut, the result is the same; and whatever they are, nothing breaks.

#[path = "support/place.rs"]
mod place;
mod support;

use std::io::IoSlice;

use nvme_core::buffer::Buffer;
use nvme_core::spec::tcp::{CommonHeader, PduFlags, PduType, TERM_REQ_MAX_LEN};
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::Instant;
use nvme_core::transport::{Completion, Data, Queue, QueueStatus};
use nvme_tcp::conn::{Config, Connection, State};
use place::place;
use proptest::prelude::*;
use support::{Pair, READ, WRITE, bytes, pattern};
use zerocopy::FromBytes;

/// A conversation of reads and writes of all sizes; what was completed, and what was sent.
fn converse(config: Config, reads: &[usize], credit: Option<usize>) -> Vec<(u32, Vec<u8>)> {
    let mut pair = Pair::ready_with(config, 1, 4096);
    pair.queue.set_in_capsule_data(1000);
    pair.read_sizes(reads);
    let sizes = [512, 1, 4096, 40_000, 999, 5000, 17, 20_000];
    for (tag, size) in sizes.iter().enumerate() {
        let (opcode, data) = if tag % 2 == 0 {
            (READ, Data::Read(Buffer::zeroed(*size)))
        } else {
            (WRITE, Data::Write(pattern(*size).into()))
        };
        pair.queue.submit(Sqe::new(opcode, 1), data, tag as u32).unwrap();
    }
    pair.queue.flush();
    let format = pair.format;
    let cids: Vec<u16> = pair.take().iter().map(support::Pdu::cid).collect();
    for (tag, size) in sizes.iter().enumerate() {
        let (cid, size) = (cids[tag], *size as u32);
        if tag % 2 == 0 {
            let data = pattern(size as usize);
            let half = data.len().div_ceil(2);
            pair.send(&format.c2h(cid, 0, &data[..half], PduFlags::empty()));
            if half < data.len() {
                pair.send(&format.c2h(cid, half as u32, &data[half..], PduFlags::LAST_PDU));
            }
        } else if size > 1000 {
            pair.send(&format.r2t(cid, 1, 0, size));
        }
    }
    pair.credit(credit);
    let mut sent: Vec<u8> = Vec::new();
    let expect: usize = sizes.iter().skip(1).step_by(2).filter(|s| **s > 1000).sum();
    let mut rounds = 0;
    while sent.len() < expect {
        assert!(matches!(pair.poll(), QueueStatus::Ready));
        for pdu in pair.take() {
            assert_eq!(pdu.header.pdu_type, PduType::H2C_DATA);
            sent.extend(pdu.data(&format));
        }
        pair.credit(credit);
        rounds += 1;
        assert!(rounds < 1_000_000);
    }
    for cid in &cids {
        pair.send(&format.ok(*cid));
    }
    assert!(matches!(pair.poll(), QueueStatus::Ready));
    assert_eq!(pair.queue.in_flight(), 0);
    pair.done.iter().map(|d| (d.tag, bytes(d).to_vec())).collect()
}

fn digests() -> impl Strategy<Value = Config> {
    (any::<bool>(), any::<bool>(), 0u8..4).prop_map(|(header_digest, data_digest, hpda)| Config {
        header_digest,
        data_digest,
        hpda,
        ..Config::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_gives_the_same(
        config in digests(),
        reads in prop::collection::vec(1usize..9000, 1..20),
        credit in prop::option::of(1usize..9000),
    ) {
        let whole = converse(config, &[], None);
        let tags: Vec<u32> = whole.iter().map(|d| d.0).collect();
        prop_assert_eq!(tags, (0..8).collect::<Vec<_>>());
        for (tag, data) in &whole {
            prop_assert_eq!(data, &pattern(data.len()), "tag {}", tag);
        }
        prop_assert_eq!(converse(config, &reads, credit), whole);
    }
}

#[test]
fn byte_by_byte_gives_the_same() {
    for header_digest in [false, true] {
        let config = Config { header_digest, data_digest: header_digest, ..Config::default() };
        assert_eq!(converse(config, &[1], None), converse(config, &[], None));
    }
}

/// Mutated or random bytes for a connection with commands in flight.
fn hostile(config: Config, bytes: &[u8], reads: &[usize]) {
    let mut pair = Pair::ready_with(config, 0, 4096);
    pair.read_sizes(reads);
    for tag in 0..4 {
        pair.read(4096, tag);
        pair.write(8192, 10 + tag);
    }
    pair.send(bytes);
    pair.poll();
    pair.take();
    pair.close();
    assert!(matches!(pair.poll(), QueueStatus::Failed(_)));
    let mut tags: Vec<u32> = pair.done.iter().map(|d| d.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, [0, 1, 2, 3, 10, 11, 12, 13]);
    for done in &pair.done {
        assert_eq!(done.data.len(), if done.tag < 10 { 4096 } else { 8192 });
    }
}

/// A PDU that is right but for a few bytes.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let slot = 0u16..8;
    let pdu = (slot, 0u8..5, 0u32..3, 1u32..5000, any::<u16>());
    let change = prop::collection::vec((0usize..40, any::<u8>()), 0..2);
    (pdu, change).prop_map(|((slot, kind, at, len, other), changes)| {
        // First generation, 7 bits of index.
        let cid = slot | 0x80;
        let format = support::wire::Format::plain();
        let mut pdu = match kind {
            0 => format.ok(cid),
            1 => format.resp(cid, Status::from_raw(other)),
            2 => format.r2t(cid, other, at * 4096, len),
            3 => {
                let flags = PduFlags::from_bits_retain((other & 0xc) as u8);
                format.c2h(cid, at * 2048, &pattern(len as usize), flags)
            }
            _ => format.c2h_success(cid, &pattern(4096)),
        };
        for (at, value) in changes {
            let n = pdu.len();
            pdu[at % n] = value;
        }
        pdu
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_complete_everything_once(
        bytes in prop::collection::vec(any::<u8>(), 0..4000),
        reads in prop::collection::vec(1usize..500, 0..5),
    ) {
        hostile(Config::default(), &bytes, &reads);
    }

    #[test]
    fn nearly_right_bytes_complete_everything_once(
        pdus in prop::collection::vec(nearly_right(), 1..12),
        reads in prop::collection::vec(1usize..5000, 0..5),
        header_digest in any::<bool>(),
        max_r2t in 1u16..4,
    ) {
        let config = Config { max_r2t, ..Config::default() };
        hostile(config, &pdus.concat(), &reads);
        hostile(Config { header_digest, data_digest: true, ..config }, &pdus.concat(), &reads);
    }
}

/// Puts bytes where the connection wants them.
fn feed(conn: &mut Connection, mut bytes: &[u8], sink: &mut Vec<Completion>) -> Result<(), String> {
    while !bytes.is_empty() {
        let (n, _) = place(conn, bytes, false);
        conn.received(n, sink).map_err(|e| e.to_string())?;
        bytes = &bytes[n..];
    }
    Ok(())
}

fn gathered(conn: &mut Connection) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 8];
    let used = conn.gather(&mut slices);
    slices[..used].iter().flat_map(|s| s.iter().copied()).collect()
}

#[test]
fn a_pdu_that_is_on_its_way_is_finished_before_the_termination_request() {
    let format = support::wire::Format::plain();
    for sent in [1, 72, 100, 4095, 4168] {
        let mut conn = Connection::new(Config::default(), Instant::NEVER);
        let mut done = Vec::new();
        let n = gathered(&mut conn).len();
        conn.advance(n);
        feed(&mut conn, &format.ic_resp(0, 4096), &mut done).unwrap();
        conn.set_in_capsule_data(4096);
        for tag in 0..3 {
            conn.submit(Sqe::new(WRITE, 1), Data::Write(pattern(4096).into()), tag).unwrap();
        }
        let first = gathered(&mut conn);
        assert_eq!(first.len() % (72 + 4096), 0);
        conn.advance(sent);
        feed(&mut conn, &format.ok(0x7f), &mut done).unwrap_err();
        conn.terminate(&nvme_tcp::conn::ProtocolError::UnknownPdu(PduType(9)));
        assert_eq!(conn.state(), State::Failed);
        let rest = gathered(&mut conn);
        let end = if sent == 4168 { 0 } else { 4168 - sent };
        assert_eq!(rest[..end], first[sent..sent + end]);
        let (header, _) = CommonHeader::read_from_prefix(&rest[end..]).unwrap();
        assert_eq!(header.pdu_type, PduType::H2C_TERM_REQ);
        assert_eq!(rest.len() - end, header.plen.get() as usize);
        assert!(rest.len() - end <= TERM_REQ_MAX_LEN);
        conn.advance(rest.len());
        assert!(!conn.has_output() || gathered(&mut conn).is_empty());
        conn.abort(&mut done);
        assert_eq!(done.len(), 3);
    }
}

/// A connection that is ready, with so many reads and no byte sent of them.
fn with_reads(reads: u32) -> (Connection, Vec<Completion>) {
    let mut conn = Connection::new(Config::default(), Instant::NEVER);
    let mut done = Vec::new();
    let n = gathered(&mut conn).len();
    conn.advance(n);
    feed(&mut conn, &support::wire::Format::plain().ic_resp(0, 4096), &mut done).unwrap();
    for tag in 0..reads {
        conn.submit(Sqe::new(READ, 1), Data::Read(Buffer::zeroed(4096)), tag).unwrap();
    }
    (conn, done)
}

#[test]
fn of_commands_that_are_sent_together_only_the_one_on_its_way_is_finished() {
    for sent in [1, 71, 72, 73, 143, 144, 215, 216] {
        let (mut conn, mut done) = with_reads(3);
        let first = gathered(&mut conn);
        assert_eq!(first.len(), 3 * 72);
        conn.advance(sent);
        conn.terminate(&nvme_tcp::conn::ProtocolError::UnknownPdu(PduType(9)));
        let rest = gathered(&mut conn);
        let end = sent.next_multiple_of(72) - sent;
        assert_eq!(rest[..end], first[sent..sent + end]);
        let (header, _) = CommonHeader::read_from_prefix(&rest[end..]).unwrap();
        assert_eq!(header.pdu_type, PduType::H2C_TERM_REQ, "after {sent}");
        assert_eq!(rest.len() - end, header.plen.get() as usize);
        conn.abort(&mut done);
        assert_eq!(done.len(), 3);
    }
}

#[test]
fn a_command_does_not_pass_data_that_waits_to_be_sent() {
    let format = support::wire::Format::plain();
    let (mut conn, mut done) = with_reads(0);
    conn.submit(Sqe::new(WRITE, 1), Data::Write(pattern(8192).into()), 0).unwrap();
    let n = gathered(&mut conn).len();
    conn.advance(n);
    let cid = conn.command_id(0).unwrap();
    feed(&mut conn, &format.r2t(cid, 7, 0, 8192), &mut done).unwrap();
    conn.submit(Sqe::new(READ, 1), Data::Read(Buffer::zeroed(512)), 1).unwrap();
    let wire = gathered(&mut conn);
    let mut order = Vec::new();
    let mut rest = wire.as_slice();
    while let Ok((header, _)) = CommonHeader::read_from_prefix(rest) {
        order.push(header.pdu_type);
        rest = &rest[header.plen.get() as usize..];
    }
    // The rest of a large transfer does not hold up the command, either.
    assert_eq!(order, [PduType::H2C_DATA, PduType::CAPSULE_CMD, PduType::H2C_DATA]);
}
