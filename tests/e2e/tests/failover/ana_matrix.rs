//! The ANA matrix: each state at one port with each state at the other, with I/O running. Which
//! path serves, or that I/O waits, is looked at in each of the 25 cells, and the data after it.
//!
//! | the states of the two paths | I/O |
//! | --- | --- |
//! | one optimized | takes the optimized path alone |
//! | both optimized | takes both |
//! | one non-optimized, the other not usable | takes the non-optimized one |
//! | both non-optimized | takes both |
//! | neither usable: inaccessible, persistent loss, change | waits until one is |

use std::sync::Arc;

use nvme_core::ana::AnaState;
use nvme_core::ana::AnaState::{Change, Inaccessible, NonOptimized, Optimized, PersistentLoss};
use nvme_e2e::{
    Bed, ChannelExt, Load, Nvmet, PORTS, Pattern, Session, Software, persistent, wait_until,
};
use nvme_mpath::{Channel, Head};

const STATES: [AnaState; 5] = [Optimized, NonOptimized, Inaccessible, PersistentLoss, Change];
const LEN: usize = 4096;
const WRITES: u64 = 24;
/// Where the load in the background writes; what is looked at is at block 0.
const LOAD_AT: u64 = 1 << 20;

/// The ports that serve.
fn serving(states: [AnaState; 2]) -> Vec<u16> {
    let best = states.iter().filter(|s| s.is_accessible()).min_by_key(|s| **s != Optimized);
    let serves = |port: &u16| Some(&states[usize::from(*port) - 1]) == best;
    PORTS.into_iter().filter(serves).collect()
}

fn set_both(bed: &impl Bed, head: &Head, states: [AnaState; 2]) {
    for (port, state) in PORTS.into_iter().zip(states) {
        bed.set_ana(port, 1, state);
    }
    wait_until(&format!("{states:?}"), || {
        PORTS.into_iter().zip(states).all(|(port, state)| {
            let address = format!("tcp://{}", bed.address(port));
            let paths = head.paths();
            let path = paths.iter().find(|p| *p.address == *address);
            path.is_some_and(|p| p.ana == state && p.usable == state.is_accessible())
        })
    });
}

/// One cell in which some path serves.
fn served(bed: &impl Bed, head: &Arc<Head>, channel: &mut Channel, salt: u64, by: &[u16]) {
    channel.put(head, 0, LEN, Pattern { salt, version: 0 });
    bed.watch();
    for version in 0..WRITES {
        channel.put(head, 0, LEN, Pattern { salt, version });
    }
    for port in PORTS {
        let seen = bed.writes_seen(port);
        let right = if by.contains(&port) { seen >= WRITES / 4 } else { seen < WRITES / 4 };
        assert!(right, "{} writes of {WRITES} at port {port}; {by:?} should serve", seen);
    }
    channel.check(head, 0, LEN, Pattern { salt, version: WRITES - 1 });
}

/// One cell in which none does: a write waits, is not failed, and is done when a path comes.
fn waits(bed: &impl Bed, head: &Arc<Head>, channel: &mut Channel, salt: u64) {
    let pattern = Pattern { salt, version: 1 };
    channel.begin_write(head, 0, pattern);
    let mut done = Vec::new();
    channel.poll(&mut done);
    assert_eq!((done.len(), channel.parked()), (0, 1), "it waits");
    set_both(bed, head, [NonOptimized, Inaccessible]);
    let [written] = channel.finish(1).try_into().expect("one");
    written.result.expect("the write that waited");
    channel.check(head, 0, LEN, pattern);
}

fn matrix(bed: &impl Bed) {
    let session = Session::new(bed);
    session.connect_all(bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let mut channel = session.channel();
    let mut lines = Vec::new();
    // The states of a cell are entered under load, and looked at without it.
    for (i, a) in STATES.into_iter().enumerate() {
        for (j, b) in STATES.into_iter().enumerate() {
            let states = [a, b];
            let load = Load::start_at(session.channel(), &head, 8, LEN, LOAD_AT);
            load.wait_more(20);
            set_both(bed, &head, states);
            let by = serving(states);
            if by.is_empty() {
                waits(bed, &head, &mut channel, (10 + i * 5 + j) as u64);
            }
            load.wait_more(20);
            load.stop().assert_clean();
            if !by.is_empty() {
                served(bed, &head, &mut channel, (10 + i * 5 + j) as u64, &by);
            }
            let what = if by.is_empty() { "waits".into() } else { format!("served by {by:?}") };
            lines.push(format!("| {} | {a} | {b} | {what} |", bed.name()));
            set_both(bed, &head, [Optimized, Optimized]);
        }
    }
    assert_eq!(lines.len(), 25);
    println!("{}", lines.join("\n"));
    let stats = head.stats();
    assert!(stats.failed_no_path == 0 && stats.parked > 0, "{stats:?}");
    assert_eq!(session.host.pins_peak(), 0, "no state of ANA takes a path off its head");
    session.shutdown();
}

#[test]
fn on_nvmet_all_25_cells() {
    matrix(&Nvmet::new());
}

#[test]
fn on_the_software_target_all_25_cells() {
    matrix(&Software::new());
}
