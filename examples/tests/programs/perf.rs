//! `nvmeh perf` as a user runs it.

use serde_json::Value;

use crate::common::{Ended, Running, nvmeh, run, target, url};

/// A short measurement of the target of the tests.
fn perf(url: &str, more: &[&str]) -> Ended {
    let common = ["perf", url, "--time", "0.6", "--warmup", "0.1", "--json"];
    run(nvmeh(), &[&common, more].concat())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn a_measurement_tells_rates_latencies_and_costs() {
    let target = target(1);
    let url = url(&target, 0);
    for more in [
        &["--rw", "randread", "--qd", "8"][..],
        &["--rw", "write", "--bs", "8k", "--write-ok", "--channels", "2", "--sleep"],
        &["--hdgst", "--ddgst", "--cpu", "0", "--qd", "128"],
    ] {
        let ended = perf(&url, more);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let json = ended.json();
        let (requests, seconds) = (number(&json["requests"]), number(&json["seconds"]));
        assert!(json["good"] == true && requests > 0.0 && seconds >= 0.6, "{json}");
        let rate = requests / seconds;
        assert!((number(&json["iops"]) / rate - 1.0).abs() < 1e-6, "{json}");
        let bytes = number(&json["bs"]) * rate;
        assert!((number(&json["bytes_per_second"]) / bytes - 1.0).abs() < 1e-6, "{json}");
        let latencies: Vec<f64> = ["p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"]
            .map(|name| number(&json["latency_us"][name]))
            .to_vec();
        assert!(latencies.is_sorted() && latencies[0] > 0.0, "{json}");
        assert!(number(&json["cpu_ns_per_request"]) > 0.0, "{json}");
        assert!(number(&json["moments"][0]["iops"]) > 0.0, "{json}");
        let at_work = number(&json["at_work"]);
        assert!(0.0 < at_work && at_work <= 1.0, "{json}");
        assert!(names(&json["threads"]).any(|name| name == "workload"), "{json}");
        assert!(json["limit"].is_string() && json["target_threads"].is_null(), "{json}");
        let calls = &json["syscalls_per_request"];
        let [receive, send, sleep] = ["receive", "send", "sleep"].map(|what| number(&calls[what]));
        assert!(receive > 0.0 && send > 0.0, "{json}");
        assert_eq!(sleep > 0.0, json["polled"] == false, "{json}");
        assert!((number(&calls["all"]) - receive - send - sleep).abs() < 1e-9, "{json}");
    }
}

fn names(threads: &Value) -> impl Iterator<Item = &str> {
    threads.as_array().unwrap().iter().filter_map(|thread| thread["name"].as_str())
}

#[test]
fn the_targets_threads_are_told_of() {
    // The target is in this process.
    let (target, pid) = (target(1), std::process::id().to_string());
    let ended = perf(&url(&target, 0), &["--target-pid", &pid]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let json = ended.json();
    let threads = json["target_threads"].as_array().unwrap();
    let most = threads.iter().map(|thread| number(&thread["cpu_seconds"])).fold(0.0, f64::max);
    assert!(most > 0.0, "{json}");
    // For people, too.
    let url = url(&target, 0);
    let ended = run(
        nvmeh(),
        &["perf", &url, "--time", "0.6", "--warmup", "0.1", "--target-pid", &pid, "--vs", "floor"],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for word in ["calls ", "threads ", "target ", "limit ", "floor ", "floor-host", "workload"] {
        assert!(ended.stdout.contains(word), "no `{word}` in {ended:?}");
    }
}

/// How often the threads of a process have slept because they wanted to.
fn sleeps(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")));
    statuses
        .map(|status| {
            let status = status.unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn a_target_that_polls_does_not_sleep_between_commands() {
    let common = ["target", "--listen", "127.0.0.1:0", "--ns", "8M", "--json", "--busy-poll"];
    let mut target = Running::start(nvmeh(), &[&common[..], &["2000000"]].concat());
    let told: Value = serde_json::from_str(&target.until(&["urls"])).unwrap();
    let before = sleeps(target.pid());
    let ended = perf(told["urls"][0].as_str().unwrap(), &["--qd", "1"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (requests, slept) = (number(&ended.json()["requests"]), sleeps(target.pid()) - before);
    assert!((slept as f64) * 20.0 < requests, "{slept} times for {requests} reads");
    target.interrupt();
    assert_eq!(target.end().code, Some(0));
}

#[test]
fn digests_are_asked_for() {
    let target = target(1);
    let ended = perf(&(url(&target, 0) + "?hdgst=1"), &["--ddgst"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // Asked for twice is refused by who parses the URL: the parameters do get there.
    let ended = perf(&(url(&target, 0) + "?ddgst=0"), &["--ddgst"]);
    ended.must_fail(1, "parameter `ddgst` is given twice");
}

#[test]
fn what_is_measured_can_be_verified() {
    let target = target(1);
    let ended = perf(
        &url(&target, 0),
        &["--rw", "randrw", "--verify", "--write-ok", "--size", "2M", "--channels", "2"],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(number(&ended.json()["verify"]["blocks"]) > 0.0, "{ended:?}");
}

#[test]
fn bare_sockets_are_measured_beside_it_and_a_picture_is_drawn() {
    let target = target(1);
    let svg = std::env::temp_dir().join(format!("nvmeh-perf-{}.svg", std::process::id()));
    let file = svg.to_str().unwrap();
    let ended = perf(&url(&target, 0), &["--vs", "floor", "--svg", file]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let json = ended.json();
    let (ours, floor) = (number(&json["iops"]), number(&json["versus"]["iops"]));
    assert!((number(&json["versus"]["ratio"]) - ours / floor).abs() < 1e-9, "{json}");
    let mut threads: Vec<&str> = names(&json["versus"]["threads"]).collect();
    threads.sort_unstable();
    assert_eq!(threads, ["floor", "floor-host"], "{json}");
    let drawn = std::fs::read_to_string(&svg).unwrap();
    std::fs::remove_file(&svg).unwrap();
    let document = roxmltree::Document::parse(&drawn).unwrap();
    let charts: Vec<_> = document.descendants().filter_map(|n| n.attribute("data-chart")).collect();
    assert_eq!(charts, ["IOPS over time", "latency"]);
    assert!(document.descendants().any(|n| n.attribute("class") == Some("bar")));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let target = target(1);
    let url = url(&target, 0);
    for (more, code, text) in [
        (&["--rw", "randwrite"][..], 2, "say --write-ok"),
        (&["--verify"], 2, "say --write-ok"),
        (&["--cpu", "0,1"], 2, "--cpu names 2 processors for 1 channels"),
        (&["--cpu", "100000"], 1, "staying on processor 100000"),
        (&["--rw", "randrw", "--write-ok", "--vs", "floor"], 2, "does not mix"),
        (&["--vs", "ceiling"], 2, "ceiling"),
        (&["--target-pid", "4000000000"], 1, "--target-pid 4000000000"),
        (&["--bs", "100"], 2, "no multiple of the block size"),
        (&["--bs", "1G"], 2, "one request can move"),
        (&["--qd", "0"], 2, "--qd"),
        (&["--svg", "/nonexistent/x.svg"], 1, "/nonexistent/x.svg"),
    ] {
        perf(&url, more).must_fail(code, text);
    }
    let other = ["perf", "vfio-user:///nonexistent", "--hdgst"];
    run(nvmeh(), &other).must_fail(2, "for tcp:// only");
    run(nvmeh(), &["perf", &url, "--time", "0"]).must_fail(2, "--time must not be 0");
}
