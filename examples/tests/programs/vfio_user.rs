//! `nvmeh` on a controller that another `nvmeh` offers by vfio-user, without root or hardware.

use std::path::PathBuf;

use crate::common::{NQN, Running, nvmeh, run};

/// Places for sockets, taken away in the end.
struct Sockets(Vec<PathBuf>);

impl Sockets {
    fn new(test: &str, count: usize) -> Self {
        let name = |n: usize| format!("nvmeh-{}-{test}-{n}", std::process::id());
        Self((0..count).map(|n| std::env::temp_dir().join(name(n))).collect())
    }

    fn path(&self, n: usize) -> &str {
        self.0[n].to_str().unwrap()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn urls(target: &mut Running) -> Vec<String> {
    let ready: serde_json::Value = serde_json::from_str(&target.until(&["urls"])).unwrap();
    let urls = ready["urls"].as_array().unwrap();
    urls.iter().map(|url| url.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_target_is_offered_listed_and_used() {
    let sockets = Sockets::new("used", 2);
    let (a, b) = (sockets.path(0), sockets.path(1));
    let arguments = ["target", "--vfio-user", a, b, "--ns", "8M", "--nqn", NQN, "--json"];
    let mut target = Running::start(nvmeh(), &arguments);
    let urls = urls(&mut target);
    assert_eq!(urls, [format!("vfio-user://{a}"), format!("vfio-user://{b}")]);

    let listed = run(nvmeh(), &["list", &urls[0], &urls[1], "--json"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let json = listed.json();
    let subsystem = &json["subsystems"][0];
    assert_eq!(subsystem["nqn"], NQN);
    let paths = subsystem["heads"][0]["paths"].as_array().unwrap().len();
    assert_eq!((paths, &subsystem["heads"][0]["bytes"]), (2, &(8 << 20).into()), "{json}");

    // What is known, or said, to be wrong with a device.
    let quirky = format!("{}?quirks=no-sgl,one-interrupt", urls[0]);
    let listed = run(nvmeh(), &["list", &quirky, "--json"]);
    let controller = &listed.json()["subsystems"][0]["controllers"][0];
    assert_eq!(controller["quirks"], serde_json::json!(["one-interrupt", "no-sgl"]), "{listed:?}");
    assert_eq!(controller["device"], "fffe:0001:0000:0000");
    let listed = run(nvmeh(), &["list", &quirky]);
    assert!(listed.stdout.contains("quirks of fffe:0001:0000:0000: one-interrupt,no-sgl"));
    run(nvmeh(), &["list", &format!("{}?quirks=slow", urls[0])]).must_fail(1, "no quirk");

    // By interrupts and by looking, over one path and over both.
    let polled = format!("{}?poll=1", urls[0]);
    let ways: [(&[&str], &[&str]); 3] = [
        (&[&urls[0]], &["--rw", "randrw", "--bs", "4k"]),
        (&[&polled], &["--rw", "read", "--bs", "1M", "--qd", "4"]),
        (&[&urls[0], &urls[1]], &["--rw", "randwrite", "--bs", "16k", "--channels", "2"]),
    ];
    let common = ["--verify", "--write-ok", "--size", "4M", "--time", "1", "--json"];
    for (urls, more) in ways {
        let ended = run(nvmeh(), &[&["io"], urls, &common, more].concat());
        assert_eq!(ended.code, Some(0), "{urls:?} {ended:?}");
        let json = ended.json();
        assert!(json["verify"]["blocks"].as_u64() > Some(0), "nothing was checked: {json}");
    }

    target.interrupt();
    let ended = target.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!sockets.0[0].exists() && !sockets.0[1].exists(), "the sockets are left behind");
}

#[test]
fn one_target_is_used_by_tcp_and_by_vfio_user_at_once() {
    let sockets = Sockets::new("mixed", 1);
    let listen = ["target", "--listen", "127.0.0.1:0", "--vfio-user", sockets.path(0)];
    let arguments = [&listen[..], &["--ns", "8M", "--nqn", NQN, "--json"]].concat();
    let mut target = Running::start(nvmeh(), &arguments);
    let urls = urls(&mut target);
    let common = ["--verify", "--write-ok", "--size", "4M", "--time", "1", "--json"];
    let ended =
        run(nvmeh(), &[&["io", &urls[0], &urls[1], "--rw", "randrw"], &common[..]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // A controller on the bus is no discovery controller, and says so.
    run(nvmeh(), &["discover", &urls[1]]).must_fail(1, "discovery");
    target.interrupt();
    assert_eq!(target.end().code, Some(0));
}

#[test]
fn what_is_in_the_way_is_named() {
    let sockets = Sockets::new("way", 1);
    let path = sockets.path(0);
    let url = format!("vfio-user://{path}");
    run(nvmeh(), &["list", &url, "--timeout", "5"]).must_fail(1, path);
    std::fs::write(path, "").unwrap();
    let arguments = ["target", "--vfio-user", path, "--ns", "8M"];
    run(nvmeh(), &arguments).must_fail(1, &format!("{path}: "));
    run(nvmeh(), &["target", "--ns", "8M"]).must_fail(2, "--listen");
}

#[test]
fn polled_requests_make_no_system_call_and_can_be_verified() {
    let sockets = Sockets::new("perf", 1);
    let socket = sockets.path(0);
    let arguments = ["target", "--vfio-user", socket, "--ns", "8M", "--nqn", NQN, "--json"];
    let mut target = Running::start(nvmeh(), &arguments);
    let url = urls(&mut target).remove(0);
    let polled = format!("{url}?poll=1");
    for (url, more) in [
        (&polled, &["--qd", "32"][..]),
        (&polled, &["--rw", "randrw", "--verify", "--write-ok", "--bs", "16k", "--channels", "2"]),
        (&url, &["--sleep", "--qd", "1", "--rw", "randrw", "--verify", "--write-ok"]),
    ] {
        let common = ["perf", url, "--time", "0.6", "--warmup", "0.1", "--json"];
        let ended = run(nvmeh(), &[&common, more].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let json = ended.json();
        let calls = json["syscalls_per_request"]["all"].as_f64().unwrap();
        assert_eq!(calls > 0.0, more.contains(&"--sleep"), "{json}");
        assert!(json["requests"].as_u64() > Some(0), "{json}");
    }
    target.interrupt();
    assert_eq!(target.end().code, Some(0));
}
