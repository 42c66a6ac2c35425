//! The host memory buffer: when it is asked for, given and taken back.

use nvme_core::controller::{ControllerEvent, State};
use nvme_core::spec::feature::fid;
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::Duration;
use nvme_core::transport::{HostMemory, TransportError};

use crate::model::{Answer, Model};
use crate::rig::{Rig, Transport, config};

fn wishing() -> Model {
    let mut model = Model::memory();
    model.controller.hmpre = 100.into();
    model.controller.hmmin = 10.into();
    model.controller.hmminds = 2.into();
    model.controller.hmmaxd = 7.into();
    model
}

fn is_host_memory(sqe: &Sqe) -> bool {
    AdminOpcode(sqe.opcode) == AdminOpcode::SET_FEATURES
        && sqe.cdw10.get() as u8 == fid::HOST_MEMORY_BUFFER
}

/// The arguments of each Set Features, Host Memory Buffer.
fn told(rig: &Rig) -> Vec<[u32; 5]> {
    let args = |s: &Sqe| [s.cdw11, s.cdw12, s.cdw13, s.cdw14, s.cdw15].map(|d| d.get());
    rig.seen.iter().filter(|(_, s)| is_host_memory(s)).map(|(_, s)| args(s)).collect()
}

fn start(model: Model, returned: bool) -> Rig {
    let mut rig = Rig::new(config(), model);
    rig.host_memory = Some(Box::new(move |request| {
        assert_eq!((request.preferred, request.least), (100 * 4096, 10 * 4096));
        assert_eq!((request.least_piece, request.most_pieces), (2 * 4096, Some(7)));
        let bytes = 90 * 4096;
        Ok(Some(HostMemory { bytes, list: 0x12_3456_7890, pieces: 3, returned }))
    }));
    rig.ctrl.want_queue(rig.now, 1);
    rig.ctrl.start(rig.now);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.ctrl.state(), State::Live, "{:?}", rig.events);
    rig
}

#[test]
fn it_is_given_before_the_io_queues_and_taken_before_the_shutdown() {
    for returned in [false, true] {
        let mut rig = start(wishing(), returned);
        let flags = if returned { 3 } else { 1 };
        assert_eq!(told(&rig), [[flags, 90, 0x3456_7890, 0x12, 3]]);
        let given = rig.seen.iter().position(|(_, s)| is_host_memory(s)).unwrap();
        let create = |s: &Sqe| AdminOpcode(s.opcode) == AdminOpcode::CREATE_IO_CQ;
        assert!(given < rig.seen.iter().position(|(_, s)| create(s)).unwrap());
        rig.hook = Some(Box::new(|_, sqe| is_host_memory(sqe).then_some(Answer::Silence)));
        rig.ctrl.delete(rig.now);
        rig.settle();
        assert_eq!(told(&rig)[1..], [[0; 5]]);
        assert!(!rig.model.shutdown_asked, "not before the buffer is back");
        let held = rig.held.pop().unwrap();
        rig.reply(held, Answer::ok());
        rig.settle();
        assert!(rig.model.shutdown_asked);
    }
}

#[test]
fn a_controller_that_does_not_give_it_back_is_shut_down_all_the_same() {
    let mut rig = start(wishing(), false);
    rig.hook = Some(Box::new(|_, sqe| is_host_memory(sqe).then_some(Answer::Silence)));
    rig.ctrl.delete(rig.now);
    rig.run(Duration::from_secs(2));
    assert!(rig.model.shutdown_asked);
    assert!(matches!(rig.events.last(), Some(ControllerEvent::Removed(_))), "{:?}", rig.events);
}

#[test]
fn without_memory_or_consent_it_goes_on() {
    let refused = |rig: &Rig| {
        let is = |e: &ControllerEvent| matches!(e, ControllerEvent::HostMemoryRefused { .. });
        rig.events.iter().any(is)
    };
    // No memory in such pieces.
    let rig = Rig::live(wishing());
    assert!(refused(&rig) && told(&rig).is_empty());
    // Refused by the controller.
    let mut rig = Rig::new(config(), wishing());
    let given = HostMemory { bytes: 4096 * 100, list: 16, pieces: 1, returned: false };
    rig.host_memory = Some(Box::new(move |_| Ok(Some(given))));
    rig.hook = Some(Box::new(|_, sqe| {
        is_host_memory(sqe).then(|| Answer::error(Status::INVALID_FIELD.with_dnr()))
    }));
    rig.ctrl.start(rig.now);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.ctrl.state(), State::Live);
    assert!(refused(&rig));
    // It has none, so none is taken back.
    rig.ctrl.delete(rig.now);
    rig.settle();
    assert_eq!(told(&rig).len(), 1);
}

#[test]
fn it_is_left_out_once_it_takes_the_queues_their_memory() {
    let mut rig = Rig::new(config(), wishing());
    let given = HostMemory { bytes: 4096 * 100, list: 16, pieces: 1, returned: false };
    rig.host_memory = Some(Box::new(move |_| Ok(Some(given))));
    rig.ctrl.want_queue(rig.now, 1);
    rig.io_queue = Transport::Silent;
    rig.ctrl.start(rig.now);
    rig.run(Duration::from_millis(100));
    assert_eq!(told(&rig).len(), 1);
    let (address, reason) = ("fake://1".into(), "RLIMIT_MEMLOCK".into());
    rig.ctrl.queue_failed(rig.now, 1, TransportError::Memory { address, reason });
    rig.io_queue = Transport::Works;
    rig.run(Duration::from_secs(20));
    assert_eq!(rig.ctrl.state(), State::Live);
    assert_eq!(told(&rig).len(), 1, "the second attempt leaves it out");
}
