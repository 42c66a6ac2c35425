//! Small reads that are answered in order are received in place, and whatever a controller does instead has the same
//! outcome as with the general way.

#[path = "support/place.rs"]
mod place;
mod support;

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};

use nvme_core::buffer::Buffer;
use nvme_core::spec::tcp::{CapsuleCmd, PduFlags};
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::Instant;
use nvme_core::transport::{Completion, Data};
use nvme_tcp::conn::{Config, Connection, LIST};
use place::place;
use proptest::prelude::*;
use support::wire::Format;
use support::{READ, WRITE, bytes};
use zerocopy::FromBytes;

/// A connection, and what it has completed.
struct Host {
    conn: Connection,
    done: Vec<Completion>,
    /// Receive by lists where the connection has one.
    lists: bool,
    /// Receives by a list.
    listed: usize,
    tags: u32,
}

impl Host {
    fn new(config: Config, format: &Format, lists: bool) -> Self {
        let conn = Connection::new(config, Instant::NEVER);
        let mut host = Self { conn, done: Vec::new(), lists, listed: 0, tags: 0 };
        host.sent();
        host.feed(&format.ic_resp(0, 4096), &[]).unwrap();
        host
    }

    fn submit(&mut self, opcode: u8, data: Data) {
        self.conn.submit(Sqe::new(opcode, 1), data, self.tags).unwrap();
        self.tags += 1;
    }

    fn reads(&mut self, sizes: &[usize]) -> Vec<u16> {
        for size in sizes {
            self.submit(READ, Data::Read(Buffer::zeroed(*size)));
        }
        self.sent()
    }

    /// Sends everything; identifiers of the commands.
    fn sent(&mut self) -> Vec<u16> {
        let mut wire = Vec::new();
        while self.conn.has_output() {
            let mut slices = [IoSlice::new(&[]); 16];
            let used = self.conn.gather(&mut slices);
            let part: Vec<u8> = slices[..used].iter().flat_map(|s| s.iter().copied()).collect();
            self.conn.advance(part.len());
            wire.extend(part);
        }
        let mut cids = Vec::new();
        let mut rest = wire.as_slice();
        while let Ok((capsule, _)) = CapsuleCmd::read_from_prefix(rest) {
            cids.push(capsule.sqe.cid.get());
            rest = &rest[capsule.header.plen.get() as usize..];
        }
        cids
    }

    /// What of `bytes` fits is put where the connection wants it.
    fn put(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let (n, listed) = place(&mut self.conn, bytes, self.lists);
        self.listed += usize::from(listed);
        self.conn.received(n, &mut self.done).map_err(|e| e.to_string())?;
        self.conn.put_aside();
        Ok(n)
    }

    /// Receives `bytes` in pieces of at most `sizes`, in turn; all at once if there are none.
    fn feed(&mut self, bytes: &[u8], sizes: &[usize]) -> Result<(), String> {
        let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
        while !rest.is_empty() {
            let most = sizes.next().map_or(rest.len(), |most| rest.len().min(*most));
            let n = self.put(&rest[..most])?;
            rest = &rest[n..];
        }
        Ok(())
    }

    fn lengths(&mut self) -> Vec<usize> {
        let mut slices: [IoSliceMut<'_>; LIST] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let used = self.conn.read_list(&mut slices);
        slices[..used].iter().map(|slice| slice.len()).collect()
    }
}

/// Data that tells from whose answer it is.
fn content(cid: u16, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u16).wrapping_mul(31).wrapping_add(cid.wrapping_mul(97)) as u8).collect()
}

fn answer(format: &Format, cid: u16, len: usize, success: bool) -> Vec<u8> {
    let data = content(cid, len);
    if success {
        return format.c2h_success(cid, &data);
    }
    [format.c2h(cid, 0, &data, PduFlags::LAST_PDU), format.ok(cid)].concat()
}

#[test]
fn answers_in_order_are_received_where_they_belong() {
    let format = Format::plain();
    for success in [false, true] {
        let mut host = Host::new(Config::default(), &format, true);
        assert_eq!(host.lengths(), [0usize; 0]);
        // The first answers show their form.
        let cid = host.reads(&[4096])[0];
        host.feed(&answer(&format, cid, 4096, success), &[]).unwrap();
        let cids = host.reads(&[4096, 512, 4096]);
        let between = if success { 24 } else { 48 };
        let lengths = host.lengths();
        assert_eq!(lengths[..6], [24, 4096, between, 512, between, 4096]);
        // The first one, and a part of the second.
        let all: Vec<u8> = [(cids[0], 4096), (cids[1], 512), (cids[2], 4096)]
            .iter()
            .flat_map(|(cid, len)| answer(&format, *cid, *len, success))
            .collect();
        let cut = answer(&format, cids[0], 4096, success).len() + 24 + 100;
        host.feed(&all[..cut], &[]).unwrap();
        assert_eq!(host.done.len(), 2);
        let more = host.reads(&[4096]);
        assert_eq!(host.lengths()[..4], [412, between, 4096, between]);
        host.feed(&all[cut..], &[]).unwrap();
        host.feed(&answer(&format, more[0], 4096, success), &[]).unwrap();
        let cids = [cid, cids[0], cids[1], cids[2], more[0]];
        assert_eq!(host.done.len(), 5);
        for (done, cid) in host.done.iter().zip(cids) {
            assert_eq!(done.cqe.status(), Status::SUCCESS);
            assert_eq!(bytes(done), content(cid, done.data.len()));
        }
    }
}

