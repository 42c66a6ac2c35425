//! A program's handles on a head answer as long as the program holds them.
use std::sync::Arc;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_e2e::{ChannelExt, LIMIT};
use nvme_mpath::{BlockingError, Channel, Head, HeadState, IoError, LossCause};

use crate::common::{Case, LEN, NEW, OLD, secs};

/// What a handle can be asked is answered, and I/O fails with the cause.
fn ask_everything(head: &Arc<Head>, channel: &mut Channel) {
    assert_eq!(head.geometry().block_size, 512);
    assert_eq!(head.nsid(), 1);
    assert!(head.name().ends_with("/1"), "{}", head.name());
    assert!(head.paths().is_empty());
    assert!(head.ids().uuid.is_some());
    let _ = head.stats();
    head.set_delayed_removal(secs(1));
    assert_eq!(head.delayed_removal(), secs(1).into());
    head.set_delayed_removal(Duration::ZERO);
    head.set_fail_if_no_path(true);
    head.set_fail_if_no_path(false);
    assert!(!head.remove_now());
    assert_eq!(head.state(), HeadState::Gone(LossCause::Disconnected));
    let gone = |e: IoError| matches!(e, IoError::HeadRemoved { .. } | IoError::Shutdown { .. });
    assert!(gone(channel.write_error(head)));
    match channel.read(head, 0, Buffer::zeroed(LEN)) {
        Err(BlockingError::Io { error, .. }) => assert!(gone(*error)),
        other => panic!("{other:?}"),
    }
    match channel.sync(head) {
        Err(BlockingError::Io { error, .. }) => assert!(gone(*error)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn handles_answer_over_the_whole_life_of_a_head() {
    let mut case = Case::new(secs(600));
    let mut other = case.session.channel();
    case.channel.put(&case.head, 0, LEN, OLD);
    other.check(&case.head, 0, LEN, OLD);
    let handle = Arc::clone(&case.head);
    case.lose();
    case.channel.begin_write(&handle, 1, NEW);
    other.begin_write(&handle, 2, NEW);
    assert!(handle.remove_now());
    for channel in [&mut case.channel, &mut other] {
        let [failed] = channel.finish(1).try_into().expect("one");
        assert!(matches!(*failed.result.unwrap_err(), IoError::HeadRemoved { .. }));
    }
    case.session.wait_gone(&handle, 0);
    ask_everything(&handle, &mut case.channel);

    // The namespace returns as another head; the old handle stays what it is.
    case.lose_nothing_and_connect();
    let new = case.session.head(1);
    assert!(!Arc::ptr_eq(&new, &handle));
    other.check(&new, 0, LEN, OLD);
    ask_everything(&handle, &mut case.channel);

    case.session.host.shutdown_forced(LIMIT).expect("nothing is pinned");
    assert!(matches!(new.state(), HeadState::Gone(_)), "{:?}", new.state());
    ask_everything(&handle, &mut case.channel);
    let Case { bed, session, head, mut channel } = case;
    drop((session, bed, head, other));
    ask_everything(&handle, &mut channel);
    drop(channel);
    assert_eq!(handle.state(), HeadState::Gone(LossCause::Disconnected));
}

impl Case {
    fn lose_nothing_and_connect(&self) {
        let options = nvme_mpath::ControllerOptions::default();
        let _ = self.session.connect(&self.bed, 1, &options);
    }
}
