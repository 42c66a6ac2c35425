//! The programs on Linux's own target, in the guest.

use std::time::Duration;

use nvme_vm::Guest;
use serde_json::Value;

use crate::common::{Running, nvmeh, quickstart, run};

fn json(arguments: &[&str]) -> Value {
    let ended = run(nvmeh(), arguments);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    ended.json()
}

fn url(guest: &Guest, port: u16) -> String {
    format!("tcp://{}/{}", guest.addr(port).expect("a port"), guest.subnqn())
}

#[test]
fn quickstart_follows_what_happens_to_the_ports_of_nvmet() {
    let guest = Guest::shared().unwrap();
    let (a, b) = (url(&guest, 1), url(&guest, 2));
    let arguments = ["--manual", "--json", "--window", "8", "--connect", &a, "--connect", &b];
    let mut program = Running::start(quickstart(), &arguments);
    program.until(&["path A", "up"]);
    program.until(&["work"]);
    guest.disable_port(1).unwrap();
    program.until(&["path A", "down"]);
    guest.disable_port(2).unwrap();
    program.until(&["path B", "down"]);
    program.until(&["removal in"]);
    guest.enable_port(2).unwrap();
    program.until(&["removal cancelled"]);
    guest.enable_port(1).unwrap();
    program.until(&["path A", "up"]);
    guest.disable_port(1).unwrap();
    guest.disable_port(2).unwrap();
    program.until(&["head", "removed"]);
    let ended = program.end();
    let (said, json) = (&ended.stdout, ended.json());
    let number = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("{key}: {said}"));
    for key in ["lost", "duplicated", "stale", "torn"] {
        assert_eq!(number(key), 0, "{key}: {said}");
    }
    assert!(number("completed") > 0 && number("failovers") > 0, "{said}");
    assert_eq!(number("removals_cancelled"), 1, "{said}");
    assert_eq!(number("removals_fired"), 1, "{said}");
    assert!(number("failed_after_removal") > 0, "{said}");
    assert_eq!(number("pins_after"), number("pins_before"), "{said}");
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn nvmeh_discovers_and_lists_nvmet() {
    let guest = Guest::shared().unwrap();
    let port = format!("tcp://{}", guest.addr(1).unwrap());
    let found = json(&["discover", &port, "--json"]);
    assert!(found.to_string().contains(guest.subnqn()), "{found}");
    let listed = json(&["list", &url(&guest, 1), &url(&guest, 2), "--json"]).to_string();
    for nsid in [1, 2] {
        let uuid = guest.namespace(nsid).unwrap().uuid_text();
        assert!(listed.contains(&uuid), "{uuid} in {listed}");
    }
    assert!(listed.contains("optimized"), "{listed}");
}

#[test]
fn nvmeh_verifies_io_on_nvmet_while_a_path_goes_and_comes() {
    let guest = Guest::shared().unwrap();
    let (a, b) = (url(&guest, 1), url(&guest, 2));
    let arguments = ["io", &a, &b, "--rw", "randrw", "--bs", "4k", "--qd", "32", "--time", "25"];
    let arguments = [&arguments[..], &["--verify", "--write-ok", "--json"]].concat();
    let program = Running::start(nvmeh(), &arguments);
    let connected = "ss -Htn state established '( sport = :4420 )' | grep -q .";
    // One cut may find that the target has just answered all it had from path 1, and then nothing
    // fails over.
    for _ in 0..3 {
        guest.wait_for(connected, Duration::from_secs(60)).unwrap();
        guest.disable_port(1).unwrap();
        guest.enable_port(1).unwrap();
    }
    let ended = program.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let json = ended.json();
    for key in ["lost", "misplaced", "stale", "torn"] {
        assert_eq!(json["verify"][key].as_u64(), Some(0), "{key}: {json}");
    }
    for key in ["lost_requests", "duplicated_completions", "failed"] {
        assert_eq!(json[key].as_u64(), Some(0), "{key}: {json}");
    }
    assert!(json["failovers"].as_u64() > Some(0), "{json}");
}
