//! The quickstart as a user runs it.

use crate::common::{Ended, Running, quickstart, run, target, url, wait_for_io};
use nvme_core::spec::Status;
use nvme_core::spec::opcode::NvmOpcode;
use nvme_target::{FaultAction, FaultRule};

/// Fields that are promised to whoever reads the result.
const PROMISED: [&str; 17] = [
    "completed",
    "failed_after_removal",
    "lost",
    "duplicated",
    "stale",
    "torn",
    "failovers",
    "removals_scheduled",
    "removals_cancelled",
    "removals_fired",
    "pins_before",
    "pins_peak",
    "pins_after",
    "longest_failover_ms",
    "bytes",
    "seconds",
    "failed",
];

#[test]
fn the_story_comes_true() {
    let ended = run(quickstart(), &["--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let json = ended.json();
    for field in PROMISED {
        assert!(json[field].is_number(), "{field}: {json}");
    }
    for field in ["lost", "duplicated", "stale", "torn"] {
        assert_eq!(json[field], 0, "{field}");
    }
    for field in ["completed", "failovers", "failed_after_removal", "bytes"] {
        assert!(json[field].as_u64() > Some(0), "{field}: {json}");
    }
    assert_eq!(json["failed"], json["failed_after_removal"]);
    let removals =
        ["scheduled", "cancelled", "fired"].map(|what| &json[format!("removals_{what}")]);
    assert_eq!(removals, [2, 1, 1]);
    assert_eq!([&json["pins_before"], &json["pins_peak"], &json["pins_after"]], [0, 1, 0]);
    assert!(json["longest_failover_ms"].as_f64() > Some(0.0));
    // What a reader of the time line is promised to see.
    let expected = [
        "path A is lost",
        "fails over",
        "path B is lost",
        "removal in",
        "32 requests wait, 1 pin",
        "path B comes back",
        "removal cancelled",
        "both paths are lost",
        "removed (link lost)",
        "the waiting requests fail",
    ];
    let mut rest = ended.stdout.as_str();
    for text in expected {
        let at = rest.find(text);
        rest = &rest[at.unwrap_or_else(|| panic!("no `{text}` in {}", ended.stdout))..];
    }
    assert!(!ended.stdout.contains('\x1b'), "control sequences, and no terminal");
}

#[test]
fn a_target_of_somebody_elses_is_followed() {
    let target = target(2);
    let (a, b) = (url(&target, 0), url(&target, 1));
    let arguments = ["--connect", &a, "--connect", &b, "--manual", "--window", "2", "--json"];
    let mut program = Running::start(quickstart(), &arguments);
    let port = |n| target.listener(n).unwrap();
    program.until(&["checks every block"]);
    port(0).disable().unwrap();
    program.until(&["path A", "down"]);
    port(0).enable().unwrap();
    program.until(&["path A", "up"]);
    port(0).disable().unwrap();
    port(1).disable().unwrap();
    program.until(&["removal in 2.0 s"]);
    port(1).enable().unwrap();
    program.until(&["removal cancelled"]);
    port(1).disable().unwrap();
    let ended = program.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let json = ended.json();
    let removals =
        ["scheduled", "cancelled", "fired"].map(|what| &json[format!("removals_{what}")]);
    assert_eq!(removals, [2, 1, 1]);
    assert_eq!(json["head_gone"], true);
    assert_eq!([&json["pins_peak"], &json["pins_after"]], [1, 0]);
}

#[test]
fn an_interruption_ends_it_in_order_with_paths_and_without() {
    for lost in [false, true] {
        let target = target(1);
        let url = url(&target, 0);
        let arguments = ["--connect", &url, "--manual", "--window", "600", "--json"];
        let mut program = Running::start(quickstart(), &arguments);
        program.until(&["checks every block"]);
        wait_for_io(&target);
        if lost {
            target.listener(0).unwrap().disable().unwrap();
            program.until(&["removal in"]);
        }
        program.interrupt();
        let ended = program.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let json = ended.json();
        assert_eq!((&json["head_gone"], &json["pins_after"]), (&lost.into(), &0.into()));
    }
}

/// Runs on a target with this fault for a short time.
fn with_fault(rule: FaultRule) -> Ended {
    let target = target(1);
    target.add_fault(rule);
    let url = url(&target, 0);
    run(quickstart(), &["--connect", &url, "--manual", "--seconds", "2", "--json"])
}

#[test]
fn without_faults_the_time_ends_it() {
    let target = target(1);
    let url = url(&target, 0);
    let arguments = ["--connect", &url, "--manual", "--seconds", "1", "--json"];
    let ended = run(quickstart(), &arguments);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.json()["head_gone"], false);
    assert!(ended.stdout.contains("every block is as it must be"));
}

#[test]
fn writes_that_a_target_loses_are_found() {
    let lose = FaultRule::new(FaultAction::Fail(Status::SUCCESS));
    let ended = with_fault(lose.io().opcode(NvmOpcode::WRITE.0).skip(300).times(100));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let json = ended.json();
    let missing = json["lost"].as_u64().unwrap() + json["stale"].as_u64().unwrap();
    assert!(missing > 0 && json["duplicated"] == 0, "{json}");
    assert!(ended.stdout.contains("FAILED: ") && ended.stdout.contains("BAD: block"));
}

#[test]
fn data_that_a_target_damages_is_found() {
    let damage = FaultAction::PatchData { offset: 1000, bytes: vec![0xa5; 16] };
    let ended =
        with_fault(FaultRule::new(damage).io().opcode(NvmOpcode::READ.0).skip(300).times(40));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    // Blocks that were never written hold nothing to be damaged, so that it need not be all 40.
    let json = ended.json();
    let torn = json["torn"].as_u64().unwrap();
    assert!((1..=40).contains(&torn) && json["lost"] == 0 && json["stale"] == 0, "{json}");
}

#[test]
fn requests_that_a_target_refuses_are_told() {
    let fail = FaultAction::Fail(Status::UNRECOVERED_READ_ERROR.with_dnr());
    let ended = with_fault(FaultRule::new(fail).io().opcode(NvmOpcode::READ.0).skip(100).times(1));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.json()["failed"], 1);
    assert!(ended.stdout.contains("1 requests failed though the head was there"), "{ended:?}");
}

#[test]
fn wrong_arguments_are_refused() {
    let url = "tcp://127.0.0.1:1/nqn.2026-01.org.example:x";
    run(quickstart(), &["--connect", url]).must_fail(2, "--manual");
    run(quickstart(), &["--manual"]).must_fail(2, "--connect");
    run(quickstart(), &["--window", "0.2"]).must_fail(2, "1 to 3600");
    run(quickstart(), &["--window", "long"]).must_fail(2, "not a number");
    run(quickstart(), &["--connect", "http://x", "--manual"]).must_fail(1, "no transport");
    run(quickstart(), &["--connect", url, "--manual"]).must_fail(1, "tcp://127.0.0.1:1");
}
