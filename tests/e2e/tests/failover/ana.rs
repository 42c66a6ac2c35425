//! Asymmetric access: which path is taken in which state, and when I/O waits.
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_core::ana::AnaState;
use nvme_core::ana::AnaState::{Change, Inaccessible, NonOptimized, Optimized, PersistentLoss};
use nvme_e2e::{
    Bed, ChannelExt, Load, Nvmet, PORTS, Pattern, Session, Software, persistent, wait_until,
};
use nvme_mpath::{Channel, Head};

const LEN: usize = 4096;
const WRITES: u64 = 40;

/// Sets the state at a port for group 1, and waits until the head of namespace 1 shows it.
fn set(bed: &impl Bed, head: &Head, port: u16, state: AnaState) {
    bed.set_ana(port, 1, state);
    let address = format!("tcp://{}", bed.address(port));
    wait_until(&format!("{state} at port {port}"), || {
        head.paths().iter().any(|p| *p.address == *address && p.ana == state)
    });
}

/// Writes a number of times; how many came to each port.
fn traffic(bed: &impl Bed, head: &Arc<Head>, channel: &mut Channel) -> [u64; 2] {
    // The way is found by the first write; what it meets is not counted.
    channel.put(head, 0, LEN, Pattern { salt: 1, version: 0 });
    bed.watch();
    for version in 0..WRITES {
        channel.put(head, 0, LEN, Pattern { salt: 1, version });
    }
    PORTS.map(|port| bed.writes_seen(port))
}

fn assert_on(port: u16, seen: [u64; 2]) {
    let (right, wrong) = (seen[usize::from(port) - 1], seen[2 - usize::from(port)]);
    assert!(right >= WRITES && wrong < WRITES / 4, "all should come to port {port}: {seen:?}");
}

fn states_choose_the_path(bed: &impl Bed) {
    let session = Session::new(bed);
    session.connect_all(bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let mut channel = session.channel();

    // A channel begins with the queue that is open first; the other one joins in when it is.
    let mut seen = traffic(bed, &head, &mut channel);
    let limit = Instant::now() + Duration::from_secs(60);
    while seen.iter().any(|n| *n < WRITES / 4) && Instant::now() < limit {
        seen = traffic(bed, &head, &mut channel);
    }
    assert!(seen.iter().all(|n| *n >= WRITES / 4), "both are optimized: {seen:?}");
    set(bed, &head, 2, NonOptimized);
    assert_on(1, traffic(bed, &head, &mut channel));
    set(bed, &head, 1, Inaccessible);
    assert_on(2, traffic(bed, &head, &mut channel));
    set(bed, &head, 1, NonOptimized);
    let seen = traffic(bed, &head, &mut channel);
    assert!(seen.iter().all(|n| *n >= WRITES / 4), "none is better: {seen:?}");
    set(bed, &head, 1, PersistentLoss);
    assert_on(2, traffic(bed, &head, &mut channel));
    set(bed, &head, 2, Optimized);
    assert_on(2, traffic(bed, &head, &mut channel));
    set(bed, &head, 1, Optimized);
    set(bed, &head, 2, Change);
    assert_on(1, traffic(bed, &head, &mut channel));
    set(bed, &head, 2, Optimized);

    // No way at all: I/O waits. The other group is not concerned.
    let other = session.head(2);
    for state in [Inaccessible, Change] {
        for port in PORTS {
            set(bed, &head, port, state);
        }
        let pattern = Pattern { salt: 2, version: 1 };
        channel.begin_write(&head, 1, pattern);
        let mut done = Vec::new();
        channel.poll(&mut done);
        assert_eq!((done.len(), channel.parked()), (0, 1), "it waits in state {state}");
        channel.put(&other, 0, LEN, pattern);
        assert_eq!(channel.parked(), 1);
        set(bed, &head, 1, NonOptimized);
        let [written] = channel.finish(1).try_into().expect("one");
        written.result.expect("the write that waited");
        channel.check(&head, 0, LEN, pattern);
        for port in PORTS {
            set(bed, &head, port, Optimized);
        }
    }
    assert_eq!(session.host.pins_peak(), 0);
    session.shutdown();
}

/// The states change under load, so that the target refuses what is under way.
fn states_change_under_load(bed: &impl Bed) {
    let session = Session::new(bed);
    session.connect_all(bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 16, LEN);
    for round in 0..6 {
        let (from, to) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        bed.set_ana(to, 1, Optimized);
        bed.set_ana(from, 1, [Inaccessible, Change, PersistentLoss][round / 2]);
        load.wait_more(100);
    }
    for port in PORTS {
        bed.set_ana(port, 1, Inaccessible);
    }
    session.wait_usable(&head, 0);
    for port in PORTS {
        bed.set_ana(port, 1, Optimized);
    }
    session.wait_usable(&head, 2);
    load.wait_more(100);
    load.stop().assert_clean();
    assert!(head.stats().failovers > 0, "something was refused: {:?}", head.stats());
    session.shutdown();
}

#[test]
fn on_nvmet_states_choose_the_path() {
    states_choose_the_path(&Nvmet::new());
}

#[test]
fn on_nvmet_states_change_under_load() {
    states_change_under_load(&Nvmet::new());
}

#[test]
fn on_the_software_target_states_choose_the_path() {
    states_choose_the_path(&Software::new());
}

#[test]
fn on_the_software_target_states_change_under_load() {
    states_change_under_load(&Software::new());
}
