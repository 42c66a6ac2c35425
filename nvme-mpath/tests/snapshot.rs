//! How everything is: the snapshot, its two texts, and the observer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use nvme_core::controller::State;
use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io, SUBSYSTEM, quiet};
use nvme_mpath::{
    ChannelOptions, ControllerOptions, DelayedRemoval, Event, HeadState, Host, LossCause, Observer,
    PathPolicy, Snapshot, TimedEvent, TracingObserver, Window,
};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

/// A lost controller's path leaves at once.
fn hasty() -> ControllerOptions {
    let mut options = quiet();
    options.ctrl_loss_tmo = Some(Duration::ZERO);
    options
}

/// Two paths, of which one has a command in flight, another one has failed before, and one pin of the
/// program.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.host.set_delayed_removal(DelayedRemoval::after(Window::For(SECOND * 10)));
    let mut options = ChannelOptions::default();
    options.latency_histograms = true;
    bench.channel = bench.host.channel(options).unwrap();
    bench.world.port("a", |a| a.ana = Some([(1, 1)].into()));
    bench.world.port("b", |b| b.ana = Some([(1, 2)].into()));
    for port in ["a", "b"] {
        bench.connect_with(port, hasty());
    }
    bench
}

#[test]
fn a_snapshot_tells_what_is() {
    let mut bench = bench();
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Fail(Status::INTERNAL_ERROR.with_dnr()));
    bench.write(&head, 1, 1);
    bench.settle();
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.write(&head, 2, 2);
    bench.settle();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 3, 3);
    bench.settle();
    bench.run(SECOND);

    let seen = bench.host.snapshot();
    let sub = &seen.subsystems[..];
    assert_eq!(sub.len(), 1, "{sub:?}");
    assert_eq!((&*sub[0].nqn, &sub[0].controllers[..]), (SUBSYSTEM, &[0, 1][..]));
    let a = seen.controller(0).unwrap();
    assert_eq!((a.state, a.io_queues, &*a.address), (State::Live, Some(16), "fake://a"));
    assert!(a.age >= SECOND && a.state_for >= SECOND && a.cntlid.is_some(), "{a:?}");
    assert_eq!((a.in_flight, a.commands, a.latency.writes.count()), (1, 2, 1));
    assert_eq!((a.reconnects, &a.last_error), (0, &None));
    let [h] = &seen.heads[..] else { panic!("{seen:?}") };
    assert_eq!((&*h.name, h.nsid, &h.state), (head.name(), 1, &HeadState::Live));
    assert_eq!(h.policy, PathPolicy::RoundRobin);
    let paths: Vec<_> = h.paths.iter().map(|p| (p.controller, p.ana.name(), p.usable)).collect();
    assert_eq!(paths, [(0, "optimized", true), (1, "non-optimized", true)]);
    let errors: Vec<_> = h.errors.iter().map(|e| (e.sct, e.sc, e.name, e.count)).collect();
    assert_eq!(errors, [(0, 0x06, Status::INTERNAL_ERROR.name(), 1)]);
    assert!(seen.pins.is_empty());
}

#[test]
fn a_snapshot_follows_the_loss_of_all_paths() {
    let mut bench = bench();
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 1);
    bench.settle();
    for port in ["a", "b"] {
        bench.world.pull(port);
    }
    bench.settle();
    bench.write(&head, 2, 2);
    bench.settle();
    bench.run(SECOND * 3);
    let seen = bench.host.snapshot();
    let h = &seen.heads[0];
    let HeadState::RemovalPending { cause: LossCause::LinkLost, remaining: Some(left), .. } =
        h.state
    else {
        panic!("{:?}", h.state)
    };
    assert!(left <= SECOND * 7 && left > SECOND * 5, "{left:?}");
    assert_eq!((h.paths.len(), h.stats.parked_now, h.stats.lost), (0, 2, 1));
    assert_eq!((h.stats.failovers, h.errors.len()), (1, 0));
    let [pin] = &seen.pins[..] else { panic!("{:?}", seen.pins) };
    assert_eq!(pin.holder, format!("removal pending of {}", head.name()));
    assert!(pin.held_for >= SECOND * 3);
    assert!(seen.controllers.iter().all(|c| c.in_flight == 0), "{:?}", seen.controllers);

    // What waits in a channel that is closed waits no more.
    bench.channel = bench.host.channel(ChannelOptions::default()).unwrap();
    bench.settle();
    assert_eq!(bench.host.snapshot().heads[0].stats.parked_now, 0);
}

