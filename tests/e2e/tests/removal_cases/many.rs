//! A thousand heads wait at once.
use std::collections::BTreeSet;

use nvme_e2e::{ChannelExt, Pattern, Session, Software, wait_until};

use nvme_mpath::{ChannelOptions, ControllerOptions, IoError, IoRequest};
use nvme_target::NamespaceConfig;

use crate::common::{LEN, secs};

const HEADS: usize = 1000;

fn instances(session: &Session) -> BTreeSet<u32> {
    session.host.heads().iter().map(|h| h.instance()).collect()
}

#[test]
fn a_thousand_heads_wait_at_once() {
    let namespaces = (1..=HEADS as u32).map(|nsid| NamespaceConfig::memory(nsid, 1 << 20));
    let bed = Software::start(|s| namespaces.fold(s, |s, n| s.namespace(n)), |t| t);
    let session = Session::new(&bed);
    session.host.set_delayed_removal(secs(600));
    let _ = session.connect(&bed, 1, &ControllerOptions::default());
    wait_until("all heads", || session.host.heads().len() == HEADS);
    let before = instances(&session);
    let mut options = ChannelOptions::default();
    options.depth = HEADS;
    let mut channel = session.host.channel(options).expect("a channel");

    let pattern = |nsid: u32| Pattern { salt: nsid.into(), version: 1 };
    session.disconnect_all();
    wait_until("all removals to be pending", || session.host.pin_count() == HEADS);
    let heads = session.host.heads();
    for head in &heads {
        let request = IoRequest::write(0, pattern(head.nsid()).bytes(0, LEN).into(), 1);
        channel.submit(head, request).expect("room for a write");
    }
    channel.poll(&mut Vec::new());
    assert_eq!(channel.parked(), HEADS);
    let _ = session.connect(&bed, 2, &ControllerOptions::default());
    for written in channel.finish(HEADS) {
        written.result.expect("the write that waited");
    }
    wait_until("the pins to be back", || session.host.pin_count() == 0);
    assert_eq!(instances(&session), before, "the same heads");
    for head in heads.iter().step_by(97) {
        channel.check(head, 0, LEN, pattern(head.nsid()));
    }

    for head in &heads {
        head.set_delayed_removal(secs(3));
    }
    session.disconnect_all();
    wait_until("all removals to be pending", || session.host.pin_count() == HEADS);
    for head in &heads {
        let request = IoRequest::write(0, pattern(head.nsid()).bytes(0, LEN).into(), 1);
        channel.submit(head, request).expect("room for a write");
    }
    for failed in channel.finish(HEADS) {
        let error = *failed.result.expect_err("the window is over");
        assert!(matches!(error, IoError::HeadRemoved { .. }), "{error}");
    }
    wait_until("the pins to be back", || session.host.pin_count() == 0);
    assert!(session.host.heads().is_empty());
    assert_eq!(session.host.pins_peak(), HEADS);
    session.shutdown();
}
