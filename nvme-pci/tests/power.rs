//! Power states, chosen by the program and by the controller itself.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use nvme_core::spec::feature::ApstEntry;
use nvme_mpath::HostError;
use nvme_pci_bed::{Bed, LIMIT, NQN, SIZE, connect, persistent, wait_until};
use nvme_target::{NamespaceConfig, PowerState, SubsystemConfig};
use zerocopy::FromBytes;

const STATES: [PowerState; 3] = [
    PowerState { power: 800, non_operational: false, entry_us: 0, exit_us: 0 },
    PowerState { power: 5, non_operational: true, entry_us: 500, exit_us: 1000 },
    PowerState { power: 1, non_operational: true, entry_us: 5000, exit_us: 40_000 },
];

fn bed(states: &[PowerState]) -> Bed {
    let namespace = NamespaceConfig::memory(1, SIZE);
    Bed::with(SubsystemConfig::new(NQN).unwrap().power_states(states).namespace(namespace))
}

/// State and milliseconds of the first entries of the table that the controller was given.
fn told(bed: &Bed) -> Option<Vec<(u8, u32)>> {
    let subsystem = bed.target.subsystem(NQN).unwrap();
    let table = subsystem.controllers().remove(0).apst?;
    let entries = <[ApstEntry]>::ref_from_bytes(&table).unwrap();
    assert_eq!(entries.len(), 32);
    Some(entries.iter().take(3).map(|e| (e.state(), e.idle_ms())).collect())
}

#[test]
fn the_controller_is_told_how_deep_it_may_sleep() {
    let with = |states: &[PowerState], tolerance: Duration| {
        let mut bed = bed(states);
        bed.device("a");
        let host = bed.host();
        let mut options = persistent();
        options.apst_latency = tolerance;
        let (controller, _) = connect(&host, "mem://a", options);
        let first = told(&bed);
        controller.reset("a test");
        wait_until("the way back", || controller.reconnects() == 1);
        assert_eq!(told(&bed), first, "after a reset as before");
        host.shutdown_forced(LIMIT).unwrap();
        first
    };
    let ms = Duration::from_millis;
    assert_eq!(with(&STATES, ms(100)), Some(vec![(1, 100), (2, 2000), (0, 0)]));
    assert_eq!(with(&STATES, ms(39)), Some(vec![(1, 100), (0, 0), (0, 0)]));
    assert_eq!(with(&STATES, Duration::ZERO), None, "left alone");
    assert_eq!(with(&[], ms(100)), None, "it cannot");
}

#[test]
fn the_program_chooses_a_state() {
    let mut bed = bed(&STATES);
    bed.device("a");
    let host = bed.host();
    let (controller, _) = connect(&host, "mem://a", persistent());
    let states = controller.info().unwrap().power_states.clone();
    assert_eq!(states.iter().map(|s| s.power).collect::<Vec<_>>(), [80_000, 500, 100]);
    assert!(states[1].non_operational && !states[0].non_operational);
    assert_eq!(states[2].exit, nvme_core::time::Duration::from_millis(40));
    assert_eq!(controller.power_state(LIMIT).unwrap(), 0);
    controller.set_power_state(2, LIMIT).unwrap();
    assert_eq!(controller.power_state(LIMIT).unwrap(), 2);
    let error = controller.set_power_state(3, LIMIT).unwrap_err();
    assert!(matches!(error, HostError::Controller(_)), "{error}");
    assert!(error.to_string().contains("Power Management"), "{error}");
    assert_eq!(controller.power_state(LIMIT).unwrap(), 2);
    host.shutdown_forced(LIMIT).unwrap();
}