#[test]
fn what_was_parked_and_went_on_is_parked_no_more() {
    let mut bench = bench();
    let head = bench.head(1).unwrap();
    for port in ["a", "b"] {
        bench.world.pull(port);
    }
    bench.settle();
    for i in 0..3 {
        bench.write(&head, i, i);
    }
    bench.settle();
    bench.channel.cancel(0);
    bench.settle();
    assert_eq!(bench.host.snapshot().heads[0].stats.parked_now, 2);
    assert_eq!(bench.host.snapshot().controllers.iter().map(|c| c.commands).sum::<u64>(), 0);
    bench.world.plug("a");
    bench.connect_with("a", hasty());
    let seen = bench.host.snapshot();
    assert_eq!((seen.heads[0].stats.parked_now, seen.heads[0].stats.parked), (0, 3));
    assert_eq!(bench.done.len(), 3);
    assert_eq!(seen.controllers.iter().map(|c| c.commands).sum::<u64>(), 2);
}

#[test]
fn commands_are_counted_through_associations() {
    let mut bench = Bench::new();
    let a = bench.connect_with("a", quiet());
    let head = bench.head(1).unwrap();
    for i in 0..4 {
        if i == 2 {
            a.reset("for the test");
            bench.run(SECOND * 2);
            assert_eq!(a.state(), State::Live);
        }
        bench.write(&head, i, i);
        bench.settle();
    }
    let seen = bench.host.snapshot();
    assert_eq!((bench.done.len(), seen.controllers[0].commands), (4, 4));
}

#[test]
fn a_snapshot_is_json() {
    let mut bench = bench();
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Fail(Status::INTERNAL_ERROR.with_dnr()));
    bench.write(&head, 1, 1);
    bench.settle();
    let seen = serde_json::to_value(bench.host.snapshot()).unwrap();
    assert_eq!(seen["controllers"][0]["state"], "live");
    assert_eq!(seen["controllers"][0]["latency"]["reads"]["count"], 0);
    let h = &seen["heads"][0];
    assert_eq!((&h["state"], &h["policy"]), (&json!({"name": "live"}), &json!("round-robin")));
    assert_eq!(h["paths"][1]["ana"], "non-optimized");
    let name = Status::INTERNAL_ERROR.name();
    assert_eq!(h["errors"], json!([{"sct": 0, "sc": 6, "name": name, "count": 1}]));
    assert_eq!(h["stats"]["failovers"], 0);
    for port in ["a", "b"] {
        bench.world.pull(port);
    }
    bench.settle();
    let seen = serde_json::to_value(bench.host.snapshot()).unwrap();
    let state = &seen["heads"][0]["state"];
    assert_eq!((&state["name"], &state["cause"]), (&json!("removal-pending"), &json!("link lost")));
    assert!(state["remaining"].as_f64().unwrap() > 5.0, "{state}");
    assert!(seen["pins"][0]["held_for"].is_number(), "{seen}");
}

/// One family: its type, and its samples with their labels.
type Family = (String, Vec<(String, BTreeMap<String, String>, f64)>);

