//! Controllers are reset, disconnected and given up under load and at bad times.
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::controller::{AbortOutcome, RemovedCause, State};
use nvme_core::spec::opcode::{FabricsType, NvmOpcode};
use nvme_e2e::{
    Bed, ChannelExt, LIMIT, Load, Nvmet, Pattern, Session, Software, persistent, wait_until,
};
use nvme_mpath::{ChannelOptions, Event, HostError, IoError, IoRequest, TimeoutStep};
use nvme_target::{AsyncEvent, FaultAction, FaultRule};

const LEN: usize = 4096;
const PATTERN: Pattern = Pattern { salt: 5, version: 1 };

fn reset_under_load(bed: &impl Bed) {
    let session = Session::new(bed);
    let controllers = session.connect_all(bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 16, LEN);
    for round in 0..8 {
        let controller = &controllers[round % 2];
        let before = controller.reconnects();
        load.wait_more(30);
        controller.reset("the test wants it");
        wait_until("the controller to be back", || {
            controller.reconnects() > before && controller.state() == State::Live
        });
    }
    // Both at once: there is no path for a moment, and requests wait.
    let before: Vec<_> = controllers.iter().map(|c| c.reconnects()).collect();
    controllers.iter().for_each(|c| c.reset("the test wants it"));
    wait_until("both controllers to be back", || {
        controllers.iter().zip(&before).all(|(c, b)| c.reconnects() > *b)
    });
    session.wait_usable(&head, 2);
    load.wait_more(30);
    load.stop().assert_clean();
    session.shutdown();
}

#[test]
fn on_nvmet_controllers_are_reset_under_load() {
    reset_under_load(&Nvmet::new());
}

#[test]
fn on_the_software_target_controllers_are_reset_under_load() {
    reset_under_load(&Software::new());
}

/// Disconnected under load, one at a time, and connected again (blktests nvme/040).
fn disconnected_under_load(bed: &impl Bed) {
    let session = Session::new(bed);
    let mut controllers = session.connect_all(bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 16, LEN);
    for round in 0..4_usize {
        load.wait_more(30);
        controllers[round % 2].disconnect();
        let cause = controllers[round % 2].wait_removed(LIMIT).expect("the end of a disconnect");
        assert_eq!(cause, RemovedCause::Deleted);
        load.wait_more(30);
        controllers[round % 2] = session.connect(bed, round as u16 % 2 + 1, &persistent());
        session.wait_usable(&head, 2);
    }
    load.stop().assert_clean();
    session.shutdown();
}

#[test]
fn on_nvmet_controllers_are_disconnected_under_load() {
    disconnected_under_load(&Nvmet::new());
}

#[test]
fn on_the_software_target_controllers_are_disconnected_under_load() {
    disconnected_under_load(&Software::new());
}

/// Disconnected at every point of connecting: before the socket is up, and with each kind of
/// command of bring-up left unanswered (blktests nvme/031 and nvme/037).
#[test]
fn a_controller_is_disconnected_while_it_connects() {
    let connect = FabricsType::CONNECT;
    let points: [(&str, FaultRule); 6] = [
        ("a silent listener", FaultRule::new(FaultAction::SilentListener)),
        ("Connect, admin", FaultRule::new(FaultAction::Drop).admin().fabrics(connect)),
        ("Property Get", FaultRule::new(FaultAction::Drop).fabrics(FabricsType::PROPERTY_GET)),
        ("Identify", FaultRule::new(FaultAction::Drop).admin().opcode(0x06)),
        ("Set Features", FaultRule::new(FaultAction::Drop).admin().opcode(0x09)),
        ("Connect, I/O", FaultRule::new(FaultAction::Drop).io().fabrics(connect)),
    ];
    let bed = Software::new();
    let session = Session::new(&bed);
    let channel = session.channel();
    for (point, rule) in points {
        let fault = bed.target.add_fault(rule);
        let controller = session.host.connect(&bed.url(1), persistent()).expect("a URL");
        wait_until(point, || bed.target.fault_hits(fault) > Some(0));
        assert!(controller.state() != State::Live, "stuck at {point}");
        controller.disconnect();
        let cause = controller.wait_removed(LIMIT).expect(point);
        assert_eq!(cause, RemovedCause::Deleted, "{point}");
        let _ = bed.target.remove_fault(fault);
        wait_until("the target to see it go", || bed.target.stats().open == 0);
        assert!(session.host.controllers().is_empty(), "{point}");
    }
    // And at once, over and over.
    for _ in 0..20 {
        let controller = session.host.connect(&bed.url(1), persistent()).expect("a URL");
        controller.disconnect();
        controller.wait_removed(LIMIT).expect("the end of a disconnect");
    }
    assert!(session.host.heads().is_empty());
    drop(channel);
    session.shutdown();
}

/// A path is disconnected while it tries to come back.
#[test]
fn a_controller_is_disconnected_while_it_reconnects() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let controllers = session.connect_all(&bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 8, LEN);
    bed.disable(1);
    session.wait_usable(&head, 1);
    assert_eq!(head.paths().len(), 2);
    controllers[0].disconnect();
    controllers[0].wait_removed(LIMIT).expect("the end of a disconnect");
    wait_until("the path to leave", || head.paths().len() == 1);
    load.wait_more(30);
    load.stop().assert_clean();
    session.shutdown();
}

