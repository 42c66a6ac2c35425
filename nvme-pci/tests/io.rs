//! Verified I/O on a device in the process.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use support::{Bed, channel, connect, pattern, persistent, verify};

#[test]
fn what_is_written_is_read_at_every_length() {
    for (url, block_size) in [
        ("mem://a", 512),
        ("mem://a", 4096),
        ("mem://a?poll=1", 512),
        ("mem://a?scatter=1", 512),
        ("mem://a?scatter=1&sgl=0&poll=1", 4096),
        ("mem://a?irq=1&sgl=0", 512),
        ("mem://a?vectors=1", 512),
    ] {
        let mut bed = Bed::new(block_size);
        bed.device("a");
        let host = bed.host();
        let (_controller, head) = connect(&host, url, persistent());
        let mut channel = channel(&host);
        let block = block_size as usize;
        let mut lengths: Vec<usize> = vec![1, 2, 3, 7, 8, 9, 16, 17, 64, 255, 256, 257];
        lengths.extend([1 << 20, 2 << 20, (2 << 20) + 4096, 4 << 20].map(|bytes| bytes / block));
        for (i, blocks) in lengths.into_iter().enumerate() {
            let slba = (i * 5 + 1) as u64;
            let data = pattern(slba * block as u64, blocks * block, i as u64);
            verify(&mut channel, &head, slba, data);
        }
        host.shutdown_forced(support::LIMIT).unwrap();
    }
}
