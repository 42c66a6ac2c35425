//! The network's faults, by themselves.

use sim::clock::SEC;
use sim::dice::Dice;
use sim::net::{Net, Stage, Way};
use sim::trace::Trace;

#[test]
fn nothing_stays_behind_on_a_healed_port() {
    for until in [90 * SEC, u64::MAX] {
        let net = Net::new(1, Dice::new(1), Trace::new(false), SEC);
        let mut net = net.lock();
        // Both directions stand still: one connection is being made, one has an answer on the way.
        let talking = net.connect(0);
        net.advance(2 * SEC);
        net.stall(0, &[Way::Up, Way::Down], until);
        net.write(talking, Way::Down, b"late").unwrap();
        let calling = net.connect(0);
        net.advance(3 * SEC);
        assert_eq!(net.stage(calling), Stage::Connecting);
        assert_eq!(net.deadline(), (until != u64::MAX).then_some(until));
        net.heal(0);
        assert!(net.deadline().is_some_and(|at| at <= 3 * SEC), "{:?}", net.deadline());
        net.advance(3 * SEC);
        assert_eq!(net.stage(calling), Stage::Open);
        let mut bytes = [0; 8];
        assert_eq!(net.read(talking, Way::Down, &mut bytes).unwrap(), 4);
        assert_eq!(net.deadline(), None);
    }
}

#[test]
fn a_stall_keeps_the_order_of_what_it_holds_back() {
    let net = Net::new(1, Dice::new(1), Trace::new(false), SEC);
    let mut net = net.lock();
    let link = net.connect(0);
    net.advance(2 * SEC);
    net.stall(0, &[Way::Up], 4 * SEC);
    net.write(link, Way::Up, b"first").unwrap();
    net.advance(3 * SEC);
    // Another stall, longer than the first, holds all of it.
    net.stall(0, &[Way::Up], 6 * SEC);
    net.write(link, Way::Up, b"second").unwrap();
    net.finish(link, Way::Up);
    let mut bytes = [0; 16];
    net.advance(5 * SEC);
    let blocked = net.read(link, Way::Up, &mut bytes).unwrap_err();
    assert_eq!(blocked.kind(), std::io::ErrorKind::WouldBlock);
    net.advance(6 * SEC);
    assert_eq!(net.read(link, Way::Up, &mut bytes).unwrap(), 11);
    assert_eq!(net.read(link, Way::Up, &mut bytes).unwrap(), 0);
}
