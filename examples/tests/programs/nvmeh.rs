//! `nvmeh` as a user runs it.

use std::net::TcpListener;

use crate::common::{Ended, NQN, Running, nvmeh, run, target, url, wait_for, wait_for_io};
use nvme_core::spec::Status;
use nvme_core::spec::opcode::NvmOpcode;
use nvme_target::{FaultAction, FaultRule};

/// Verified I/O on the target of the tests.
fn io(url: &str, more: &[&str]) -> Ended {
    let common = ["io", url, "--verify", "--write-ok", "--size", "4M", "--time", "1", "--json"];
    run(nvmeh(), &[&common, more].concat())
}

#[test]
fn a_target_is_served_found_listed_and_used() {
    let arguments =
        ["target", "--listen", "127.0.0.1:0", "127.0.0.1:0", "--ns", "8M", "4M", "--block-size"];
    let arguments = [&arguments[..], &["512", "--nqn", NQN, "--json"]].concat();
    let mut target = Running::start(nvmeh(), &arguments);
    let ready: serde_json::Value = serde_json::from_str(&target.until(&["urls"])).unwrap();
    let urls: Vec<&str> =
        ready["urls"].as_array().unwrap().iter().map(|u| u.as_str().unwrap()).collect();
    let discovery = urls[0].strip_suffix(NQN).unwrap();

    let found = run(nvmeh(), &["discover", discovery, "--json"]);
    assert_eq!(found.code, Some(0), "{found:?}");
    let json = found.json();
    let mut found: Vec<_> = json["entries"].as_array().unwrap().iter().collect();
    found.retain(|e| e["subnqn"] == NQN);
    let mut told: Vec<&str> = found.iter().map(|e| e["url"].as_str().unwrap()).collect();
    told.sort_unstable();
    let mut all = urls.clone();
    all.sort_unstable();
    assert_eq!(told, all, "each port once");
    let shown = run(nvmeh(), &["discover", discovery]);
    assert!(shown.code == Some(0) && shown.stdout.contains(NQN), "{shown:?}");

    let listed = run(nvmeh(), &["list", urls[0], urls[1], "--json"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let json = listed.json();
    let subsystem = &json["subsystems"][0];
    assert_eq!(subsystem["nqn"], NQN);
    assert_eq!(subsystem["controllers"].as_array().unwrap().len(), 2);
    let head = &subsystem["heads"][0];
    assert_eq!([&head["nsid"], &head["block_size"], &head["bytes"]], [1, 512, 8 << 20]);
    assert_eq!([&head["state"], &head["paths"][0]["ana"]], ["live", "optimized"]);
    assert!(head["uuid"].is_string() && head["paths"].as_array().unwrap().len() == 2);
    assert_eq!(subsystem["heads"][1]["bytes"], 4 << 20);
    let shown = run(nvmeh(), &["list", urls[0]]);
    assert!(shown.stdout.contains("namespace 1: 8 MiB, 16384 blocks of 512 B"), "{shown:?}");

    for more in [
        &["--rw", "randrw", "--bs", "512"][..],
        &["--rw", "read", "--bs", "1M", "--qd", "2", "--nsid", "2"],
        &["--rw", "randwrite", "--bs", "8k", "--channels", "2", "--offset", "512"],
    ] {
        let ended = io(urls[0], more);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let json = ended.json();
        assert_eq!(json["good"], true);
        assert!(json["verify"]["blocks"].as_u64() > Some(0), "nothing was checked: {json}");
    }

    target.interrupt();
    let ended = target.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_path_is_lost_and_nothing_else() {
    let target = target(2);
    let urls = [url(&target, 0), url(&target, 1)];
    let arguments = ["io", &urls[0], &urls[1], "--rw", "randrw", "--verify", "--write-ok"];
    let arguments = [&arguments[..], &["--size", "4M", "--time", "3", "--json"]].concat();
    // So that some requests are on the path when it is lost.
    let stuck = FaultRule::new(FaultAction::Drop).listener(0).io().opcode(NvmOpcode::READ.0);
    let stuck = target.add_fault(stuck.skip(100).times(4));
    let program = Running::start(nvmeh(), &arguments);
    wait_for(&target, |t| t.fault_hits(stuck) == Some(4));
    target.listener(0).unwrap().disable().unwrap();
    let ended = program.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.json()["failovers"].as_u64() >= Some(4), "{ended:?}");
    assert!(ended.stderr.contains("down"), "{ended:?}");
}

#[test]
fn an_interrupted_run_ends_in_order() {
    let target = target(1);
    let url = url(&target, 0);
    let program = Running::start(nvmeh(), &["io", &url, "--time", "600", "--json"]);
    wait_for_io(&target);
    program.interrupt();
    let ended = program.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let json = ended.json();
    assert!(json["reads"].as_u64() > Some(0) && json["lost_requests"] == 0, "{json}");
}

#[test]
fn a_run_that_waits_for_a_path_can_be_interrupted() {
    let target = target(1);
    let url = url(&target, 0);
    let arguments = ["io", &url, "--time", "600", "--window", "600", "--json"];
    let mut program = Running::start(nvmeh(), &arguments);
    wait_for_io(&target);
    target.listener(0).unwrap().disable().unwrap();
    program.interrupt();
    program.until(&["\"failed\":"]);
    let ended = program.end();
    assert!(ended.code.is_some(), "{ended:?}");
    assert_eq!(ended.json()["lost_requests"], 0);
}

#[test]
fn what_a_target_does_wrong_is_found() {
    let lose = FaultRule::new(FaultAction::Fail(Status::SUCCESS)).opcode(NvmOpcode::WRITE.0);
    let damage = FaultAction::PatchData { offset: 100, bytes: vec![0xa5; 8] };
    let damage = FaultRule::new(damage).opcode(NvmOpcode::READ.0);
    let fail = FaultAction::Fail(Status::UNRECOVERED_READ_ERROR.with_dnr());
    let fail = FaultRule::new(fail).opcode(NvmOpcode::READ.0);
    for (rule, what) in [(lose.times(100), "lost"), (damage.times(5), "torn"), (fail, "failed")] {
        let target = target(1);
        target.add_fault(rule.io().skip(1100));
        // Everything is written first, by 1,024 requests, then read.
        let rw = if what == "lost" { "randrw" } else { "randread" };
        let ended = io(&url(&target, 0), &["--rw", rw]);
        assert_eq!(ended.code, Some(1), "{what}: {ended:?}");
        let json = ended.json();
        let count = |field: &str| json["verify"][field].as_u64().unwrap();
        match what {
            "lost" => assert!(count("lost") + count("stale") > 0, "{json}"),
            "torn" => assert_eq!((count("torn"), count("stale")), (5, 0), "{json}"),
            _ => assert!(ended.stderr.contains("Unrecovered Read Error"), "{ended:?}"),
        }
    }
}

#[test]
fn a_head_without_paths_ends_the_run() {
    let target = target(1);
    let url = url(&target, 0);
    let program = Running::start(nvmeh(), &["io", &url, "--time", "600"]);
    wait_for_io(&target);
    target.remove_namespace(1).unwrap();
    let ended = program.end();
    ended.must_fail(1, NQN);
}

#[test]
fn data_is_not_destroyed_by_mistake() {
    let target = target(1);
    let url = url(&target, 0);
    for rw in ["write", "randwrite", "randrw"] {
        run(nvmeh(), &["io", &url, "--rw", rw]).must_fail(2, "--write-ok");
    }
    run(nvmeh(), &["io", &url, "--verify"]).must_fail(2, "--write-ok");
    assert_eq!(target.stats().accepted, 0, "it did not even connect");
}

#[test]
fn what_does_not_fit_the_namespace_is_refused() {
    let target = target(1);
    let url = url(&target, 0);
    for (arguments, text) in [
        (["--bs", "1000"], "no multiple of the block size, 4096 bytes"),
        (["--bs", "0"], "must not be 0"),
        (["--bs", "4M"], "1 MiB at most"),
        (["--bs", "4x"], "no unit"),
        (["--size", "128M"], "past the end, 64 MiB"),
        (["--size", "4095"], "no multiple of the block size"),
        (["--offset", "64M"], "past the end of the namespace, 64 MiB"),
        (["--channels", "17000"], "1..=256"),
        (["--qd", "0"], "1..=8192"),
        (["--rw", "sideways"], "randread"),
        (["--time", "soon"], "not a number"),
    ] {
        let ended = run(nvmeh(), &["io", &url, arguments[0], arguments[1]]);
        ended.must_fail(2, text);
    }
    run(nvmeh(), &["io", &url, "--nsid", "7"]).must_fail(1, "no namespace 7 (there are: 1)");
    run(nvmeh(), &["io", &url, "--size", "8k", "--channels", "3"]).must_fail(2, "too few");
}

#[test]
fn controllers_that_are_not_there_are_told_apart() {
    let target = target(1);
    let there = url(&target, 0);
    let wrong = there.replace("programs", "another");
    // Accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("tcp://{}/{NQN}", silent.local_addr().unwrap());
    // Bound, and not listening once it is dropped.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = format!("tcp://{closed}/{NQN}");
    for (url, text) in [
        (wrong.as_str(), "Connect"),
        (&silent, silent.strip_suffix(&format!("/{NQN}")).unwrap()),
        (&closed, "Connection refused"),
        ("tcp://127.0.0.1/sub", "subsystem `sub`"),
        ("rdma://127.0.0.1/", "no transport"),
        ("127.0.0.1:4420", "no transport"),
    ] {
        run(nvmeh(), &["io", url, "--timeout", "2"]).must_fail(1, text);
        run(nvmeh(), &["list", url, "--timeout", "2"]).must_fail(1, text);
        run(nvmeh(), &["discover", url, "--timeout", "2"]).must_fail(1, "");
    }
    // The others are shown all the same.
    let ended = run(nvmeh(), &["list", "--json", "--timeout", "2", &closed, &there]);
    ended.must_fail(1, "Connection refused");
    let json = ended.json();
    assert_eq!(json["subsystems"][0]["nqn"], NQN);
    assert_eq!(json["errors"][0]["url"], closed);
}

#[test]
fn a_target_that_cannot_be_is_refused() {
    let some =
        |more: &[&str]| run(nvmeh(), &[&["target", "--listen", "127.0.0.1:0"][..], more].concat());
    some(&["--ns", "0"]).must_fail(2, "size zero");
    some(&["--ns", "1Q"]).must_fail(2, "no unit");
    some(&["--ns", "/no/such/file"]).must_fail(1, "No such file");
    some(&["--ns", "1M", "--nqn", "sub"]).must_fail(2, "sub");
    some(&["--ns", "1M", "--block-size", "1000"]).must_fail(1, "1000");
    run(nvmeh(), &["target", "--listen", "here", "--ns", "1M"]).must_fail(1, "here");
    run(nvmeh(), &["target", "--ns", "1M"]).must_fail(2, "--listen");
    run(nvmeh(), &[]).must_fail(2, "Usage");
}

#[test]
fn watch_says_that_it_needs_a_terminal_and_leave_to_write() {
    let url = "tcp://127.0.0.1:1/nqn.2026-01.org.example:none";
    run(nvmeh(), &["watch", url]).must_fail(2, "not a terminal");
    run(nvmeh(), &["watch", "--load", url]).must_fail(2, "--write-ok");
}

#[test]
fn a_recorded_run_is_drawn() {
    let target = target(2);
    let (a, b) = (url(&target, 0), url(&target, 1));
    let ended = run(nvmeh(), &["io", &a, &b, "--time", "0.5", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let directory = std::env::temp_dir().join(format!("nvmeh-timeline-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (json, svg) = (directory.join("run.json"), directory.join("run.svg"));
    std::fs::write(&json, &ended.stdout).unwrap();
    let [json_name, svg_name] = [&json, &svg].map(|p| p.to_str().unwrap());
    let drawn = run(nvmeh(), &["timeline", json_name, "--svg", svg_name]);
    assert_eq!(drawn.code, Some(0), "{drawn:?}");
    let text = std::fs::read_to_string(&svg).unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    let lanes = document.descendants().filter(|n| n.attribute("class") == Some("lane"));
    assert_eq!(lanes.count(), 3, "{text}");
    std::fs::write(&json, "{\"no\": 1}").unwrap();
    run(nvmeh(), &["timeline", json_name, "--svg", svg_name]).must_fail(1, "timeline");
    std::fs::remove_dir_all(&directory).unwrap();
}