#[test]
fn an_answer_out_of_order_makes_lists_rare_and_order_brings_them_back() {
    let format = Format::plain();
    let mut host = Host::new(Config::default(), &format, true);
    let rounds = |host: &mut Host, count: usize, back: bool| {
        let before = host.listed;
        for _ in 0..count {
            let mut cids = host.reads(&[512; 4]);
            if back {
                cids.reverse();
            }
            let all: Vec<u8> =
                cids.iter().flat_map(|cid| answer(&format, *cid, 512, true)).collect();
            host.feed(&all, &[]).unwrap();
            for done in host.done.drain(..) {
                assert_eq!(bytes(&done), content(done.cqe.cid.get(), 512));
            }
        }
        host.listed - before
    };
    assert_eq!(rounds(&mut host, 100, false), 99);
    assert_eq!(rounds(&mut host, 4000, true), 6);
    assert_eq!(host.conn.in_flight(), 0);
    // At most so many are left to be received the general way.
    rounds(&mut host, 4096, false);
    assert_eq!(rounds(&mut host, 100, false), 100);
}

#[test]
fn the_longest_list_is_copied_when_its_first_answer_is_another() {
    let format = Format::plain();
    let mut host = Host::new(Config::default(), &format, true);
    let cid = host.reads(&[4096])[0];
    host.feed(&answer(&format, cid, 4096, false), &[]).unwrap();
    let cids = host.reads(&[4096; 20]);
    let all: Vec<u8> =
        cids.iter().rev().flat_map(|cid| answer(&format, *cid, 4096, false)).collect();
    let lengths = host.lengths();
    assert_eq!(lengths.iter().sum::<usize>(), 16 * (24 + 4096 + 24));
    assert_eq!(lengths.len(), 33);
    host.feed(&all, &[]).unwrap();
    assert_eq!(host.listed, 1);
    assert_eq!(host.done.len(), 21);
    for done in &host.done {
        assert_eq!(bytes(done), content(done.cqe.cid.get(), 4096));
    }
}

#[test]
fn every_wrong_bit_of_a_header_has_the_outcome_of_the_general_way() {
    const SIZE: usize = 512;
    let format = Format::plain();
    for success in [false, true] {
        let heads = if success { 0..24 } else { 0..48 };
        for (at, bit) in heads.flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let ends = [false, true].map(|lists| {
                let mut host = Host::new(Config::default(), &format, lists);
                let cid = host.reads(&[SIZE])[0];
                host.feed(&answer(&format, cid, SIZE, success), &[]).unwrap();
                let cids = host.reads(&[SIZE; 4]);
                let mut all: Vec<Vec<u8>> =
                    cids.iter().map(|cid| answer(&format, *cid, SIZE, success)).collect();
                let at = if at < 24 { at } else { at + SIZE };
                all[1][at] ^= 1 << bit;
                let result = host.feed(&all.concat(), &[]);
                assert_eq!(host.listed > 0, lists);
                host.conn.abort(&mut host.done);
                (result, host.done.iter().map(outcome).collect::<Vec<_>>())
            });
            assert!(ends[0] == ends[1], "byte {at}, bit {bit}");
        }
    }
}

/// What a controller does with the commands that it has.
#[derive(Clone, Copy, Debug)]
enum Habit {
    InOrder,
    /// Sometimes the second before the first.
    NearlyInOrder,
    Backwards,
    /// The data of a read in two PDUs.
    Split,
    /// All data first, then all responses.
    DataFirst,
    /// An error now and then.
    Failing,
}

#[derive(Clone, Debug)]
struct Round {
    /// Bytes of each new command; of writes where that is odd.
    sizes: Vec<usize>,
    habit: Habit,
    success: bool,
    /// Commands that stay unanswered until the next round.
    left: usize,
    chunks: Vec<usize>,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let habit = prop_oneof![
        8 => Just(Habit::InOrder),
        1 => Just(Habit::NearlyInOrder),
        1 => Just(Habit::Backwards),
        1 => Just(Habit::Split),
        1 => Just(Habit::DataFirst),
        1 => Just(Habit::Failing),
    ];
    let size = prop_oneof![12 => Just(4096usize), 4 => Just(512usize), 1 => Just(20_000usize), 1 => Just(8192usize)];
    let sizes = prop::collection::vec(
        (size, prop::bool::weighted(0.03)).prop_map(|(size, write)| size + usize::from(write)),
        0..40,
    );
    let chunk = prop_oneof![Just(usize::MAX), 1usize..60, 4000usize..4300, 1usize..70_000];
    let chunks = prop::collection::vec(chunk, 0..5);
    let round = (sizes, habit, prop::bool::weighted(0.5), 0usize..6, chunks).prop_map(
        |(sizes, habit, success, left, chunks)| Round { sizes, habit, success, left, chunks },
    );
    prop::collection::vec(round, 1..12)
}

