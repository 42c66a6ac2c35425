//! Requests with their data at every place of a page, in memory that the device reaches.
#![expect(unsafe_code, reason = "parts of one piece of memory are handed to a device")]

use std::ptr::NonNull;

use nvme_core::buffer::Buffer;
use nvme_e2e::{LIMIT, Pattern, persistent};
use nvme_mpath::ChannelOptions;
use nvme_pci::Counters;

use crate::io::{Ways, head};

/// What lies around the data.
const POISON: u8 = 0xa5;
/// Bytes on each side that are looked at.
const AROUND: usize = 4096;

/// Writes and reads back data that begins at every place of a page that a device can name, in steps
/// of four bytes, and at some that it cannot; nothing around it may be touched. Gives what was
/// counted.
///
/// # Panics
/// If anything is wrong.
pub fn every_place(url: &str, nqn: &str, nsid: u32) -> Counters {
    let ways = Ways::new();
    let host = ways.host();
    let head = head(&host, url, nqn, nsid, persistent());
    let block = head.geometry().block_size as usize;
    let mut channel = host.channel(ChannelOptions::default()).expect("a channel");
    let mut memory = host.dma_buf(128 << 10).expect("memory for the device");
    let odd = [1, 2, 3, 511, 513, 2047, 4094, 4095];
    let all = (0..4096).step_by(4).chain(odd);
    for (n, place) in all.enumerate() {
        // Mostly one block; now and then so many that there are whole pages in between, and a list.
        let len = if n % 64 == 63 { 64 << 10 } else { block };
        let at = AROUND + place;
        let pattern = Pattern { salt: 7, version: n as u64 + 1 };
        let (slba, offset) = (n as u64 % 1000, n as u64 % 1000 * block as u64);
        memory.as_mut_slice().fill(POISON);
        pattern.fill(offset, &mut memory.as_mut_slice()[at..at + len]);
        let whole = NonNull::from(memory.as_mut_slice()).cast::<u8>();
        // SAFETY: a part of the memory, which is left alone until the buffer has come back.
        let part = || unsafe { Buffer::from_raw_parts(whole.add(at), len) };
        let _ = channel.write(&head, slba, part()).expect("a write");
        memory.as_mut_slice().fill(POISON);
        let _ = channel.read(&head, slba, part()).expect("a read");
        let found = memory.as_slice();
        let data = &found[at..at + len];
        assert_eq!(pattern.difference(offset, data), None, "{len} bytes at {place} of a page");
        let around = found[..at].iter().chain(&found[at + len..]);
        assert!(around.into_iter().all(|b| *b == POISON), "touched around {len} bytes at {place}");
    }
    drop(channel);
    drop(head);
    host.shutdown_forced(LIMIT).expect("an end");
    ways.counters(url)
}
