//! The target changes its namespaces while they are in use.
use nvme_core::buffer::Buffer;
use nvme_e2e::{Bed, ChannelExt, Load, Nvmet, Pattern, Session, Software, persistent, wait_until};
use nvme_mpath::{Event, IoRequest, SubmitReason};
use nvme_target::NamespaceConfig;

const LEN: usize = 4096;
const PATTERN: Pattern = Pattern { salt: 4, version: 1 };

/// A namespace grows and shrinks under load; the head follows, and says so.
fn resized(bed: &impl Bed) {
    let session = Session::new(bed);
    session.connect_all(bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let old = head.geometry().blocks;
    let load = Load::start(session.channel(), &head, 8, LEN);
    let mut channel = session.channel();
    let resized = |from: u64, to: u64| {
        session.event("the new size", |e| match e {
            Event::HeadResized { head, from: f, to: t } if head.nsid() == 1 => {
                assert_eq!((*f, *t), (from, to));
                Some(())
            }
            _ => None,
        });
    };
    bed.resize(1, old * 2);
    resized(old, old * 2);
    assert_eq!(head.geometry().blocks, old * 2);
    channel.put(&head, old * 2 - 8, LEN, PATTERN);
    channel.check(&head, old * 2 - 8, LEN, PATTERN);
    bed.resize(1, old / 2);
    resized(old * 2, old / 2);
    let past = channel.submit(&head, IoRequest::read(old / 2, Buffer::zeroed(LEN), 1));
    let past = past.expect_err("past the end").reason;
    assert!(matches!(past, SubmitReason::OutOfRange { .. }), "{past}");
    load.wait_more(50);
    load.stop().assert_clean();
    session.shutdown();
}

/// A namespace goes, and comes back.
fn removed_and_added(bed: &impl Bed) {
    let session = Session::new(bed);
    session.connect_all(bed, &persistent());
    let (head, other) = (session.head(1), session.head(2));
    session.wait_usable(&head, 2);
    session.wait_usable(&other, 2);
    let mut channel = session.channel();
    channel.put(&head, 0, LEN, PATTERN);
    let load = Load::start(session.channel(), &other, 8, LEN);
    bed.hide(1);
    session.event("the removal", |e| match e {
        Event::HeadRemoved { head, delayed: false, .. } if head.nsid() == 1 => Some(()),
        _ => None,
    });
    session.wait_gone(&head, 0);
    bed.show(1);
    let new = session.event("the addition", |e| match e {
        Event::HeadAdded(head) if head.nsid() == 1 => Some(head.clone()),
        _ => None,
    });
    assert_ne!(new.instance(), head.instance());
    assert_eq!(new.ids(), head.ids());
    session.wait_usable(&new, 2);
    channel.check(&new, 0, LEN, PATTERN);
    load.wait_more(50);
    load.stop().assert_clean();
    assert_eq!(other.state(), nvme_mpath::HeadState::Live, "the other one was not concerned");
    session.shutdown();
}

#[test]
fn on_nvmet_a_namespace_is_resized() {
    resized(&Nvmet::new());
}

#[test]
fn on_nvmet_a_namespace_is_removed_and_added() {
    removed_and_added(&Nvmet::new());
}

#[test]
fn on_the_software_target_a_namespace_is_resized() {
    resized(&Software::new());
}

#[test]
fn on_the_software_target_a_namespace_is_removed_and_added() {
    removed_and_added(&Software::new());
}

/// More namespaces change at once than the log of changes can tell (1,024 entries, NVMe 2.1
/// §5.1.12.1.4), and than one list of active namespaces holds.
#[test]
fn many_namespaces_come_and_go() {
    let bed = Software::new();
    let session = Session::new(&bed);
    session.connect_all(&bed, &persistent());
    for nsid in 3..=1024 {
        bed.target.add_namespace(NamespaceConfig::memory(nsid, 1 << 20)).expect("a namespace");
    }
    wait_until("all heads", || session.host.heads().len() == 1024);
    wait_until("both paths of each", || {
        session.host.heads().iter().all(|h| h.paths().iter().filter(|p| p.usable).count() == 2)
    });
    let mut channel = session.channel();
    channel.put(&session.head(1024), 0, LEN, PATTERN);
    for nsid in 3..=1024 {
        bed.target.remove_namespace(nsid).expect("a namespace");
    }
    wait_until("the heads to go", || session.host.heads().len() == 2);
    session.shutdown();
}
