//! Data come back as they were written: with digests and without, on one queue and on four, in
//! blocks of 512 bytes and of 4 KiB, in transfers from one block to 1 MiB. On Linux's target and on
//! the software target, in several shapes of its data path.
use std::sync::Arc;

use nvme_core::buffer::Buffer;
use nvme_e2e::{Bed, LIMIT, Nvmet, PORTS, Pattern, Session, Software, wait_for};
use nvme_mpath::{Channel, ControllerOptions, Head, IoOp, IoRequest};
use nvme_target::{SuccessFlag, Transport};

/// Bytes of one transfer; the odd ones end in the middle of a page, and of a data PDU.
const SIZES: [usize; 8] = [512, 4096, 8192, 12 << 10, 16 << 10, 20 << 10, 128 << 10, 1 << 20];
/// Requests under way at once.
const DEPTH: usize = 4;

/// Writes `count` transfers of `len` bytes one after the other from byte `base` on, several at a
/// time, then reads them back.
fn verify(channel: &mut Channel, head: &Arc<Head>, base: u64, len: usize, count: usize, salt: u64) {
    let block_size = u64::from(head.geometry().block_size);
    let pattern = |i: usize| Pattern { salt, version: i as u64 };
    let place = |i: usize| base + (i * len) as u64;
    for op in [IoOp::Write, IoOp::Read] {
        let (mut begun, mut ended) = (0, 0);
        let mut done = Vec::new();
        while ended < count {
            while begun < count && begun - ended < DEPTH {
                let slba = place(begun) / block_size;
                let request = match op {
                    IoOp::Write => {
                        let data = pattern(begun).bytes(place(begun), len);
                        IoRequest::write(slba, data.into(), begun as u64)
                    }
                    _ => IoRequest::read(slba, Buffer::zeroed(len), begun as u64),
                };
                channel.submit(head, request).expect("a request that can be right");
                begun += 1;
            }
            wait_for("a completion", || {
                channel.poll(&mut done);
                (!done.is_empty()).then_some(())
            });
            for completion in done.drain(..) {
                let i = completion.user_data as usize;
                completion.result.unwrap_or_else(|e| panic!("{len} bytes, number {i}: {e}"));
                if op == IoOp::Read {
                    let data = completion.buffer.as_slice();
                    assert_eq!(data.len(), len);
                    let difference = pattern(i).difference(place(i), data);
                    assert_eq!(difference, None, "{op} of {len} bytes, number {i}");
                }
                ended += 1;
            }
        }
    }
}

/// The whole matrix of one target, with one setting of digests.
fn matrix(bed: &impl Bed, parameters: &str) {
    for queues in [1_u16, 4] {
        let session = Session::new(bed);
        let mut options = ControllerOptions::default();
        options.max_io_queues = queues;
        for port in PORTS {
            session.connect_url(&format!("{}{parameters}", bed.url(port)), &options);
        }
        let mut channels: Vec<_> = (0..queues).map(|_| session.channel()).collect();
        for nsid in [1, 2] {
            let head = session.head(nsid);
            session.wait_usable(&head, 2);
            let block_size = head.geometry().block_size as usize;
            assert_eq!(block_size, [512, 4096][nsid as usize - 1]);
            std::thread::scope(|scope| {
                for (thread, channel) in (0..).zip(&mut channels) {
                    let head = &head;
                    scope.spawn(move || {
                        let base = thread * (16 << 20);
                        for size in SIZES.iter().filter(|s| *s % block_size == 0) {
                            let len = (*size).min(head.geometry().max_transfer);
                            let count = ((2 << 20) / len / usize::from(queues)).clamp(2, 12);
                            verify(channel, head, base, len, count, thread ^ *size as u64);
                        }
                    });
                }
            });
            let stats = head.stats();
            assert_eq!((stats.failovers, stats.retries), (0, 0), "{stats:?}");
        }
        let controllers = session.host.controllers();
        let lost = controllers.iter().any(|c| c.reconnects() > 0);
        assert!(!lost, "a controller was lost: {:#?}", session.take_events());
        drop(channels);
        session.shutdown();
    }
}

