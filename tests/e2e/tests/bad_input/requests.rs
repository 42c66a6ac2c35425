//! Requests that cannot be right.
use nvme_core::buffer::Buffer;
use nvme_core::spec::Status;
use nvme_e2e::{Bed, ChannelExt, Nvmet, Pattern, Session, Software, persistent};
use nvme_mpath::{BlockingError, IoError, IoRequest, SubmitReason};
use nvme_target::{FaultAction, FaultRule};

const PATTERN: Pattern = Pattern { salt: 12, version: 1 };

fn refused(bed: &impl Bed) {
    let session = Session::new(bed);
    session.connect(bed, 1, &persistent());
    for (nsid, block_size) in [(1, 512_usize), (2, 4096)] {
        let head = session.head(nsid);
        let mut channel = session.channel();
        let blocks = head.geometry().blocks;
        let mut refuse = |request: IoRequest, len: usize| {
            let error = channel.submit(&head, request).expect_err("it cannot be right");
            assert_eq!(error.buffer.len(), len, "the buffer comes back");
            error.reason
        };
        for len in [0, 1, block_size - 1, block_size + 1, block_size * 3 - 8] {
            for request in [IoRequest::read, IoRequest::write] {
                let reason = refuse(request(0, Buffer::zeroed(len), 1), len);
                let expected = SubmitReason::Unaligned { len, block_size: block_size as u32 };
                assert_eq!(reason, expected, "{reason}");
                assert!(reason.to_string().contains(&block_size.to_string()), "{reason}");
            }
        }
        for slba in [blocks - 1, blocks, blocks + 1, u64::MAX - 1, u64::MAX] {
            let len = 2 * block_size;
            let reason = refuse(IoRequest::write(slba, Buffer::zeroed(len), 1), len);
            assert_eq!(reason, SubmitReason::OutOfRange { slba, blocks: 2, capacity: blocks });
            let text = reason.to_string();
            assert!(
                text.contains(&slba.to_string()) && text.contains(&blocks.to_string()),
                "{text}"
            );
            let reason = refuse(IoRequest::write_zeroes(slba, 2, 1), 0);
            assert!(matches!(reason, SubmitReason::OutOfRange { .. }), "{reason}");
        }
        for blocks in [0, 65_537, u32::MAX] {
            let reason = refuse(IoRequest::write_zeroes(0, blocks, 1), 0);
            assert!(matches!(reason, SubmitReason::TooLarge { .. }), "{reason}");
        }
        let max = head.geometry().max_transfer;
        let len = max + block_size;
        let reason = refuse(IoRequest::read(0, Buffer::zeroed(len), 1), len);
        assert_eq!(reason, SubmitReason::TooLarge { len, max }, "{reason}");
        // What is just right works, and nothing of the rest is under way.
        assert_eq!(channel.in_flight(), 0);
        let last = blocks - (4096 / block_size) as u64;
        channel.put(&head, last, 4096, PATTERN);
        channel.check(&head, last, 4096, PATTERN);
        channel.put(&head, 0, max, PATTERN);
        channel.check(&head, 0, max, PATTERN);
    }
    session.shutdown();
}

#[test]
fn requests_that_cannot_be_right_are_refused_on_nvmet() {
    refused(&Nvmet::new());
}

#[test]
fn requests_that_cannot_be_right_are_refused_on_the_software_target() {
    refused(&Software::new());
}

/// The namespace has become smaller, and the host does not know yet: the target refuses.
#[test]
fn a_range_past_the_end_that_only_the_target_knows_of() {
    let bed = Software::new();
    let session = Session::new(&bed);
    session.connect(&bed, 1, &persistent());
    let (head, mut channel) = (session.head(1), session.channel());
    let status = Status::LBA_OUT_OF_RANGE.with_dnr();
    let _ = bed.target.add_fault(FaultRule::new(FaultAction::Fail(status)).io().lbas(100..200));
    let error = channel.read(&head, 96, Buffer::zeroed(4096)).expect_err("the target refuses");
    let BlockingError::Io { error, buffer, .. } = error else { panic!("{error}") };
    assert_eq!(buffer.len(), 4096);
    let text = error.to_string();
    assert!(matches!(*error, IoError::Status { slba: 96, blocks: 8, .. }), "{text}");
    for part in ["read", "8 blocks at 96", head.name(), "LBA Out of Range"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    channel.put(&head, 0, 4096, PATTERN);
    channel.check(&head, 0, 4096, PATTERN);
    session.shutdown();
}

#[test]
fn a_channel_that_is_full_says_so() {
    let bed = Software::new();
    let session = Session::new(&bed);
    session.connect(&bed, 1, &persistent());
    let head = session.head(1);
    let mut options = nvme_mpath::ChannelOptions::default();
    options.depth = 4;
    let mut channel = session.host.channel(options).expect("a channel");
    for i in 0..4 {
        channel.begin_write(&head, i, PATTERN);
    }
    let full = channel.submit(&head, IoRequest::write(0, Buffer::zeroed(4096), 9));
    let full = full.expect_err("there is no room");
    assert_eq!((full.reason, full.buffer.len()), (SubmitReason::Full { depth: 4 }, 4096));
    for completion in channel.finish(4) {
        completion.result.expect("a write");
    }
    channel.begin_write(&head, 9, PATTERN);
    channel.finish(1).pop().expect("one").result.expect("a write");
    session.shutdown();
}

/// A head of one host cannot be used on a channel of another.
#[test]
fn a_head_of_another_host_is_refused() {
    let bed = Software::new();
    let (one, other) = (Session::new(&bed), Session::new(&bed));
    one.connect(&bed, 1, &persistent());
    let (head, mut foreign) = (one.head(1), other.channel());
    let error = foreign.submit(&head, IoRequest::read(0, Buffer::zeroed(4096), 1));
    assert_eq!(error.expect_err("another host's").reason, SubmitReason::ForeignHead);
    other.shutdown();
    one.shutdown();
}
