//! An NVMe/TCP connection with commands in flight and a controller that says anything. Each command must be completed
//! exactly once and give its buffer back.
#![no_main]

#[path = "../../nvme-tcp/tests/support/place.rs"]
mod place;

use std::io::IoSlice;

use libfuzzer_sys::fuzz_target;
use nvme_core::buffer::Buffer;
use nvme_core::spec::Sqe;
use nvme_core::spec::tcp::{DigestFlags, IcResp};
use nvme_core::time::Instant;
use nvme_core::transport::{Completion, Data};
use nvme_tcp::conn::{Config, Connection};
use place::place;

/// Commands in flight: even tags read, odd tags write.
const COMMANDS: u32 = 6;

fn send(conn: &mut Connection, most: usize) {
    let mut slices = [IoSlice::new(&[]); 16];
    let used = conn.gather(&mut slices);
    let all: usize = slices[..used].iter().map(|s| s.len()).sum();
    conn.advance(all.min(most));
}

/// Puts `bytes` where the connection wants them; false once it has failed.
fn receive(conn: &mut Connection, mut bytes: &[u8], done: &mut Vec<Completion>) -> bool {
    while !bytes.is_empty() {
        let (n, _) = place(conn, bytes, true);
        bytes = &bytes[n..];
        if let Err(error) = conn.received(n, done) {
            conn.terminate(&error);
            return false;
        }
    }
    true
}

// Digests wanted, then pieces of the stream, each with the number of bytes sent before it.
fuzz_target!(|input: (bool, Vec<(u16, Vec<u8>)>)| {
    let (data_digest, pieces) = input;
    let config = Config { entries: 8, data_digest, max_r2t: 2, ..Config::default() };
    let mut conn = Connection::new(config, Instant::NEVER);
    let mut done = Vec::new();
    send(&mut conn, usize::MAX);
    let mut granted = DigestFlags::empty();
    granted.set(DigestFlags::DATA, data_digest);
    let answer = IcResp::new(0, granted, 4096);
    assert!(receive(&mut conn, zerocopy::IntoBytes::as_bytes(&answer), &mut done));
    for tag in 0..COMMANDS {
        let buffer = Buffer::zeroed(6000);
        let data = if tag % 2 == 0 { Data::Read(buffer) } else { Data::Write(buffer) };
        assert!(conn.submit(Sqe::new(2, 1), data, tag).is_ok());
    }
    send(&mut conn, usize::MAX);
    for (most, bytes) in &pieces {
        if !receive(&mut conn, bytes, &mut done) {
            break;
        }
        send(&mut conn, usize::from(*most));
        conn.reap(&mut done);
    }
    send(&mut conn, usize::MAX);
    conn.abort(&mut done);
    let mut tags: Vec<u32> = done.iter().map(|d| d.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..COMMANDS).collect::<Vec<_>>());
    assert!(done.iter().all(|d| d.data.len() == 6000));
});
