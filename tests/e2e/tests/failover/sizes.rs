//! Two controllers of one subsystem that move different amounts with one command (MDTS).

use nvme_core::spec::opcode::NvmOpcode;
use nvme_e2e::{Bed, MOMENT, Pattern, Session, Software, persistent, wait_until};
use nvme_mpath::{IoRequest, SubmitReason};
use nvme_target::{FaultAction, FaultRule};

const LARGE: usize = 64 << 10;

/// A request that was accepted when the head allowed its size is not sent to a controller that refuses it
/// for good, but waits for the one that takes it.
#[test]
fn a_large_request_outlives_the_path_that_takes_it() {
    let small = Software::with(|s| s.mdts(1).controller_ids(100, 199));
    let large = Software::with(|s| s.mdts(4).controller_ids(200, 299));
    let session = Session::new(&large);
    session.connect(&large, 1, &persistent());
    let (head, mut channel) = (session.head(1), session.channel());
    session.wait_usable(&head, 1);
    assert_eq!(head.geometry().max_transfer, LARGE);
    let writes = FaultRule::new(FaultAction::Drop).io().opcode(NvmOpcode::WRITE.0);
    let kept = large.target.add_fault(writes);
    let (pattern, mut done) = (Pattern { salt: 1, version: 1 }, Vec::new());
    let request = IoRequest::write(0, pattern.bytes(0, LARGE).into(), 1);
    channel.submit(&head, request).expect("room");
    wait_until("the write to be under way", || {
        channel.poll(&mut done);
        large.target.fault_hits(kept) == Some(1)
    });
    session.connect(&small, 1, &persistent());
    session.wait_usable(&head, 2);
    let max = 8192;
    assert_eq!(head.geometry().max_transfer, max);
    let again = IoRequest::write(0, vec![0; LARGE].into(), 2);
    let refused = channel.submit(&head, again).expect_err("too large now");
    assert_eq!(refused.reason, SubmitReason::TooLarge { len: LARGE, max });

    large.disable(1);
    large.cut(1);
    wait_until("the write to wait", || {
        channel.poll(&mut done);
        assert!(done.is_empty(), "{done:?}");
        channel.parked() == 1
    });
    std::thread::sleep(MOMENT);
    channel.poll(&mut done);
    assert!(done.is_empty(), "{done:?}");
    large.target.remove_fault(kept);
    large.enable(1);
    wait_until("the write's end", || {
        channel.poll(&mut done);
        !done.is_empty()
    });
    let write = done.remove(0);
    assert!(write.result.is_ok() && done.is_empty(), "{:?}", write.result);
    assert_eq!((write.user_data, write.buffer.len()), (1, LARGE));
    drop(channel);
    session.shutdown();
}