/// The answers of a round, from the commands that wait.
fn answers(format: &Format, round: &Round, waiting: &mut VecDeque<(u16, usize)>) -> Vec<u8> {
    let count = waiting.len().saturating_sub(round.left);
    let mut now: Vec<(u16, usize)> = waiting.drain(..count).collect();
    match round.habit {
        Habit::Backwards => now.reverse(),
        Habit::NearlyInOrder => now.chunks_mut(7).for_each(|some| some.reverse()),
        _ => {}
    }
    let mut out = Vec::new();
    let mut responses = Vec::new();
    for (n, (cid, len)) in now.into_iter().enumerate() {
        if len % 2 == 1 {
            out.extend(format.ok(cid));
            continue;
        }
        match round.habit {
            Habit::Split if n % 3 == 1 => {
                let data = content(cid, len);
                let (a, b) = data.split_at(len / 2);
                out.extend(format.c2h(cid, 0, a, PduFlags::empty()));
                out.extend(format.c2h(cid, (len / 2) as u32, b, PduFlags::LAST_PDU));
                out.extend(format.ok(cid));
            }
            Habit::Failing if n % 5 == 2 => {
                out.extend(format.resp(cid, Status::INVALID_FIELD));
            }
            Habit::DataFirst => {
                out.extend(format.c2h(cid, 0, &content(cid, len), PduFlags::LAST_PDU));
                responses.extend(format.ok(cid));
            }
            _ => out.extend(answer(format, cid, len, round.success)),
        }
    }
    out.extend(responses);
    out
}

/// What is to be compared of a completion: the data of one that failed means nothing.
fn outcome(done: &Completion) -> (u32, u16, Status, Vec<u8>) {
    let status = done.cqe.status();
    let data = match (&done.data, status.is_success()) {
        (Data::Read(_), true) => bytes(done).to_vec(),
        (data, _) => vec![0; data.len()],
    };
    (done.tag, done.cqe.cid.get(), status, data)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_controller_does_the_outcome_is_that_of_the_general_way(
        rounds in rounds(),
        damage in prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u8..)),
    ) {
        let format = Format::plain();
        let config = Config { entries: 129, ..Config::default() };
        let mut hosts = [false, true].map(|lists| Host::new(config, &format, lists));
        let mut waiting = VecDeque::new();
        let damaged = damage.map(|(round, at, xor)| (round.index(rounds.len()), at, xor));
        'all: for (number, round) in rounds.iter().enumerate() {
            let room = 128 - hosts[0].conn.in_flight();
            let sizes = &round.sizes[..round.sizes.len().min(room)];
            let cids = hosts.each_mut().map(|host| {
                host.conn.set_in_capsule_data(32 * 1024);
                for size in sizes {
                    match size % 2 {
                        0 => host.submit(READ, Data::Read(Buffer::zeroed(*size))),
                        _ => host.submit(WRITE, Data::Write(Buffer::zeroed(*size))),
                    }
                }
                host.sent()
            });
            prop_assert_eq!(&cids[0], &cids[1]);
            waiting.extend(cids[0].iter().copied().zip(sizes.iter().copied()));
            let mut bytes = answers(&format, round, &mut waiting);
            if let Some((_, at, xor)) = damaged.filter(|d| d.0 == number && !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] ^= xor;
            }
            let results = hosts.each_mut().map(|host| host.feed(&bytes, &round.chunks));
            prop_assert_eq!(&results[0], &results[1]);
            let outcomes = hosts.each_ref().map(|h| h.done.iter().map(outcome).collect::<Vec<_>>());
            prop_assert_eq!(&outcomes[0], &outcomes[1]);
            if damaged.is_none_or(|d| d.0 > number) {
                prop_assert!(results[0].is_ok());
                for (_, cid, status, data) in &outcomes[1] {
                    let read = !data.is_empty() && data.len() % 2 == 0 && status.is_success();
                    prop_assert!(!read || *data == content(*cid, data.len()));
                }
            }
            hosts.iter_mut().for_each(|host| host.done.clear());
            if results[0].is_err() || damaged.is_some_and(|d| d.0 == number) {
                break 'all;
            }
        }
        // Every buffer comes back.
        let left = hosts.each_mut().map(|host| {
            host.conn.abort(&mut host.done);
            host.done.iter().map(|done| (done.tag, done.data.len())).collect::<Vec<_>>()
        });
        prop_assert_eq!(&left[0], &left[1]);
        prop_assert!(left[1].iter().all(|(_, len)| *len > 0));
    }
}