/// Reads the exposition format, and panics at whatever is no such text.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'));
    let (mut families, mut current) = (BTreeMap::<String, Family>::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap().to_owned();
            let kind = lines.next().unwrap().strip_prefix("# TYPE ").unwrap();
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(name == current && ["gauge", "counter", "histogram"].contains(&kind), "{kind}");
            let old = families.insert(current.clone(), (kind.into(), Vec::new()));
            assert!(old.is_none(), "{current} twice");
            continue;
        }
        let end = line.find(['{', ' ']).unwrap();
        let (name, mut rest) = line.split_at(end);
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while !rest.starts_with('}') {
                let (label, value) = rest.split_once("=\"").unwrap();
                let (value, after) = unescape(value);
                assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            rest = &rest[1..];
        }
        let value = rest.strip_prefix(' ').unwrap().parse().unwrap();
        let family = families.get_mut(&current).unwrap();
        let suffix = name.strip_prefix(&*current).unwrap_or_else(|| panic!("{line}"));
        let fits = match &*family.0 {
            "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
            "counter" => suffix.is_empty() && name.ends_with("_total"),
            _ => suffix.is_empty(),
        };
        assert!(fits, "{line}");
        family.1.push((name.to_owned(), labels, value));
    }
    for (name, (_, samples)) in &families {
        let series: BTreeSet<_> = samples.iter().map(|(n, l, _)| (n, l)).collect();
        assert_eq!(series.len(), samples.len(), "a series twice in {name}");
    }
    families
}

fn unescape(text: &str) -> (String, &str) {
    let (mut out, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (out, &text[at + 1..]),
            '\\' => out.push(match chars.next().unwrap().1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                other => panic!("\\{other}"),
            }),
            c => out.push(c),
        }
    }
    panic!("no end: {text}")
}

fn value(seen: &Snapshot, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let families = parse(&seen.to_prometheus());
    let family = name.trim_end_matches("_bucket").trim_end_matches("_count");
    let samples = &families.get(family).unwrap_or_else(|| panic!("no {family}")).1;
    let is = |l: &BTreeMap<String, String>| {
        labels.iter().all(|(k, v)| l.get(*k).is_some_and(|have| have == v))
    };
    let mut found = samples.iter().filter(|(n, l, _)| n == name && is(l));
    let value = found.next().map(|(_, _, value)| *value);
    assert!(found.next().is_none(), "{name} {labels:?} is not one series");
    value
}

#[test]
fn a_snapshot_is_text_for_prometheus() {
    let mut bench = bench();
    let head = bench.head(1).unwrap();
    let odd = "a \"quoted\" C:\\path\nand two lines";
    let pin = bench.host.pin(odd).unwrap();
    for i in 0..5 {
        bench.write(&head, i, i);
        bench.settle();
    }
    bench.world.port("a", |a| a.io = Io::Fail(Status::INTERNAL_ERROR.with_dnr()));
    bench.write(&head, 1, 1);
    bench.settle();
    let seen = bench.host.snapshot();
    let a = ("controller", "0");
    let is = |name: &str, labels: &[(&str, &str)]| value(&seen, name, labels);
    assert_eq!(is("nvme_host_controller_state", &[a, ("state", "live")]), Some(1.0));
    assert_eq!(is("nvme_host_controller_state", &[a, ("state", "dead")]), Some(0.0));
    assert_eq!(is("nvme_host_controller_commands_total", &[a]), Some(6.0));
    assert_eq!(
        is("nvme_host_path_ana_state", &[("controller", "1"), ("state", "non-optimized")]),
        Some(1.0)
    );
    assert_eq!(is("nvme_host_head_errors_total", &[("sct", "0"), ("sc", "0x06")]), Some(1.0));
    assert_eq!(is("nvme_host_pins", &[]), Some(1.0));
    assert!(is("nvme_host_pin_age_seconds", &[("holder", odd)]).is_some());
    assert_eq!(is("nvme_host_head_removal_seconds", &[]), None);
    let writes = [a, ("direction", "write")];
    assert_eq!(is("nvme_host_latency_seconds_count", &writes), Some(5.0));
    let last = [a, ("direction", "write"), ("le", "+Inf")];
    assert_eq!(is("nvme_host_latency_seconds_bucket", &last), Some(5.0));

    // Buckets are cumulative and in order.
    let families = parse(&seen.to_prometheus());
    let (mut ends, mut below) = (Vec::new(), 0.0);
    for (name, labels, count) in &families["nvme_host_latency_seconds"].1 {
        let is = labels["controller"] == "0" && labels["direction"] == "write";
        if is && name.ends_with("_bucket") {
            let end: f64 = labels["le"].parse().unwrap();
            assert!(*count >= below && ends.last().is_none_or(|last| *last < end), "{labels:?}");
            ends.push(end);
            below = *count;
        }
    }
    assert_eq!((ends.len(), ends[10]), (28, 1_048_576e-9));
    drop(pin);
    for port in ["a", "b"] {
        bench.world.pull(port);
    }
    bench.settle();
    let seen = bench.host.snapshot();
    assert!(value(&seen, "nvme_host_head_removal_seconds", &[]) > Some(5.0));
    let pending = [("state", "removal-pending")];
    assert_eq!(value(&seen, "nvme_host_head_state", &pending), Some(1.0));
}

