//! Two controllers of one subsystem: failover, delayed removal, and the way back.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use nvme_mpath::{DelayedRemoval, HeadState, IoRequest};
use nvme_pci_bed::{
    Bed, LIMIT, Load, channel, connect, eager, finish, pattern, persistent, verify, wait_until,
};
use nvme_target::{AnaState, NamespaceConfig, SubsystemConfig};

fn windows(window: Duration) -> DelayedRemoval {
    DelayedRemoval::from(window)
}

#[test]
fn io_goes_on_through_the_other_controller() {
    let mut bed = Bed::new(512);
    let (a, b) = (bed.device("a"), bed.device("b"));
    let host = bed.host();
    let (_a, head) = connect(&host, "mem://a", eager());
    let (_b, _) = connect(&host, "mem://b?poll=1", eager());
    wait_until("two paths", || head.paths().iter().filter(|p| p.usable).count() == 2);
    let load = Load::start(channel(&host), &head, 32, 8 << 10, 0);
    for round in 0..4 {
        let gone = if round % 2 == 0 { &a } else { &b };
        load.wait_more(100);
        gone.unplug();
        wait_until("one path", || head.paths().len() == 1);
        load.wait_more(100);
        gone.plug();
        wait_until("two paths", || head.paths().iter().filter(|p| p.usable).count() == 2);
    }
    load.stop().assert_clean();
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn a_device_that_returns_within_the_window_cancels_the_removal() {
    let mut bed = Bed::new(512);
    let (a, b) = (bed.device("a"), bed.device("b"));
    let host = bed.host();
    let (_a, head) = connect(&host, "mem://a", eager());
    let (_b, _) = connect(&host, "mem://b", eager());
    wait_until("two paths", || head.paths().iter().filter(|p| p.usable).count() == 2);
    head.set_delayed_removal(windows(LIMIT));
    let mut channel = channel(&host);
    verify(&mut channel, &head, 9, pattern(9, 4096, 1));
    a.unplug();
    b.unplug();
    wait_until("the window", || matches!(head.state(), HeadState::RemovalPending { .. }));
    assert_eq!(host.pin_count(), 1);
    channel.submit(&head, IoRequest::write(40, pattern(40, 8192, 2).into(), 5)).unwrap();
    wait_until("parked I/O", || {
        channel.poll(&mut Vec::new());
        channel.parked() == 1
    });
    b.plug();
    let done = finish(&mut channel, 1).remove(0);
    assert!(done.result.is_ok(), "{:?}", done.result);
    assert_eq!(host.pin_count(), 0);
    assert!(matches!(head.state(), HeadState::Live));
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn without_a_path_the_head_goes_when_the_window_is_over() {
    let mut bed = Bed::new(512);
    let a = bed.device("a");
    let host = bed.host();
    let (_a, head) = connect(&host, "mem://a", eager());
    head.set_delayed_removal(windows(Duration::from_millis(300)));
    let mut channel = channel(&host);
    a.unplug();
    wait_until("the window", || matches!(head.state(), HeadState::RemovalPending { .. }));
    channel.submit(&head, IoRequest::write(40, pattern(40, 8192, 2).into(), 5)).unwrap();
    let done = finish(&mut channel, 1).remove(0);
    assert!(done.result.is_err());
    wait_until("the end of the head", || matches!(head.state(), HeadState::Gone(_)));
    assert_eq!(host.pin_count(), 0);
    // The same namespace under a new head.
    a.plug();
    let nqn = nvme_core::nqn::Nqn::new(nvme_pci_bed::NQN).unwrap();
    let again = host.wait_head(&nqn, 1, LIMIT).unwrap();
    verify(&mut channel, &again, 9, pattern(9, 4096, 1));
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn a_transition_that_does_not_end_resets_its_controller_and_no_other() {
    let namespace = NamespaceConfig::memory(1, nvme_pci_bed::SIZE);
    let subsystem = SubsystemConfig::new(nvme_pci_bed::NQN).unwrap().mdts(0).ana_transition(1);
    let mut bed = Bed::with(subsystem.namespace(namespace));
    bed.device("a");
    let port = bed.target.add_listener("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}/{}", bed.target.addr(port).unwrap(), nvme_pci_bed::NQN);
    let host = bed.host();
    let (pci, head) = connect(&host, "mem://a", persistent());
    let (tcp, _) = connect(&host, &url, persistent());
    let usable = |count| head.paths().iter().filter(|p| p.usable).count() == count;
    wait_until("two paths", || usable(2));
    let load = Load::start(channel(&host), &head, 16, 8 << 10, 0);
    bed.target.set_ana(port, 1, AnaState::Change).unwrap();
    wait_until("the reset", || tcp.reconnects() > 0);
    bed.target.set_ana(port, 1, AnaState::Optimized).unwrap();
    wait_until("two paths", || usable(2));
    load.wait_more(50);
    load.stop().assert_clean();
    assert_eq!(pci.reconnects(), 0);
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn one_head_has_a_path_over_pcie_and_one_over_tcp() {
    let mut bed = Bed::new(512);
    let a = bed.device("a");
    let port = bed.target.add_listener("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}/{}", bed.target.addr(port).unwrap(), nvme_pci_bed::NQN);
    let host = bed.host();
    let (_pci, head) = connect(&host, "mem://a", eager());
    let (_tcp, same) = connect(&host, &url, eager());
    assert!(std::sync::Arc::ptr_eq(&head, &same));
    let both = || head.paths().iter().filter(|p| p.usable).count() == 2;
    wait_until("two paths", both);
    let load = Load::start(channel(&host), &head, 16, 8 << 10, 0);
    for round in 0..4 {
        load.wait_more(100);
        if round % 2 == 0 {
            a.unplug();
            wait_until("one path", || head.paths().len() == 1);
            load.wait_more(100);
            a.plug();
        } else {
            bed.target.listener(port).unwrap().disable().unwrap();
            wait_until("one path", || head.paths().len() == 1);
            load.wait_more(100);
            bed.target.listener(port).unwrap().enable().unwrap();
        }
        wait_until("two paths", both);
    }
    load.stop().assert_clean();
    host.shutdown_forced(LIMIT).unwrap();
}
