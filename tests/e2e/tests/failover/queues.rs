//! Channels and the I/O queues that controllers grant.
use nvme_core::controller::State;
use nvme_e2e::{
    Bed, ChannelExt, LIMIT, Load, Nvmet, Pattern, Session, Software, persistent, wait_until,
};
use nvme_mpath::{Channel, IoError};

const LEN: usize = 4096;
const PATTERN: Pattern = Pattern { salt: 6, version: 1 };

fn reset(session: &Session) {
    for controller in session.host.controllers() {
        let before = controller.reconnects();
        controller.reset("the test wants it");
        wait_until("the controller to be back", || {
            controller.reconnects() > before && controller.state() == State::Live
        });
        controller.wait_ready(LIMIT).expect("the controller");
    }
}

/// How many of the channels can write; the others are told that there is no queue for them.
fn working(session: &Session, channels: &mut [Channel], granted: u16) -> usize {
    let head = session.head(1);
    let mut count = 0;
    for channel in channels {
        match channel.write(&head, 0, PATTERN.bytes(0, LEN).into()) {
            Ok(_) => count += 1,
            Err(error) => {
                let nvme_mpath::BlockingError::Io { error, buffer, .. } = error else {
                    panic!("{error}");
                };
                assert_eq!(buffer.len(), LEN, "the buffer comes back");
                let IoError::NoQueue { granted: told, .. } = &*error else { panic!("{error}") };
                assert_eq!(*told, granted, "{error}");
            }
        }
    }
    count
}

#[test]
fn a_channel_without_a_queue_is_told_so() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let mut options = persistent();
    options.max_io_queues = 2;
    session.connect_all(&bed, &options);
    let mut channels: Vec<_> = (0..3).map(|_| session.channel()).collect();
    assert_eq!(working(&session, &mut channels, 2), 2);
    // One that is closed makes room.
    drop(channels.remove(0));
    wait_until("the queue to be handed on", || working(&session, &mut channels, 2) == 2);
    session.shutdown();
}

/// The controller comes back with fewer queues than before, and later with more again.
#[test]
fn a_controller_comes_back_with_fewer_queues() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let controller = session.connect(&bed, 1, &persistent());
    let mut channels: Vec<_> = (0..4).map(|_| session.channel()).collect();
    assert_eq!(working(&session, &mut channels, 0), 4);
    let subsystem = bed.target.first_subsystem().expect("a subsystem");
    subsystem.set_queue_limit(2);
    reset(&session);
    assert_eq!(controller.info().expect("it was live").io_queues, 2);
    assert_eq!(working(&session, &mut channels, 2), 2);
    subsystem.set_queue_limit(8);
    reset(&session);
    assert_eq!(working(&session, &mut channels, 0), 4);
    session.shutdown();
}

/// As before, under load, with another path that has queues for all.
#[test]
fn channels_without_a_queue_on_one_path_use_the_other() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let mut narrow = persistent();
    narrow.max_io_queues = 1;
    let _ = session.connect(&bed, 1, &narrow);
    let _ = session.connect(&bed, 2, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let loads: Vec<_> =
        (0..3).map(|i| Load::start_at(session.channel(), &head, 4, LEN, i * (1 << 20))).collect();
    loads.iter().for_each(|load| load.wait_more(50));
    bed.cut(2);
    loads.iter().for_each(|load| load.wait_more(50));
    for load in loads {
        load.stop().assert_clean();
    }
    session.shutdown();
}

/// Channels are opened and closed under load, on two paths. That costs no controller.
fn channels_come_and_go(bed: &impl Bed) {
    let session = Session::new(bed);
    let mut options = persistent();
    options.max_io_queues = 4;
    let controllers = session.connect_all(bed, &options);
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 8, LEN);
    for round in 0..30 {
        let mut channel = session.channel();
        let pattern = Pattern { salt: 60, version: round };
        channel.put(&head, 4096, LEN, pattern);
        channel.check(&head, 4096, LEN, pattern);
        if round % 3 == 0 {
            // Closed with something in flight.
            channel.begin_write(&session.head(2), 1, pattern);
            channel.flush();
        }
    }
    load.wait_more(30);
    load.stop().assert_clean();
    let lost = controllers.iter().any(|c| c.reconnects() > 0);
    assert!(!lost, "a controller was lost: {:#?}", session.take_events());
    session.shutdown();
}

#[test]
fn on_nvmet_channels_come_and_go() {
    channels_come_and_go(&Nvmet::new());
}

#[test]
fn on_the_software_target_channels_come_and_go() {
    channels_come_and_go(&Software::new());
}
