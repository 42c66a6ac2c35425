//! What the wire's structures cost, without a socket: a connection of the host between two buffers,
//! digests, entries of queues, and the largest log that a controller is asked for.

use std::hint::black_box;
use std::io::IoSlice;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use nvme_core::buffer::Buffer;
use nvme_core::spec::log::{AnaGroup, AnaLog, AnaState};
use nvme_core::spec::tcp::{CapsuleCmd, DigestFlags};
use nvme_core::spec::tcp::{CapsuleResp, CommonHeader, DataHeader, IcResp, PduFlags, PduType};
use nvme_core::spec::{BlockCount, Cqe, Sqe, Status};
use nvme_core::time::Instant;
use nvme_core::transport::{Completion, Data};
use nvme_tcp::conn::{Config, Connection};
use zerocopy::{FromBytes, IntoBytes};

/// Commands that are sent and answered together.
const DEPTH: usize = 32;
const BLOCK: usize = 4096;

fn command(write: bool, lba: u64) -> Sqe {
    let one = BlockCount::new(1).expect("one block");
    if write { Sqe::write(1, lba, one) } else { Sqe::read(1, lba, one) }
}

/// A connection that is set up, and buffers for its commands.
struct Wire {
    conn: Connection,
    spare: Vec<Buffer>,
    done: Vec<Completion>,
    /// Command identifiers of what was sent.
    sent: Vec<u16>,
    answers: Vec<u8>,
    digests: bool,
}

impl Wire {
    fn new(digests: bool) -> Self {
        let config = Config { header_digest: digests, data_digest: digests, ..Config::default() };
        let mut conn = Connection::new(config, Instant::NEVER);
        let mut wire = Vec::new();
        send(&mut conn, &mut wire);
        let mut granted = DigestFlags::empty();
        granted.set(DigestFlags::HEADER | DigestFlags::DATA, digests);
        let mut done = Vec::new();
        receive(&mut conn, IcResp::new(0, granted, 1 << 17).as_bytes(), &mut done);
        conn.set_in_capsule_data(BLOCK);
        let spare = (0..DEPTH).map(|_| Buffer::zeroed(BLOCK)).collect();
        Self { conn, spare, done, sent: Vec::new(), answers: Vec::new(), digests }
    }

    /// Sends as many commands as there are buffers, and has the answers ready.
    fn send(&mut self, write: bool) {
        let mut wire = Vec::with_capacity(DEPTH * (BLOCK + 80));
        for tag in 0..DEPTH as u32 {
            let Some(buffer) = self.spare.pop() else { break };
            let data = if write { Data::Write(buffer) } else { Data::Read(buffer) };
            self.conn.submit(command(write, tag.into()), data, tag).expect("room");
        }
        send(&mut self.conn, &mut wire);
        self.sent.clear();
        let mut rest = wire.as_slice();
        while let Ok((capsule, _)) = CapsuleCmd::read_from_prefix(rest) {
            self.sent.push(capsule.sqe.cid.get());
            rest = &rest[capsule.header.plen.get() as usize..];
        }
        self.answers.clear();
        for cid in &self.sent {
            answer(&mut self.answers, *cid, write, self.digests);
        }
    }

    fn receive(&mut self) {
        receive(&mut self.conn, &self.answers, &mut self.done);
        assert_eq!(self.done.len(), self.sent.len());
        self.spare.extend(self.done.drain(..).map(|c| c.data.into_buffer()));
    }
}

fn send(conn: &mut Connection, wire: &mut Vec<u8>) {
    while conn.has_output() {
        let mut slices = [IoSlice::new(&[]); 64];
        let used = conn.gather(&mut slices);
        let before = wire.len();
        slices[..used].iter().for_each(|slice| wire.extend_from_slice(slice));
        let n = wire.len() - before;
        conn.advance(n);
    }
}

fn receive(conn: &mut Connection, mut bytes: &[u8], done: &mut Vec<Completion>) {
    while !bytes.is_empty() {
        let (direct, staged) = conn.read_targets();
        let (a, rest) = bytes.split_at(direct.len().min(bytes.len()));
        let (b, rest) = rest.split_at(staged.len().min(rest.len()));
        direct[..a.len()].copy_from_slice(a);
        staged[..b.len()].copy_from_slice(b);
        bytes = rest;
        conn.received(a.len() + b.len(), done).expect("answers without fault");
    }
}

