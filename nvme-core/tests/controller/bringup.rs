//! Bring-up on both kinds of transport: what is sent, what is told, and each wait that ends.

use nvme_core::controller::{ControllerEvent, State};
use nvme_core::spec::fabrics::ConnectCommand;
use nvme_core::spec::opcode::FabricsType;
use nvme_core::spec::registers::{Cap, Cc};
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::Duration;

use crate::model::{Answer, Model};
use crate::rig::{Rig, Transport, config};

#[test]
fn fabrics_goes_live_and_tells_everything_in_order() {
    let rig = Rig::live(Model::fabrics().with_ana());
    let names: Vec<&str> = rig
        .events
        .iter()
        .map(|e| match e {
            ControllerEvent::StateChanged { to: State::Connecting, .. } => "connecting",
            ControllerEvent::StateChanged { to: State::Live, .. } => "live",
            ControllerEvent::Identified(_) => "identified",
            ControllerEvent::Ana(_) => "ana",
            ControllerEvent::NamespaceReady(_) => "namespace",
            ControllerEvent::ScanDone => "scanned",
            _ => "?",
        })
        .collect();
    assert_eq!(names, ["connecting", "identified", "ana", "live", "namespace", "scanned"]);
    let info = rig.ctrl.info().unwrap();
    assert_eq!((info.cntlid, info.io_queues, info.io_entries), (9, 4, 128));
    assert_eq!((info.serial.as_str(), info.model.as_str()), ("SERIAL1", "Model M"));
    assert!(info.ana && info.max_transfer.is_none());
    assert_eq!(rig.live_queues.iter().copied().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn memory_goes_live_through_disable_and_queue_creation() {
    let mut model = Model::memory();
    model.cc = Cc::enabled(0);
    let rig = Rig::live(model);
    assert!(rig.seen.iter().all(|(qid, _)| *qid == 0), "all commands on the admin queue");
    assert_eq!((rig.count(0x05), rig.count(0x01)), (2, 2), "two queues created");
    assert_eq!(rig.ready_nsids(), [1]);
    assert_eq!(rig.count(0x18), 0, "no keep-alive in memory");
}

#[test]
fn connect_carries_identity_and_keep_alive() {
    let rig = Rig::live(Model::fabrics());
    let connects: Vec<_> = rig
        .seen
        .iter()
        .filter(|(_, sqe)| sqe.fabrics_type() == Some(FabricsType::CONNECT))
        .map(|(qid, sqe)| (*qid, ConnectCommand::from(*sqe)))
        .collect();
    assert_eq!(connects.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((connects[0].1.kato.get(), connects[0].1.sqsize.get()), (5000, 31));
    assert_eq!((connects[1].1.kato.get(), connects[1].1.sqsize.get()), (0, 127));
}

/// Starts a controller that cannot get far and returns the first failure and when it came.
fn first_failure(model: Model, prepare: impl FnOnce(&mut Rig)) -> (String, Duration) {
    let mut rig = Rig::new(config(), model);
    prepare(&mut rig);
    let begin = rig.now;
    rig.ctrl.want_queue(begin, 1);
    rig.ctrl.start(begin);
    assert!(rig.run_until(Duration::from_secs(200), |rig| !rig.failures().is_empty()));
    assert_eq!(rig.ctrl.state(), State::Connecting);
    (rig.failures()[0].clone(), rig.elapsed_since(begin))
}

fn silence(matches: impl Fn(u16, &Sqe) -> bool + 'static) -> impl FnOnce(&mut Rig) {
    move |rig| rig.hook = Some(Box::new(move |q, sqe| matches(q, sqe).then_some(Answer::Silence)))
}

#[test]
fn each_wait_for_the_transport_ends() {
    type Prepare = fn(&mut Rig);
    let cases: [(&str, Prepare); 3] = [
        ("making an association", |rig| rig.associate = Transport::Silent),
        ("opening the admin queue", |rig| rig.admin_queue = Transport::Silent),
        ("opening an I/O queue", |rig| rig.io_queue = Transport::Silent),
    ];
    for (what, prepare) in cases {
        let (error, after) = first_failure(Model::fabrics(), prepare);
        assert!(error.contains(what), "{what}: {error}");
        assert!((9..=11).contains(&after.as_secs()), "{what}: {after:?}");
    }
    let (error, after) = first_failure(Model::memory(), |rig| rig.registers = Transport::Silent);
    assert!(error.contains("reading a register") && after.as_secs() == 10, "{error}");
}

#[test]
fn each_command_that_is_not_answered_ends() {
    for (what, limit, opcode, arg) in [
        ("Identify Controller", 60, 0x06, 0x01),
        ("Number of Queues", 60, 0x09, 0x07),
        ("Asynchronous Event Configuration", 60, 0x09, 0x0b),
        ("Asymmetric Namespace Access", 60, 0x02, 0x0c),
    ] {
        let model = Model::fabrics().with_ana();
        let hook = silence(move |_, sqe| sqe.opcode == opcode && sqe.cdw10.get() as u8 == arg);
        let (error, after) = first_failure(model, hook);
        assert!(error.contains(what) && after.as_secs() == limit, "{what}: {error} {after:?}");
    }
    for (what, qid, fctype) in [
        ("Connect of the admin queue", 0, FabricsType::CONNECT),
        ("Connect of an I/O queue", 1, FabricsType::CONNECT),
        ("Property Get", 0, FabricsType::PROPERTY_GET),
        ("Property Set", 0, FabricsType::PROPERTY_SET),
    ] {
        let hook = silence(move |q, sqe| q == qid && sqe.fabrics_type() == Some(fctype));
        let (error, after) = first_failure(Model::fabrics(), hook);
        assert!(error.contains(what) && after.as_secs() == 10, "{what}: {error} {after:?}");
    }
    for (what, opcode) in [("Create I/O Completion", 0x05), ("Create I/O Submission", 0x01)] {
        let (error, _) = first_failure(Model::memory(), silence(move |_, s| s.opcode == opcode));
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn a_controller_that_never_gets_ready_is_given_the_time_that_it_asks_for() {
    for (crwms, to, seconds) in [(0, 15, 7.5), (1, 15, 20.0), (1, 80, 40.0), (0, 0, 0.5)] {
        for base in [Model::fabrics(), Model::memory()] {
            let mut model = base;
            model.cap = model.cap.with_to(to).with_crwms(crwms);
            model.reads_until_ready = u32::MAX;
            let (error, after) = first_failure(model, |_| ());
            assert!(error.contains("CSTS.RDY"), "{error}");
            // In memory it is first waited for that the controller is not ready: it never is not.
            assert!((after.as_secs_f64() - seconds).abs() < 0.1, "{after:?} for {seconds} s");
        }
    }
}

#[test]
fn fatal_status_and_absent_devices_are_seen() {
    let mut model = Model::fabrics();
    model.csts = Some(2);
    assert!(first_failure(model, |_| ()).0.contains("CSTS.CFS"));
    let mut model = Model::memory();
    model.csts = Some(u32::MAX);
    assert!(first_failure(model, |_| ()).0.contains("all ones"));
    let mut model = Model::memory();
    model.cap = Cap(u64::MAX);
    assert!(first_failure(model, |_| ()).0.contains("all ones"));
}

#[test]
fn each_field_that_cannot_be_is_named() {
    type Lie = fn(&mut Model);
    let lies: [(&str, Lie); 10] = [
        ("MQES", |m| m.cap = m.cap.with_mqes(0)),
        ("MPSMIN", |m| m.cap = m.cap.with_mpsmin(1)),
        ("CNTLID", |m| m.controller.cntlid = 8.into()),
        ("IOCCSZ", |m| m.controller.ioccsz = 3.into()),
        ("IORCSZ", |m| m.controller.iorcsz = 0.into()),
        ("ICDOFF", |m| m.controller.icdoff = 1.into()),
        ("SGLS", |m| m.controller.sgls = 0.into()),
        ("KAS", |m| m.controller.kas = 0.into()),
        ("SUBNQN", |m| m.controller.subnqn[25] ^= 1),
        ("demands authentication", |_| ()),
    ];
    for (field, lie) in lies {
        let mut model = Model::fabrics();
        lie(&mut model);
        if field == "demands authentication" {
            let mut rig = Rig::new(config(), model);
            rig.hook = Some(Box::new(|_, sqe| {
                let connect = sqe.fabrics_type() == Some(FabricsType::CONNECT);
                connect.then_some(Answer::Status(Status::SUCCESS, 1 << 17 | 9))
            }));
            rig.ctrl.start(rig.now);
            rig.settle();
            assert!(rig.failures()[0].contains(field), "{:?}", rig.failures());
            assert_eq!(rig.ctrl.state(), State::Dead);
        } else {
            let (error, _) = first_failure(model, |_| ());
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}

#[test]
fn transfer_limits_are_the_smaller_one_and_do_not_overflow() {
    for (mdts, transport, expect) in [
        (0, None, None),
        (5, None, Some(128 * 1024)),
        (5, Some(64 * 1024), Some(64 * 1024)),
        (0, Some(8192), Some(8192)),
        (63, None, None),
        (255, Some(8192), Some(8192)),
    ] {
        let mut model = Model::fabrics();
        model.controller.mdts = mdts;
        model.transport_max = transport;
        let rig = Rig::live(model);
        assert_eq!(rig.ctrl.info().unwrap().max_transfer, expect, "MDTS {mdts}");
    }
}

#[test]
fn queues_are_as_many_as_both_sides_have_and_as_deep() {
    let mut model = Model::fabrics();
    model.granted = 1;
    model.cap = model.cap.with_mqes(63);
    let rig = Rig::live(model);
    let info = rig.ctrl.info().unwrap();
    assert_eq!((info.io_queues, info.io_entries), (1, 64));
    assert_eq!(rig.live_queues.len(), 1);
    let unavailable =
        |e: &ControllerEvent| matches!(e, ControllerEvent::QueueUnavailable { qid: 2, granted: 1 });
    assert!(rig.has(unavailable), "{:?}", rig.events);

    let mut model = Model::fabrics();
    model.controller.maxcmd = 31.into();
    assert_eq!(Rig::live(model).ctrl.info().unwrap().io_entries, 32);
}

#[test]
fn without_io_queues_a_controller_is_live_for_administration() {
    let mut model = Model::fabrics();
    model.granted = 0;
    let rig = Rig::live(model);
    assert_eq!(rig.ctrl.info().unwrap().io_queues, 0);
    assert!(rig.live_queues.is_empty() && rig.ready_nsids().is_empty());
    assert!(rig.has(|e| matches!(e, ControllerEvent::ScanDone)));
}

#[test]
fn queues_wanted_later_are_opened_while_live() {
    let mut rig = Rig::live(Model::fabrics());
    rig.ctrl.want_queue(rig.now, 3);
    rig.ctrl.want_queue(rig.now, 3);
    rig.settle();
    assert!(rig.live_queues.contains(&3));
    // One that its owner dropped may fail without harm, and can be had again.
    rig.ctrl.unwant_queue(rig.now, 3);
    rig.ctrl.queue_failed(rig.now, 3, crate::rig::lost());
    rig.settle();
    assert_eq!(rig.ctrl.state(), State::Live);
    rig.live_queues.remove(&3);
    rig.ctrl.want_queue(rig.now, 3);
    rig.settle();
    assert!(rig.live_queues.contains(&3));
}

/// What Linux's target does while it has not yet seen that the connection before is gone.
#[test]
fn a_queue_whose_identifier_is_still_in_use_is_tried_again() {
    for (refusals, state) in [(3, State::Live), (u32::MAX, State::Connecting)] {
        let mut rig = Rig::live(Model::fabrics());
        let mut left = refusals;
        rig.hook = Some(Box::new(move |qid, sqe| {
            let connect = qid == 3 && sqe.fabrics_type() == Some(FabricsType::CONNECT);
            let refused = connect && left > 0;
            left -= u32::from(refused);
            refused.then(|| Answer::error(Status::SEQUENCE_ERROR.with_dnr()))
        }));
        rig.ctrl.want_queue(rig.now, 3);
        rig.settle();
        assert_eq!((rig.ctrl.state(), rig.live_queues.contains(&3)), (State::Live, false));
        // The tries have an end: then it is an error like others.
        rig.run_until(Duration::from_secs(5), |rig| rig.ctrl.state() != State::Live);
        assert_eq!(rig.ctrl.state(), state, "{:?}", rig.failures());
        assert_eq!(rig.live_queues.contains(&3), state == State::Live);
    }
}

#[test]
fn in_memory_a_queue_is_deleted_before_it_is_created_again() {
    let mut rig = Rig::live(Model::memory());
    rig.ctrl.unwant_queue(rig.now, 2);
    rig.live_queues.remove(&2);
    rig.seen.clear();
    rig.ctrl.want_queue(rig.now, 2);
    rig.settle();
    let opcodes: Vec<u8> = rig.seen.iter().map(|(_, sqe)| sqe.opcode).collect();
    assert_eq!(opcodes, [0x00, 0x04, 0x05, 0x01]);
    assert!(rig.live_queues.contains(&2));
}

#[test]
fn a_discovery_controller_has_no_queues_and_no_namespaces() {
    let mut model = Model::fabrics();
    model.controller.subnqn = nvme_core::nqn::Nqn::discovery().to_field();
    model.controller.ioccsz = 0.into();
    model.controller.iorcsz = 0.into();
    model.controller.oaes = (1 << 31).into();
    let mut config = config();
    config.subnqn = Some(nvme_core::nqn::Nqn::discovery());
    let mut rig = Rig::started(config, model);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.ctrl.state(), State::Live, "{:?}", rig.events);
    assert_eq!(rig.count(0x06), 1, "Identify Controller alone");
    rig.event(0x0070_f002);
    assert!(rig.has(|e| matches!(e, ControllerEvent::DiscoveryChanged)));
    assert!(!rig.held.is_empty(), "the next event request is out");
}

#[test]
fn retry_delays_are_read_and_asked_for_only_where_there_are_some() {
    let behavior = |rig: &Rig| {
        rig.seen.iter().filter(|(_, s)| s.opcode == 0x09 && s.cdw10.get() as u8 == 0x16).count()
    };
    assert_eq!(behavior(&Rig::live(Model::fabrics())), 0);
    let mut model = Model::fabrics();
    model.controller.crdt = [0.into(), 3.into(), 0.into()];
    let rig = Rig::live(model);
    assert_eq!(behavior(&rig), 1);
    let delays = rig.ctrl.info().unwrap().retry_delays;
    assert_eq!(delays, [Duration::ZERO, Duration::from_millis(300), Duration::ZERO]);
}

#[test]
fn a_subsystem_without_a_name_gets_one_made_up() {
    let mut model = Model::memory();
    model.controller.subnqn = [0; 256];
    model.controller.vid = 0x1b36.into();
    let mut config = config();
    config.subnqn = None;
    let mut rig = Rig::started(config, model);
    rig.run(Duration::from_millis(100));
    let name = rig.ctrl.info().unwrap().subnqn.clone();
    let expect = "nqn.2014.08.org.nvmexpress:1b360000SERIAL1             Model M";
    assert_eq!(name.as_str(), expect);
}

#[test]
fn a_queue_that_never_opens_does_not_keep_the_controller_from_being_used() {
    for model in [Model::fabrics(), Model::memory()] {
        let mut rig = Rig::live(model);
        // From now on no further queue opens, and those that there are do not come back either.
        rig.io_queue = Transport::Fails;
        rig.ctrl.want_queue(rig.now, 3);
        assert!(rig.run_until(Duration::from_secs(300), |rig| {
            let last =
                rig.events.iter().rposition(|e| matches!(e, ControllerEvent::QueueRefused { .. }));
            last.is_some() && rig.ctrl.state() == State::Live
        }));
        let before = rig.associations;
        assert!((2..20).contains(&before), "{before} associations");
        rig.run(Duration::from_secs(300));
        assert_eq!((rig.ctrl.state(), rig.associations), (State::Live, before), "it stays so");
        // Once they open, the next association has them all.
        rig.io_queue = Transport::Works;
        rig.ctrl.reset(rig.now, "a test".into());
        rig.run(Duration::from_secs(20));
        assert_eq!(rig.live_queues, [1, 2, 3].into());
    }
}