/// What is written is where it should be, and nothing else is touched: by the target's own word.
fn placement(bed: &Nvmet) {
    let session = Session::new(bed);
    session.connect(bed, 1, &ControllerOptions::default());
    for (nsid, block_size) in [(1_u32, 512_usize), (2, 4096)] {
        let head = session.head(nsid);
        let mut channel = session.channel();
        let pattern = Pattern { salt: 9, version: nsid.into() };
        let (slba, len) = (17, block_size * 3);
        let at = slba * block_size;
        let data = pattern.bytes(at as u64, len);
        let _ = channel.write(&head, slba as u64, data.into()).expect("a write");
        let around = (at - block_size) as u64;
        let found = bed.guest.peek(nsid, around, len + 2 * block_size).expect("the contents");
        let (before, rest) = found.split_at(block_size);
        let (written, after) = rest.split_at(len);
        assert!(before.iter().chain(after).all(|byte| *byte == 0), "something else was written");
        assert_eq!(pattern.difference(at as u64, written), None);
    }
    session.shutdown();
}

#[test]
fn on_nvmet_without_digests() {
    matrix(&Nvmet::new(), "");
}

#[test]
fn on_nvmet_with_digests() {
    matrix(&Nvmet::new(), "?hdgst=1&ddgst=1");
}

#[test]
fn on_nvmet_with_either_digest() {
    let bed = Nvmet::new();
    for parameters in ["?hdgst=1", "?ddgst=1"] {
        let session = Session::new(&bed);
        let url = format!("{}{parameters}", bed.url(1));
        session.connect_url(&url, &ControllerOptions::default());
        let (head, mut channel) = (session.head(1), session.channel());
        for len in SIZES {
            verify(&mut channel, &head, 0, len, 4, 8);
        }
        session.shutdown();
    }
}

#[test]
fn on_nvmet_data_are_where_they_should_be() {
    placement(&Nvmet::new());
}

#[test]
fn on_the_software_target_without_digests() {
    matrix(&Software::new(), "");
}

#[test]
fn on_the_software_target_with_digests() {
    matrix(&Software::new(), "?hdgst=1&ddgst=1");
}

/// Shapes of the data path that Linux's target does not have: small data PDUs, several R2Ts, no
/// data in capsules, padding, and each way to end a read.
#[test]
fn on_software_targets_with_other_data_paths() {
    let small = Transport::new().max_h2c_data(4096).r2t_bytes(12 << 10).c2h_bytes(8192);
    let never = small.clone().cpda(15).success_flag(SuccessFlag::Never);
    let always = small.clone().cpda(1).success_flag(SuccessFlag::Always);
    for transport in [small, never, always] {
        let namespaces = |subsystem: nvme_target::SubsystemConfig| {
            let memory = nvme_target::NamespaceConfig::memory;
            let subsystem = subsystem.in_capsule(0).mdts(0);
            subsystem
                .namespace(memory(1, 128 << 20).block_size(512))
                .namespace(memory(2, 128 << 20))
        };
        let bed = Software::start(namespaces, |target| target.transport(transport.clone()));
        for parameters in ["", "?hdgst=1&ddgst=1"] {
            matrix(&bed, parameters);
        }
    }
}

/// A target whose limits are small: few entries, small transfers.
#[test]
fn limits_of_the_target_are_kept() {
    let bed = Software::with(|s| s.queue_entries(8).mdts(1).in_capsule(512));
    let session = Session::new(&bed);
    session.connect_all(&bed, &ControllerOptions::default());
    let (head, mut channel) = (session.head(1), session.channel());
    session.wait_usable(&head, 2);
    assert_eq!(head.geometry().max_transfer, 8192);
    let mut done = Vec::new();
    for i in 0..200_u64 {
        let data = Pattern { salt: 1, version: i }.bytes(i * 8192, 8192);
        channel.submit(&head, IoRequest::write(i * 16, data.into(), i)).expect("room");
    }
    wait_for("all writes", || {
        channel.poll(&mut done);
        (done.len() == 200).then_some(())
    });
    for completion in done {
        completion.result.expect("a write");
    }
    for i in 0..200_u64 {
        let data = channel.read(&head, i * 16, Buffer::zeroed(8192)).expect("a read");
        let pattern = Pattern { salt: 1, version: i };
        assert_eq!(pattern.difference(i * 8192, data.as_slice()), None);
    }
    let controllers = session.host.controllers();
    assert!(controllers.iter().all(|c| c.wait_ready(LIMIT).is_ok() && c.reconnects() == 0));
    session.shutdown();
}
