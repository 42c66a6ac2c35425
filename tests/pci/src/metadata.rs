//! Verified I/O on blocks with metadata, after their data or beside it.

use nvme_core::buffer::Buffer;
use nvme_e2e::{LIMIT, persistent};
use nvme_mpath::ChannelOptions;

use crate::io::{Ways, head};

/// IOV_MAX of the machine that QEMU runs on.
const PIECES_MOST: usize = 1024;
const PAGE: usize = 4096;

/// Bytes that tell where they belong.
fn fill(bytes: &mut [u8], salt: usize) {
    let byte = |at: usize| (at / 251 + at + salt * 37) as u8;
    bytes.iter_mut().enumerate().for_each(|(at, b)| *b = byte(at));
}

/// Writes and reads namespaces whose blocks have metadata: in memory that every device reaches, and in
/// memory that is copied; one block to as many as go at once.
///
/// # Panics
/// If anything is wrong, or there is no metadata, or it is not where `beside` says.
pub fn with_metadata(url: &str, nqn: &str, nsid: u32, beside: bool) {
    let ways = Ways::new();
    let host = ways.host();
    let head = head(&host, url, nqn, nsid, persistent());
    let geometry = head.geometry();
    assert!(geometry.metadata_size != 0, "no metadata: {geometry:?}");
    assert_eq!(geometry.extended_metadata, !beside, "{geometry:?}");
    let each = if beside { usize::from(geometry.metadata_size) } else { 0 };
    let block = geometry.buffer_block() as usize;
    let most = geometry.max_transfer / block;
    // What QEMU 7.2 does with metadata limits what it can be asked for. It drops all but the remainder
    // where metadata of more than 512 bytes is no multiple of that (a slip in rounding in its DMA
    // helper). And metadata after the data makes it hand its file one piece of memory per block, and one
    // more wherever a block's data goes over the end of a page, in a single pwritev or preadv: past
    // IOV_MAX the kernel refuses that, and the controller reports Write Fault.
    let whole = 512 / usize::from(geometry.metadata_size);
    let most = if beside { most } else { most.min(PIECES_MOST * PAGE / (PAGE + block)) };
    let largest = most / whole * whole;
    let mut channel = host.channel(ChannelOptions::default()).expect("a channel");
    let mut salt = 0;
    for reached in [false, true] {
        let memory = |len: usize| match reached {
            true => Buffer::from(host.dma_buf(len).expect("memory")),
            false => Buffer::zeroed(len),
        };
        for blocks in [1, 2, 7, 8, 64, largest / 2 / whole * whole, largest] {
            // Memory of the host's comes in multiples of 64 bytes.
            if reached && blocks % 8 != 0 {
                continue;
            }
            salt += 1;
            let (len, beside) = (blocks * block, blocks * each);
            let (mut data, mut metadata) = (vec![0; len], vec![0; beside]);
            fill(&mut data, salt);
            fill(&mut metadata, salt + 1);
            let mut buffer = memory(len);
            if beside != 0 {
                buffer = buffer.with_metadata(memory(beside));
            }
            buffer.as_mut_slice().copy_from_slice(&data);
            if let Some(to) = buffer.metadata_mut() {
                to.copy_from_slice(&metadata);
            }
            let slba = salt as u64 * 3;
            let mut buffer = channel.write(&head, slba, buffer).expect("a write");
            buffer.as_mut_slice().fill(0);
            if let Some(to) = buffer.metadata_mut() {
                to.fill(0);
            }
            let buffer = channel.read(&head, slba, buffer).expect("a read");
            assert!(buffer.as_slice() == data, "{blocks} blocks: other data");
            let seen = buffer.metadata().unwrap_or_default();
            assert!(seen == metadata, "{blocks} blocks: other metadata");
        }
    }
    drop(head);
    host.shutdown_forced(LIMIT).expect("an end");
}