/// A request that is not answered in time: its controller is reset, and it is done elsewhere.
#[test]
fn a_request_that_is_not_answered_in_time_goes_elsewhere() {
    for action in [FaultAction::Drop, FaultAction::DropAnswer] {
        let bed = Software::new();
        let session = Session::new(&bed);
        let controllers = session.connect_all(&bed, &persistent());
        let head = session.head(1);
        session.wait_usable(&head, 2);
        let mut options = ChannelOptions::default();
        options.io_timeout = Duration::from_millis(500);
        let load = Load::start(session.host.channel(options).expect("a channel"), &head, 8, LEN);
        load.wait_more(50);
        let rule = FaultRule::new(action).listener(Software::listener(1)).io();
        let fault = bed.target.add_fault(rule.opcode(NvmOpcode::WRITE.0).times(1));
        wait_until("the reset", || controllers[0].reconnects() > 0);
        assert_eq!(bed.target.fault_hits(fault), Some(1));
        session.wait_usable(&head, 2);
        load.wait_more(50);
        load.stop().assert_clean();
        assert_eq!(controllers[1].reconnects(), 0, "the other path was left alone");
        session.shutdown();
    }
}

/// The controller says that it is broken: it is brought up again.
#[test]
fn a_controller_that_reports_a_fatal_error_is_brought_up_again() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let controllers = session.connect_all(&bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 8, LEN);
    load.wait_more(30);
    let subsystem = bed.target.first_subsystem().expect("a subsystem");
    subsystem.raise_event(AsyncEvent::PERSISTENT_INTERNAL_ERROR);
    wait_until("both controllers to be back", || {
        controllers.iter().all(|c| c.reconnects() > 0 && c.state() == State::Live)
    });
    session.wait_usable(&head, 2);
    load.wait_more(30);
    load.stop().assert_clean();
    session.shutdown();
}

/// `fast_io_fail_tmo`: I/O stops waiting before the controller is given up.
#[test]
fn requests_wait_no_longer_than_fast_io_fail_tmo() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let mut options = persistent();
    options.fast_io_fail_tmo = Some(Duration::from_millis(500));
    let _ = session.connect(&bed, 1, &options);
    let head = session.head(1);
    let mut channel = session.channel();
    channel.put(&head, 0, LEN, PATTERN);
    bed.disable(1);
    session.wait_usable(&head, 0);
    let error = channel.write_error(&head);
    assert!(matches!(error, IoError::NoPath { .. }), "{error}");
    assert_eq!(head.paths().len(), 1, "the path is still tried");
    bed.enable(1);
    session.wait_usable(&head, 1);
    channel.check(&head, 0, LEN, PATTERN);
    session.shutdown();
}

/// `ctrl_loss_tmo`: the controller is given up, and the head goes with its last path.
#[test]
fn a_controller_is_given_up_after_ctrl_loss_tmo() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let mut options = persistent();
    options.ctrl_loss_tmo = Some(Duration::from_secs(1));
    let controller = session.connect(&bed, 1, &options);
    let head = session.head(1);
    let mut channel = session.channel();
    channel.put(&head, 0, LEN, PATTERN);
    bed.disable(1);
    let error = channel.write_error(&head);
    assert!(matches!(error, IoError::HeadRemoved { .. }), "{error}");
    let cause = controller.wait_removed(LIMIT).expect("the end");
    assert_eq!(cause, RemovedCause::LossTimeout);
    session.wait_gone(&head, 0);
    let again = controller.wait_ready(LIMIT).expect_err("it is gone");
    assert!(matches!(again, HostError::Removed { .. }), "{again}");
    session.shutdown();
}

/// Linux's target does not abort what its device does not answer: the controller is reset, and what
/// it had comes back when the device answers again.
#[test]
fn a_request_that_linux_does_not_abort_is_done_after_a_reset() {
    let bed = Nvmet::new();
    let session = Session::new(&bed);
    let events = session.host.events(1 << 16);
    let controller = session.connect(&bed, 1, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 1);
    let mut options = ChannelOptions::default();
    options.io_timeout = Duration::from_secs(2);
    let mut channel = session.host.channel(options).expect("a channel");
    bed.guest.stall_namespace(1).expect("a stalled namespace");
    let request = IoRequest::read(0, Buffer::zeroed(4096), 1);
    channel.submit(&head, request).expect("a read");
    let (mut done, mut steps) = (Vec::new(), Vec::new());
    wait_until("the reset", || {
        channel.poll(&mut done);
        steps.extend(std::iter::from_fn(|| events.try_next()).filter_map(|e| match e.event {
            Event::CommandOverdue { step, .. } => Some(step),
            _ => None,
        }));
        controller.reconnects() > 0
    });
    assert!(done.is_empty(), "{done:?}");
    let not = TimeoutStep::Answered(AbortOutcome::NotAborted);
    assert_eq!(steps.get(..3), Some(&[TimeoutStep::Aborting, not, TimeoutStep::Resetting][..]));
    bed.guest.resume_namespace(1).expect("a namespace that answers");
    wait_until("the read", || {
        channel.poll(&mut done);
        !done.is_empty()
    });
    assert_eq!(done.len(), 1);
    assert!(done[0].result.is_ok(), "{done:?}");
    session.shutdown();
}