/// Uses the host from within, which must not stand still over it.
#[derive(Default)]
struct Curious {
    /// Weak: the host owns its observer, and would keep itself alive.
    host: OnceLock<Weak<Host>>,
    seen: Mutex<Vec<(String, usize)>>,
}

impl Observer for Curious {
    fn event(&self, event: &TimedEvent) {
        let Some(host) = self.host.get().and_then(Weak::upgrade) else { return };
        let _ = host.deadline();
        host.drive(Duration::ZERO);
        let heads = host.snapshot().heads.len();
        let name = match &event.event {
            Event::ControllerState { to, .. } => to.name().to_owned(),
            Event::HeadAdded(head) => format!("head {}", head.paths().len()),
            Event::PathUp { .. } => "up".into(),
            _ => return,
        };
        self.seen.lock().unwrap().push((name, heads));
    }
}

#[test]
fn an_observer_is_told_in_order_and_may_use_the_host() {
    let observer = Arc::new(Curious::default());
    let clock = nvme_fake::TestClock::new();
    let world = nvme_fake::World::at(&clock);
    let mut options = nvme_fake::host_options(&world, &clock);
    options.observer = Some(observer.clone());
    let host = Arc::new(Host::new(options).unwrap());
    assert!(observer.host.set(Arc::downgrade(&host)).is_ok());
    host.connect(&format!("fake://a/{SUBSYSTEM}"), quiet()).unwrap();
    for _ in 0..30 {
        host.drive(Duration::ZERO);
    }
    let seen = observer.seen.lock().unwrap();
    let names: Vec<&str> = seen.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["connecting", "live", "head 1", "up"]);
    assert_eq!(seen.last().unwrap().1, 1);
}

/// Keeps the messages and fields of events.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

/// One event in the making.
struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "nvme_mpath"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn events_are_traced() {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        let mut bench = Bench::with(|o| o.observer = Some(Arc::new(TracingObserver::new())));
        bench.host.set_delayed_removal(DelayedRemoval::after(Window::For(SECOND)));
        bench.connect_with("a", hasty());
        bench.world.pull("a");
        bench.run(SECOND * 3);
    });
    let log = log.0.lock().unwrap();
    let has = |words: &[&str]| log.iter().any(|line| words.iter().all(|w| line.contains(w)));
    for words in [
        &["INFO", "controller state", "controller=0", "address=fake://a", "from=new"][..],
        &["INFO", "path up", SUBSYSTEM],
        &["WARN", "removal scheduled", "after=1.0", "cause=link lost"],
        &["ERROR", "head removed", "delayed=true"],
    ] {
        assert!(has(words), "{words:?} in {log:#?}");
    }
}
