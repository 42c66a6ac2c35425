//! What is known to be wrong with a device, as the controller layer deals with it.

use nvme_core::controller::{ControllerEvent, State};
use nvme_core::quirk::{DeviceIds, Hardware, QuirkChange, Quirks};
use nvme_core::time::Duration;

use crate::model::Model;
use crate::rig::{Rig, config};

fn hardware(vendor: u16, device: u16, change: &str) -> Hardware {
    let ids = DeviceIds { vendor, device, subsystem_vendor: 0, subsystem: 0 };
    let quirks = if change.is_empty() { QuirkChange::default() } else { change.parse().unwrap() };
    Hardware { ids: Some(ids), quirks }
}

#[test]
fn the_transport_is_told_twice_and_before_it_opens_what_matters() {
    let mut model = Model::memory();
    model.controller.mn = *b"Example Drive                           ";
    let mut config = config();
    config.quirks = vec!["model:Example Drive=no-sgl".parse().unwrap()];
    let mut rig = Rig::new(config, model);
    rig.hardware = hardware(0x1b36, 0x0010, "");
    rig.ctrl.start(rig.now);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.ctrl.state(), State::Live);
    assert_eq!(rig.quirks, [Quirks::BOGUS_IDS, Quirks::BOGUS_IDS | Quirks::NO_SGL]);
    let info = rig.ctrl.info().unwrap();
    assert_eq!(Some(&info.quirks), rig.quirks.last());
    assert_eq!(info.device, rig.hardware.ids);
}

#[test]
fn the_status_is_not_read_for_a_while_after_the_controller_was_disabled() {
    for (change, least) in [("ready-delay", Duration::from_millis(2300)), ("", Duration::ZERO)] {
        let mut model = Model::memory();
        // Somebody left it enabled.
        model.write_register(0x14, 1);
        let mut rig = Rig::new(config(), model);
        rig.hardware = hardware(1, 2, change);
        let begin = rig.now;
        rig.ctrl.start(rig.now);
        assert!(rig.run_until(Duration::from_secs(20), |rig| rig.ctrl.state() == State::Live));
        let taken = rig.now.saturating_since(begin);
        assert!(taken >= least && taken < least + Duration::from_secs(1), "{change}: {taken:?}");
    }
}

#[test]
fn a_device_that_cannot_be_driven_is_not_touched() {
    let mut rig = Rig::new(config(), Model::memory());
    rig.hardware = hardware(0x106b, 0x2005, "");
    rig.ctrl.start(rig.now);
    rig.run(Duration::from_secs(60));
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Dead, 1));
    assert!(rig.seen.is_empty() && rig.quirks.is_empty(), "{:?}", rig.seen);
    let Some(ControllerEvent::Removed(cause)) = rig.events.last() else { panic!() };
    assert!(cause.to_string().contains("wide-entries"), "{cause}");
}
