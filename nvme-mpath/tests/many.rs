//! Many controllers that are silent: what is done for one of them is not paid for by all.

use std::sync::atomic::Ordering;

use nvme_core::controller::State;
use nvme_core::time::{Clock, Duration};
use nvme_fake::{Bench, quiet};

const MANY: usize = 200;

/// A bench with so many controllers, and what their ports are called.
fn many() -> (Bench, Vec<String>) {
    let mut bench = Bench::new();
    let ports: Vec<String> = (0..MANY).map(|n| format!("port{n}")).collect();
    let mut options = quiet();
    options.keep_alive = Duration::from_secs(10);
    for port in &ports {
        bench.world.port(port, |port| port.descriptors = true);
        let url = format!("fake://{port}/{}", nvme_fake::SUBSYSTEM);
        bench.host.connect(&url, options.clone()).unwrap();
    }
    bench.settle();
    assert!(bench.host.controllers().iter().all(|c| c.state() == State::Live));
    (bench, ports)
}

/// Times that the control plane asked a queue when it wants to be polled.
fn asked(bench: &Bench) -> usize {
    bench.world.asked.swap(0, Ordering::Relaxed)
}

#[test]
fn a_turn_looks_at_those_that_have_something_to_do() {
    let (mut bench, _) = many();
    bench.drive();
    asked(&bench);
    for _ in 0..100 {
        bench.host.drive(Duration::ZERO);
        assert!(bench.host.deadline().is_some_and(|at| at > bench.clock.now()));
    }
    assert_eq!(asked(&bench), 0, "nobody has anything to do");
    bench.host.controllers()[7].rescan();
    bench.drive();
    let for_one = asked(&bench);
    assert!((1..MANY).contains(&for_one), "{for_one}");
    bench.settle();
}

#[test]
fn each_is_served_when_it_is_due() {
    let (mut bench, ports) = many();
    // Keep-alives of all, again and again, and the loss and the return of one of them.
    bench.run(Duration::from_secs(30));
    bench.world.pull(&ports[100]);
    bench.host.controllers()[100].rescan();
    bench.run(Duration::from_secs(3));
    assert_ne!(bench.host.controllers()[100].state(), State::Live);
    bench.world.plug(&ports[100]);
    bench.run(Duration::from_secs(30));
    assert!(bench.host.controllers().iter().all(|c| c.state() == State::Live));
    let attempts = |port: &String| bench.world.port(port, |port| port.attempts);
    let others = ports.iter().filter(|port| **port != ports[100]);
    assert!(others.map(attempts).all(|n| n == 1));
}
