//! Cross-Controller Reset and the quiesce time, as a host sees them.

use std::time::Duration;

use nvme_core::spec::command::GetLogPage;
use nvme_core::spec::feature::fid;
use nvme_core::spec::identify::{IdentifyController, cns};
use nvme_core::spec::log::{CrossControllerResetLog, ResetState, lid};
use nvme_core::spec::opcode::NvmOpcode;
use nvme_core::spec::{BlockCount, Cqe, Sqe, Status};
use nvme_target::{FaultAction, FaultRule, SubsystemConfig, Target};
use zerocopy::FromBytes;

use crate::host::{Host, NQN, Queue, start, target, until};

const LATE: Duration = Duration::from_millis(300);
const EVENT: u64 = 0x1e_f4_02;

fn with_resets() -> Target {
    start(SubsystemConfig::new(NQN).unwrap().cross_controller_resets(2))
}

fn identify(host: &mut Host) -> IdentifyController {
    IdentifyController::read_from_bytes(&host.identify(cns::CONTROLLER, 0).unwrap()).unwrap()
}

/// The command that resets the controller of `id`.
fn reset_of(id: &IdentifyController) -> Sqe {
    Sqe::cross_controller_reset(id.cntlid.get(), id.ciu, id.cirn.get())
}

fn write(byte: u8, queue: &mut Queue) {
    let cqe = queue.store(Sqe::write(1, 0, BlockCount::ONE), &[byte; 512]);
    assert!(cqe.status().is_success());
}

fn first_byte(queue: &mut Queue) -> u8 {
    queue.fetch(Sqe::read(1, 0, BlockCount::ONE), 512).0[0]
}

/// Sends a write of ones on a connection that dies, to be executed `LATE` after that.
fn leave_late_write(target: &Target, host: &Host) {
    let rule = FaultRule::new(FaultAction::LateWrite(LATE)).io().opcode(NvmOpcode::WRITE.0);
    let id = target.add_fault(rule.times(1));
    let mut queue = host.queue(1);
    queue.send_in_capsule(Sqe::write(1, 0, BlockCount::ONE), &[1; 512]);
    until("it is struck", || target.fault_hits(id) == Some(1));
}

/// What is there once the late write has had its time, and twice that.
fn settled(queue: &mut Queue) -> u8 {
    let begun = std::time::Instant::now();
    while begun.elapsed() < LATE * 2 {
        let _ = first_byte(queue);
    }
    first_byte(queue)
}

#[test]
fn what_is_not_offered_is_not_there() {
    let target = target();
    let (mut a, mut b) = (Host::new(target.addr(0).unwrap()), Host::new(target.addr(1).unwrap()));
    let id = identify(&mut a);
    assert_eq!((id.cqt.get(), id.ccrl, id.ciu, id.cirn.get()), (0, 0, 0, 0));
    assert_eq!(id.oaes.get() & 1 << 20, 0);
    let cqe = b.admin.run(reset_of(&id));
    assert!(cqe.status().is(Status::INVALID_OPCODE));
    let log = b.log(GetLogPage::new(lid::CROSS_CONTROLLER_RESET, 4096));
    assert!(log.unwrap_err().is(Status::INVALID_LOG_PAGE));
}

#[test]
fn a_reset_stops_a_write_that_has_outlived_its_association() {
    let target = with_resets();
    let mut lost = Host::new(target.addr(0).unwrap());
    let mut other = Host::new(target.addr(1).unwrap());
    let id = identify(&mut lost);
    assert!(id.ccrl == 2 && id.cirn.get() != 0);
    leave_late_write(&target, &lost);
    drop(lost);
    until("the association is gone", || target.first_subsystem().unwrap().controllers().len() == 1);
    let cqe = other.admin.run(reset_of(&id));
    assert!(cqe.status().is_success());
    assert_eq!(cqe.result(), 1, "done at once");
    let mut queue = other.queue(1);
    write(2, &mut queue);
    assert_eq!(settled(&mut queue), 2);
}

#[test]
fn a_reset_of_a_controller_that_is_connected_ends_it_and_is_told_by_log_and_event() {
    let target = with_resets();
    let mut lost = Host::new(target.addr(0).unwrap());
    let mut other = Host::new(target.addr(1).unwrap());
    let id = identify(&mut lost);
    let set = Sqe::set_features(fid::ASYNC_EVENT_CONFIG, false, 0, 1 << 20);
    assert!(other.admin.run(set).status().is_success());
    leave_late_write(&target, &lost);
    let event = other.admin.send_transport(Sqe::async_event_request(), 0);
    let reset = other.admin.send_transport(reset_of(&id), 0);
    // the answer and the event come in this order, if an event comes at all
    assert_eq!(other.admin.response(reset).result(), 0, "its connections are open");
    assert_eq!(other.admin.response(event).result(), EVENT);
    let page = other.log(GetLogPage::new(lid::CROSS_CONTROLLER_RESET, 4096)).unwrap();
    let log = CrossControllerResetLog::parse(&page).unwrap();
    let [entry] = log.entries() else { panic!("{log:?}") };
    assert_eq!((entry.icid, entry.ciu, entry.ccrs), (id.cntlid, id.ciu, ResetState::SUCCESS));
    lost.admin.expect_close();
    let mut queue = other.queue(1);
    write(2, &mut queue);
    assert_eq!(settled(&mut queue), 2);
    let page = other.log(GetLogPage::new(lid::CROSS_CONTROLLER_RESET, 4096)).unwrap();
    assert!(CrossControllerResetLog::parse(&page).unwrap().entries().is_empty(), "read once");
}

#[test]
fn a_controller_does_not_reset_itself_or_another_life_or_another_hosts() {
    let target = with_resets();
    let mut a = Host::new(target.addr(0).unwrap());
    let mut b = Host::new(target.addr(1).unwrap());
    let (of_a, of_b) = (identify(&mut a), identify(&mut b));
    let is = |cqe: Cqe, status| cqe.status().is(status);
    assert!(is(b.admin.run(reset_of(&of_b)), Status::INVALID_FIELD));
    for sqe in [
        Sqe::cross_controller_reset(of_a.cntlid.get(), of_a.ciu ^ 1, of_a.cirn.get()),
        Sqe::cross_controller_reset(of_a.cntlid.get(), of_a.ciu, of_a.cirn.get() ^ 1),
    ] {
        // a life that is not there has nothing left to stop
        let cqe = b.admin.run(sqe);
        assert!(cqe.status().is_success() && cqe.result() == 1);
    }
    assert!(a.admin.run(Sqe::keep_alive()).status().is_success(), "it lives");
}

#[test]
fn no_write_outlives_its_association_by_more_than_the_quiesce_time() {
    for (quiesce, byte) in [(LATE / 3, 2), (LATE * 2, 1)] {
        let target = start(SubsystemConfig::new(NQN).unwrap().quiesce_time(quiesce));
        let mut lost = Host::new(target.addr(0).unwrap());
        assert_eq!(u128::from(identify(&mut lost).cqt.get()), quiesce.as_millis());
        leave_late_write(&target, &lost);
        drop(lost);
        until("the association is gone", || {
            target.first_subsystem().unwrap().controllers().is_empty()
        });
        let other = Host::new(target.addr(1).unwrap());
        let mut queue = other.queue(1);
        write(2, &mut queue);
        assert_eq!(settled(&mut queue), byte, "quiesce time {quiesce:?}");
    }
}