/// The answer to one command: data with success, or a response.
fn answer(wire: &mut Vec<u8>, cid: u16, write: bool, digests: bool) {
    let digest = |bytes: &[u8]| crc_fast::crc32_iscsi(bytes).to_le_bytes();
    let extra = if digests { 4 } else { 0 };
    let mut flags = PduFlags::empty();
    flags.set(PduFlags::HDGSTF, digests);
    if write {
        let mut header = CommonHeader::new(PduType::CAPSULE_RESP);
        header.flags = flags;
        header.plen = (24 + extra).into();
        let response = CapsuleResp { header, cqe: Cqe::new(cid, Status::SUCCESS, 0) };
        wire.extend_from_slice(response.as_bytes());
        if digests {
            wire.extend_from_slice(&digest(response.as_bytes()));
        }
        return;
    }
    flags.set(PduFlags::DDGSTF, digests);
    let mut header = DataHeader::c2h(cid, 0, BLOCK as u32);
    header.header.flags = flags | PduFlags::LAST_PDU | PduFlags::SUCCESS;
    header.header.pdo = 24 + extra as u8;
    header.header.plen = (24 + 2 * extra + BLOCK as u32).into();
    wire.extend_from_slice(header.as_bytes());
    if digests {
        wire.extend_from_slice(&digest(header.as_bytes()));
    }
    let data = [0x5a; BLOCK];
    wire.extend_from_slice(&data);
    if digests {
        wire.extend_from_slice(&digest(&data));
    }
}

fn pdus(c: &mut Criterion) {
    for (digests, more) in [(false, ""), (true, "-digests")] {
        for (write, name) in [(false, "read"), (true, "write")] {
            let mut group = c.benchmark_group(format!("codec-4k-{name}{more}"));
            group.throughput(Throughput::Elements(DEPTH as u64));
            group.bench_function("encode", |b| {
                let mut wire = Wire::new(digests);
                let mut out = Vec::with_capacity(DEPTH * (BLOCK + 80));
                b.iter_custom(|rounds| {
                    let mut took = std::time::Duration::ZERO;
                    for _ in 0..rounds {
                        let begun = std::time::Instant::now();
                        for tag in 0..DEPTH as u32 {
                            let Some(buffer) = wire.spare.pop() else { break };
                            let data = if write { Data::Write(buffer) } else { Data::Read(buffer) };
                            let sqe = command(write, tag.into());
                            wire.conn.submit(sqe, data, tag).expect("room");
                        }
                        let mut slices = [IoSlice::new(&[]); 64];
                        let shown = wire.conn.gather(&mut slices);
                        black_box(&slices[..shown]);
                        took += begun.elapsed();
                        out.clear();
                        send(&mut wire.conn, &mut out);
                        answered(&mut wire, &out, write);
                    }
                    took
                });
            });
            group.bench_function("decode", |b| {
                let mut wire = Wire::new(digests);
                b.iter_custom(|rounds| {
                    let mut took = std::time::Duration::ZERO;
                    for _ in 0..rounds {
                        wire.send(write);
                        let begun = std::time::Instant::now();
                        wire.receive();
                        took += begun.elapsed();
                    }
                    took
                });
            });
            group.finish();
        }
    }
}

/// Answers what `out` holds.
fn answered(wire: &mut Wire, out: &[u8], write: bool) {
    wire.sent.clear();
    wire.answers.clear();
    let mut rest = out;
    while let Ok((capsule, _)) = CapsuleCmd::read_from_prefix(rest) {
        let cid = capsule.sqe.cid.get();
        wire.sent.push(cid);
        answer(&mut wire.answers, cid, write, wire.digests);
        rest = &rest[capsule.header.plen.get() as usize..];
    }
    wire.receive();
}

fn digests(c: &mut Criterion) {
    let bytes: Vec<u8> = (0..128 << 10).map(|i: u32| (i * 7) as u8).collect();
    let mut group = c.benchmark_group("codec-digest");
    for n in [24, 72, 4096, 128 << 10] {
        group.throughput(Throughput::Bytes(n as u64));
        group.bench_function(format!("{n}"), |b| {
            b.iter(|| crc_fast::crc32_iscsi(black_box(&bytes[..n])));
        });
    }
    group.finish();
}

fn entries(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec-entry");
    group.bench_function("sqe-encode", |b| {
        b.iter(|| black_box(command(false, black_box(77))).as_bytes()[63]);
    });
    let bytes = Cqe::new(7, Status::SUCCESS, 9);
    group.bench_function("cqe-decode", |b| {
        b.iter(|| {
            let cqe = Cqe::read_from_bytes(black_box(bytes.as_bytes())).expect("16 bytes");
            (cqe.cid.get(), cqe.status(), cqe.result())
        });
    });
    group.finish();
}

fn ana(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec-ana-log");
    for (groups, namespaces) in [(1, 1), (16, 64), (128, 128)] {
        let nsids: Vec<_> = (1..=namespaces).map(zerocopy::little_endian::U32::new).collect();
        let state = AnaState::OPTIMIZED;
        let all = (1..=groups).map(|grpid| AnaGroup { grpid, chgcnt: 1, state, nsids: &nsids });
        let page = AnaLog::encode(5, all);
        group.throughput(Throughput::Bytes(page.len() as u64));
        group.bench_function(format!("{groups}-groups-of-{namespaces}"), |b| {
            b.iter_batched_ref(
                || page.as_slice(),
                |page| {
                    let log = AnaLog::parse(black_box(page)).expect("a log");
                    log.groups().map(|g| g.nsids.len()).sum::<usize>()
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = pdus, digests, entries, ana
}
criterion_main!(benches);
