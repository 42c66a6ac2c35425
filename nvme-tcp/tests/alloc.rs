//! In steady state no command costs an allocation.

#[path = "support/place.rs"]
mod place;
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;

use nvme_core::buffer::Buffer;
use nvme_core::spec::Sqe;
use nvme_core::spec::tcp::CapsuleCmd;
use nvme_core::time::Instant;
use nvme_core::transport::{Completion, Data};
use nvme_tcp::conn::{Config, Connection};
use place::place;
use support::wire::Format;
use support::{READ, WRITE, pattern};
use zerocopy::FromBytes;

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(work: impl FnOnce()) -> usize {
    let before = COUNT.with(Cell::get);
    work();
    COUNT.with(Cell::get) - before
}

fn feed(conn: &mut Connection, mut bytes: &[u8], sink: &mut Vec<Completion>) {
    while !bytes.is_empty() {
        let (n, _) = place(conn, bytes, true);
        conn.received(n, sink).unwrap();
        bytes = &bytes[n..];
    }
}

fn drain(conn: &mut Connection, sink: &mut Vec<Completion>, wire: &mut Vec<u8>) {
    wire.clear();
    while conn.has_output() {
        let mut slices = [IoSlice::new(&[]); 16];
        let used = conn.gather(&mut slices);
        let before = wire.len();
        for slice in &slices[..used] {
            wire.extend_from_slice(slice);
        }
        let n = wire.len() - before;
        conn.advance(n);
    }
    conn.reap(sink);
}

/// Command identifiers and lengths of the capsules in what was sent.
fn capsules(mut wire: &[u8]) -> Vec<(u16, usize)> {
    let mut out = Vec::new();
    while let Ok((capsule, _)) = CapsuleCmd::read_from_prefix(wire) {
        let sgl = capsule.sqe.sgl();
        out.push((capsule.sqe.cid.get(), sgl.length.get() as usize));
        wire = &wire[capsule.header.plen.get() as usize..];
    }
    out
}

#[test]
fn steady_state_allocates_nothing() {
    assert!(count(|| drop(std::hint::black_box(vec![0u8; 16]))) > 0, "the counter counts");
    for digest in [false, true] {
        let format = Format { header_digest: digest, data_digest: digest, align: 4 };
        let config = Config {
            entries: 33,
            header_digest: digest,
            data_digest: digest,
            max_r2t: 2,
            ..Config::default()
        };
        let mut conn = Connection::new(config, Instant::NEVER);
        conn.set_in_capsule_data(4096);
        let mut done: Vec<Completion> = Vec::with_capacity(64);
        let mut wire = Vec::with_capacity(4 << 20);
        drain(&mut conn, &mut done, &mut wire);
        feed(&mut conn, &format.ic_resp(0, 8192), &mut done);

        let mut buffers: Vec<Buffer> =
            (0..32).map(|i| Buffer::from(pattern([4096, 65_536][i % 2]))).collect();
        for round in 1..=20 {
            let submitted = count(|| {
                for (tag, buffer) in (0..).zip(buffers.drain(..)) {
                    let (opcode, data) = if tag < 16 {
                        (READ, Data::Read(buffer))
                    } else {
                        (WRITE, Data::Write(buffer))
                    };
                    conn.submit(Sqe::new(opcode, 1), data, tag).unwrap();
                }
                drain(&mut conn, &mut done, &mut wire);
            });
            assert_eq!(submitted, 0, "round {round}");
            // The peer's bytes are made outside of what is counted.
            let sent = capsules(&wire);
            assert_eq!(sent.len(), 32);
            let (mut answers, mut last) = (Vec::new(), Vec::new());
            for (i, (cid, len)) in sent.into_iter().enumerate() {
                if i < 16 {
                    answers.extend(format.c2h_success(cid, &pattern(len)));
                    continue;
                }
                if len > 4096 {
                    answers.extend(format.r2t(cid, 0, 0, 32_768));
                    answers.extend(format.r2t(cid, 1, 32_768, 32_768));
                }
                last.extend(format.ok(cid));
            }
            let completed = count(|| {
                feed(&mut conn, &answers, &mut done);
                drain(&mut conn, &mut done, &mut wire);
                feed(&mut conn, &last, &mut done);
            });
            assert_eq!((completed, done.len()), (0, 32), "round {round}");
            done.sort_unstable_by_key(|d| d.tag);
            assert!(done.iter().all(|d| d.cqe.status().is_success()));
            buffers.extend(done.drain(..).map(|d| d.data.into_buffer()));
        }
    }
}
