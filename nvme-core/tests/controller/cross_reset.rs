//! Cross-Controller Reset: asked for, answered at once or by log and event, refused, lost.

use nvme_core::controller::{ControllerEvent, ControllerInstance, CrossReset};
use nvme_core::spec::Status;
use nvme_core::spec::log::{CrossControllerResetEntry, CrossControllerResetLog, ResetState};
use nvme_core::time::Duration;

use crate::model::{Answer, Model};
use crate::rig::Rig;

const OTHER: ControllerInstance = ControllerInstance { cntlid: 3, ciu: 7, cirn: 0x1_2345_6789 };
const RESET: u8 = 0x38;
const DONE_EVENT: u64 = 0x001e_f402;

fn rig() -> Rig {
    let mut model = Model::fabrics();
    model.controller.ccrl = 1;
    model.controller.ciu = 9;
    model.controller.cirn = 77.into();
    model.controller.cqt = 250.into();
    model.controller.oaes = (1 << 20).into();
    let mut rig = Rig::live(model);
    rig.seen.clear();
    rig.events.clear();
    rig
}

fn outcomes(rig: &Rig) -> Vec<(u64, CrossReset)> {
    let of = |e: &ControllerEvent| match e {
        ControllerEvent::CrossReset { user, outcome } => Some((*user, *outcome)),
        _ => None,
    };
    rig.events.iter().filter_map(of).collect()
}

/// Answers the reset with this, and log reads with a page that says that.
fn answer(rig: &mut Rig, reset: Answer, state: ResetState) {
    let entry = CrossControllerResetEntry::new(OTHER.cntlid, OTHER.ciu, state);
    let other = CrossControllerResetEntry::new(OTHER.cntlid, 8, ResetState::SUCCESS);
    let page = CrossControllerResetLog::encode(&[other, entry]);
    rig.hook = Some(Box::new(move |_, sqe| match sqe.opcode {
        RESET => Some(reset.clone()),
        0x02 if sqe.cdw10.get() as u8 == 0x1e => Some(Answer::Bytes(page.clone())),
        _ => None,
    }));
}

#[test]
fn what_identify_says_of_fencing_is_told() {
    let rig = rig();
    let info = rig.ctrl.info().unwrap();
    let own = ControllerInstance { cntlid: 9, ciu: 9, cirn: 77 };
    assert_eq!((info.instance, info.cross_resets), (Some(own), 1));
    assert_eq!(info.quiesce_time, Duration::from_millis(250));
    let plain = Rig::live(Model::fabrics());
    let info = plain.ctrl.info().unwrap();
    assert_eq!((info.instance, info.cross_resets, info.quiesce_time), (None, 0, Duration::ZERO));
}

#[test]
fn a_reset_that_is_done_at_once_needs_no_log() {
    let mut rig = rig();
    answer(&mut rig, Answer::Status(Status::SUCCESS, 1), ResetState::FAILED);
    assert!(rig.ctrl.reset_other(rig.now, OTHER, 5));
    rig.settle();
    assert_eq!(outcomes(&rig), [(5, CrossReset::Done)]);
    let sqe = rig.seen[0].1;
    assert_eq!((sqe.opcode, sqe.cdw10.get()), (RESET, 7 << 16 | 3));
    assert_eq!((sqe.cdw12.get(), sqe.cdw13.get()), (0x2345_6789, 1));
    rig.run(Duration::from_secs(60));
    assert_eq!(rig.count(0x02), 0, "nothing is left to look for");
}

#[test]
fn the_log_tells_the_end_when_the_event_says_so() {
    for (state, outcome) in
        [(ResetState::SUCCESS, CrossReset::Done), (ResetState::FAILED, CrossReset::Failed)]
    {
        let mut rig = rig();
        answer(&mut rig, Answer::ok(), state);
        assert!(rig.ctrl.reset_other(rig.now, OTHER, 5));
        assert!(!rig.ctrl.reset_other(rig.now, OTHER, 6), "CCRL is 1");
        rig.settle();
        assert!(outcomes(&rig).is_empty());
        rig.event(DONE_EVENT);
        assert_eq!(outcomes(&rig), [(5, outcome)]);
    }
}

#[test]
fn the_log_is_read_also_if_no_event_comes_and_until_it_says_something() {
    let mut rig = rig();
    answer(&mut rig, Answer::ok(), ResetState::IN_PROGRESS);
    assert!(rig.ctrl.reset_other(rig.now, OTHER, 5));
    rig.run(Duration::from_secs(10));
    assert!(outcomes(&rig).is_empty());
    let reads = rig.count(0x02);
    assert!((4..=12).contains(&reads), "{reads} reads in 10 s");
    answer(&mut rig, Answer::ok(), ResetState::SUCCESS);
    rig.run(Duration::from_secs(3));
    assert_eq!(outcomes(&rig), [(5, CrossReset::Done)]);
}

#[test]
fn a_refusal_is_told_and_one_that_goes_on_already_is_waited_for() {
    let mut rig = rig();
    let full = Status::CROSS_CONTROLLER_RESET_LOG_FULL;
    answer(&mut rig, Answer::error(full), ResetState::SUCCESS);
    assert!(rig.ctrl.reset_other(rig.now, OTHER, 1));
    rig.settle();
    assert_eq!(outcomes(&rig), [(1, CrossReset::Refused(full))]);
    rig.events.clear();
    let going_on = Answer::error(Status::CROSS_CONTROLLER_RESET_IN_PROGRESS);
    answer(&mut rig, going_on, ResetState::SUCCESS);
    assert!(rig.ctrl.reset_other(rig.now, OTHER, 2));
    rig.run(Duration::from_secs(1));
    assert_eq!(outcomes(&rig), [(2, CrossReset::Done)]);
}

#[test]
fn a_controller_that_cannot_is_not_asked_and_one_that_is_lost_tells_nothing() {
    let mut plain = Rig::live(Model::fabrics());
    assert!(!plain.ctrl.reset_other(plain.now, OTHER, 1));
    let mut rig = rig();
    answer(&mut rig, Answer::ok(), ResetState::SUCCESS);
    assert!(rig.ctrl.reset_other(rig.now, OTHER, 1));
    rig.lose();
    rig.run(Duration::from_secs(30));
    assert!(outcomes(&rig).is_empty());
}
