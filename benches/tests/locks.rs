//! In steady state no request takes a lock, and none changes memory that threads share: it executes
//! no atomic operation that reads and writes in one step, which each lock begins and ends with.
//!
//! Counted by callgrind, as the difference of a loop with few requests and one with many.

use std::path::Path;

use nvme_host_benches::callgrind;
use nvme_host_benches::counted::{self, LOOP, Work};
use nvme_mpath::PathPolicy;

/// Requests of the shorter run and of the longer one.
const COUNTS: [u64; 2] = [200, 700];

/// So many per request are not of requests, but of a letter from the control plane, such as comes when
/// a view changes. A lock for each batch of 32 would be three times as many, one for each poll more.
const NOT_OF_REQUESTS: f64 = 0.01;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_profile"))
}

/// Checks that more requests execute no more atomic operations.
fn check(words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    let work = Work::parse(&words).expect("a loop that is known");
    let profile = counted::slope(program(), &work, COUNTS).unwrap();
    assert!(profile.total().instructions > 100.0, "{work}: {profile:?}");
    let told = |stack: &[callgrind::Frame]| {
        let names: Vec<&str> = stack.iter().map(|frame| frame.name.as_str()).collect();
        let from = names.iter().position(|name| *name == LOOP).unwrap_or(0);
        names[from..].join(" > ")
    };
    let atomics: Vec<String> = profile
        .0
        .iter()
        .filter(|(_, events)| events.atomics > NOT_OF_REQUESTS)
        .map(|(place, events)| format!("{:.3} by {}", events.atomics, told(&place.stack)))
        .collect();
    assert!(atomics.is_empty(), "{work}: atomic operations per request: {atomics:#?}");
}

#[test]
fn atomic_operations_are_counted() {
    // Memory that devices reach is given out under a lock, at the beginning of the loop.
    let arguments = ["loop", "10", "", "pci", "read", "4096", "1"];
    let profile = callgrind::run(program(), &arguments, &counted::SYMBOLS).unwrap();
    assert!(profile.total().atomics >= 1.0, "{:?}", profile.total());
}

#[test]
fn no_policy_of_a_head_takes_a_lock() {
    for policy in PathPolicy::ALL {
        check(&format!("head {policy} 2 4096 1"));
    }
    check("head round-robin 1 4096 32");
    check("head round-robin 2+hedged 4096 32");
}

#[test]
fn no_request_to_a_device_takes_a_lock() {
    for words in ["pci read 4096 1", "pci write 4096 32", "pci read 131072 4"] {
        check(words);
    }
}

#[test]
fn no_request_over_tcp_takes_a_lock() {
    for words in [
        "tcp read 4096 1",
        "tcp write 4096 32",
        "tcp read 4096 32 ?hdgst=1&ddgst=1",
        "tcp write 4096 32 ?hdgst=1&ddgst=1",
        "tcp read 131072 4",
        "tcp write 131072 4",
    ] {
        check(words);
    }
}
