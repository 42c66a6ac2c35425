//! Each of the 49 pairs of states: whether the table allows the move, whether it is Linux's answer,
//! and whether the machine makes it, whatever is done to a controller in the state left.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use nvme_core::controller::{ControllerEvent, State};
use nvme_core::spec::opcode::FabricsType;
use nvme_core::time::Duration;
use nvme_core::transport::TransportError;

use crate::model::{Answer, Model};
use crate::rig::{Rig, Transport, config, lost};

/// What the table says of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// Allowed, and the machine makes it.
    Made,
    /// Allowed, as in Linux, though this machine has no use for it.
    Unused,
    Refused,
}

/// A controller in this state; `None`: the machine enters it never.
fn rig_in(state: State) -> Option<Rig> {
    let new = || Rig::new(config(), Model::fabrics());
    let mut rig = match state {
        State::New => new(),
        State::Connecting => {
            let mut rig = new();
            rig.associate = Transport::Silent;
            rig.ctrl.start(rig.now);
            rig
        }
        State::Live => Rig::live(Model::fabrics()),
        State::Resetting => {
            let mut rig = Rig::live(Model::fabrics());
            rig.teardown = Transport::Silent;
            rig.lose();
            rig
        }
        State::Deleting => {
            let mut rig = Rig::live(Model::fabrics());
            // CC.SHN is not answered, so the shutdown goes on.
            let set =
                |s: &nvme_core::spec::Sqe| s.fabrics_type() == Some(FabricsType::PROPERTY_SET);
            rig.hook = Some(Box::new(move |_, s| set(s).then_some(Answer::Silence)));
            rig.ctrl.delete(rig.now);
            rig
        }
        State::Dead => {
            let mut rig = new();
            rig.ctrl.delete(rig.now);
            rig
        }
        _ => return None,
    };
    rig.settle();
    assert_eq!(rig.ctrl.state(), state, "{:?}", rig.events);
    Some(rig)
}

/// All that can be done to a controller, and what time does.
const DEEDS: [fn(&mut Rig); 10] = [
    |rig| rig.ctrl.start(rig.now),
    |rig| rig.ctrl.reset(rig.now, "asked for".into()),
    |rig| rig.ctrl.delete(rig.now),
    |rig| rig.ctrl.reject(rig.now, "a structure", "cannot be".into()),
    |rig| rig.ctrl.queue_failed(rig.now, 0, lost()),
    |rig| {
        if std::mem::take(&mut rig.undecided) {
            rig.present = false;
        }
        rig.ctrl.association_failed(rig.now, lost());
    },
    |rig| {
        let gone = TransportError::Gone { address: "fake://1".into(), reason: "pulled".into() };
        rig.ctrl.queue_failed(rig.now, 0, gone);
    },
    |rig| match rig.tearing_down {
        true => rig.torn_down(),
        false => rig.ctrl.torn_down(rig.now),
    },
    |rig| rig.ctrl.rescan(rig.now),
    |rig| rig.run(Duration::from_secs(3600)),
];

/// The moves that the machine makes out of each state: each deed, followed by each other one, and
/// then all goes well again and time passes.
fn made() -> &'static BTreeSet<(&'static str, &'static str)> {
    static MADE: OnceLock<BTreeSet<(&str, &str)>> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut made = BTreeSet::new();
        for state in State::ALL {
            for first in DEEDS {
                for second in DEEDS {
                    let Some(mut rig) = rig_in(state) else { continue };
                    first(&mut rig);
                    rig.settle();
                    second(&mut rig);
                    rig.settle();
                    rig.hook = None;
                    (rig.associate, rig.teardown) = (Transport::Works, Transport::Works);
                    if rig.tearing_down {
                        rig.torn_down();
                    }
                    rig.run(Duration::from_secs(3600));
                    made.extend(rig.events.iter().filter_map(|e| match e {
                        ControllerEvent::StateChanged { from, to } => {
                            Some((from.name(), to.name()))
                        }
                        _ => None,
                    }));
                }
            }
        }
        made
    })
}

fn check(from: State, to: State, expected: Move) {
    assert_eq!(from.can_become(to), expected != Move::Refused, "the table: {from} to {to}");
    let seen = made().contains(&(from.name(), to.name()));
    assert_eq!(seen, expected == Move::Made, "the machine: {from} to {to}");
}

/// A test for each pair, by name. Rows are the states left.
macro_rules! pairs {
    ($($from:ident = $state:ident: $($to:ident $target:ident $expected:ident),+;)+) => {
        $(mod $from {
            use super::{Move, State, check};
            $(
                #[test]
                fn $to() {
                    check(State::$state, State::$target, Move::$expected);
                }
            )+
        })+
    };
}

pairs! {
    from_new = New:
        to_new New Refused, to_live Live Refused, to_resetting Resetting Unused,
        to_connecting Connecting Made, to_deleting Deleting Refused,
        to_deleting_no_io DeletingNoIo Refused, to_dead Dead Refused;
    from_live = Live:
        to_new New Refused, to_live Live Refused, to_resetting Resetting Made,
        to_connecting Connecting Refused, to_deleting Deleting Made,
        to_deleting_no_io DeletingNoIo Refused, to_dead Dead Refused;
    from_resetting = Resetting:
        to_new New Refused, to_live Live Refused, to_resetting Resetting Refused,
        to_connecting Connecting Made, to_deleting Deleting Made,
        to_deleting_no_io DeletingNoIo Refused, to_dead Dead Refused;
    from_connecting = Connecting:
        to_new New Refused, to_live Live Made, to_resetting Resetting Refused,
        to_connecting Connecting Refused, to_deleting Deleting Made,
        to_deleting_no_io DeletingNoIo Refused, to_dead Dead Refused;
    from_deleting = Deleting:
        to_new New Refused, to_live Live Refused, to_resetting Resetting Refused,
        to_connecting Connecting Refused, to_deleting Deleting Refused,
        to_deleting_no_io DeletingNoIo Unused, to_dead Dead Made;
    from_deleting_no_io = DeletingNoIo:
        to_new New Refused, to_live Live Refused, to_resetting Resetting Refused,
        to_connecting Connecting Refused, to_deleting Deleting Refused,
        to_deleting_no_io DeletingNoIo Refused, to_dead Dead Refused;
    from_dead = Dead:
        to_new New Refused, to_live Live Refused, to_resetting Resetting Refused,
        to_connecting Connecting Refused, to_deleting Deleting Refused,
        to_deleting_no_io DeletingNoIo Unused, to_dead Dead Refused;
}
