//! Rows 32 and 35 to 37: the head is being removed, or is gone.

use std::sync::Arc;

use nvme_mpath::{HeadState, IoError, IoRequest};

use crate::stage::{Stage, WINDOW, is_gone, pending, window};

/// I/O fails, and is counted.
pub fn row_32_io_after_the_removal() {
    let (mut bench, head) = pending();
    bench.run(WINDOW);
    assert!(is_gone(&head));
    let before = head.stats().failed_no_path;
    assert!(matches!(bench.fails(&head), IoError::HeadRemoved { .. }));
    assert_eq!(head.stats().failed_no_path, before + 2);
}

/// An open fails: the head cannot be found any more, from the moment of its removal on.
pub fn row_35_no_handle_can_be_had() {
    let (mut bench, head) = pending();
    assert!(head.remove_now());
    bench.host.drive(nvme_core::time::Duration::ZERO);
    assert!(is_gone(&head) && bench.head(1).is_none() && bench.host.heads().is_empty());
    assert!(!head.remove_now() && !head.cancel_removal(), "there is nothing to end or to cancel");
    bench.settle();
    assert_eq!(bench.removed(), 1);
}

/// The removal is carried out: what is parked fails and nothing is parked after it, however it falls
/// in with a submission (627e8bb91a8f), and a change of the window at the same time hangs nobody.
pub fn row_36_nothing_stays_parked() {
    let (mut bench, head) = pending();
    for i in 0..100 {
        bench.write(&head, i, i);
    }
    bench.settle();
    assert_eq!(bench.channel.parked(), 100);
    assert!(head.remove_now());
    // The end has begun and channels do not know yet: this one is parked, too, for a moment.
    bench.write(&head, 100, 100);
    head.set_delayed_removal(window());
    assert!(matches!(head.state(), HeadState::Removing(_)));
    bench.host.drive(nvme_core::time::Duration::ZERO);
    // And this one comes between the removal and the channel's next look.
    bench.channel.submit(&head, IoRequest::flush(101)).unwrap();
    bench.settle();
    assert_eq!((bench.done.len(), bench.channel.parked(), bench.channel.in_flight()), (102, 0, 0));
    for done in &bench.done {
        let error = done.result.as_ref().unwrap_err();
        assert!(matches!(**error, IoError::HeadRemoved { .. }), "{error}");
        assert!(!done.uncertain, "none was ever sent");
    }
    assert_eq!(bench.host.pin_count(), 0);
}

/// The last handle is dropped: nothing is left of the head.
pub fn row_37_the_last_handle_is_dropped() {
    let (mut bench, head) = pending();
    bench.waits(&head, 1);
    bench.run(WINDOW);
    let weak = Arc::downgrade(&head);
    assert!(bench.one().result.is_err());
    bench.log.clear();
    drop(head);
    // The channel lets go of heads that are gone when it has to look for one.
    drop(std::mem::replace(
        &mut bench.channel,
        bench.host.channel(nvme_mpath::ChannelOptions::default()).unwrap(),
    ));
    assert!(weak.upgrade().is_none(), "somebody still holds it");
    assert_eq!(bench.host.pin_count(), 0);
}
