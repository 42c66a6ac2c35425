//! A snapshot as text that Prometheus reads (exposition format 0.0.4).

use std::fmt::Write;

use nvme_core::ana::AnaState;
use nvme_core::controller::State;
use nvme_core::time::Duration;

use super::{ControllerSnapshot, HeadSnapshot, PathSnapshot, Snapshot};
use crate::head::{HeadState, HeadStats};
use crate::latency::LatencyHistogram;

/// A label's name and value.
type Label<'a> = (&'a str, &'a str);

/// Lines of text, one family of metrics after the other.
struct Page(String);

impl Page {
    /// Begins a family: all of its samples follow, and none of them comes later.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = escaped(help, false);
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl std::fmt::Display) {
        let labels: Vec<String> =
            labels.iter().map(|(name, v)| format!("{name}=\"{}\"", escaped(v, true))).collect();
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(text);
        self.0.push('\n');
    }

    /// One of several states: 1 for the one that is the case, 0 for the others.
    fn states<'a>(
        &mut self,
        name: &str,
        labels: &[Label<'_>],
        all: impl Iterator<Item = &'a str>,
        is: &str,
    ) {
        for state in all {
            let labels = [labels, &[("state", state)]].concat();
            self.sample(name, &labels, u8::from(state == is));
        }
    }

    fn histogram(&mut self, name: &str, labels: &[Label<'_>], histogram: &LatencyHistogram) {
        let (count, bucket) = (histogram.count(), format!("{name}_bucket"));
        for (end, below) in histogram.by_octave() {
            let le = end.as_secs_f64().to_string();
            self.sample(&bucket, &[labels, &[("le", &le)]].concat(), below);
        }
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), count);
        self.sample(&format!("{name}_sum"), labels, histogram.sum().as_secs_f64());
        self.sample(&format!("{name}_count"), labels, count);
    }
}

/// Backslash and line feed, and in the values of labels the quotation mark, are escaped.
fn escaped(text: &str, quote: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quote => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

const ANA: [AnaState; 5] = [
    AnaState::Optimized,
    AnaState::NonOptimized,
    AnaState::Inaccessible,
    AnaState::PersistentLoss,
    AnaState::Change,
];

impl Snapshot {
    /// The snapshot as text for Prometheus, to be answered with the content type
    /// `text/plain; version=0.0.4`.
    ///
    /// Families begin with `nvme_host_`. Controllers are told apart by `controller` (their number) and
    /// `address`, heads by `head` (`SUBNQN/NSID`). States are families with a sample of 0 or 1 for each
    /// state. Latencies are `nvme_host_latency_seconds`, with a bucket for each power of two, and a sum
    /// that is made of the buckets' middles.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut page = Page(String::with_capacity(16 << 10));
        self.controllers_page(&mut page);
        self.paths_page(&mut page);
        self.heads_page(&mut page);
        let name = "nvme_host_unstopped_seconds";
        page.family(name, "gauge", "Time since a device that does not stop was given up.");
        for u in &self.unstopped {
            let labels = [("controller", &*u.controller.to_string()), ("address", &*u.address)];
            page.sample(name, &labels, secs(u.unstopped_for));
        }
        page.family("nvme_host_pins", "gauge", "Pins that are out.");
        page.sample("nvme_host_pins", &[], self.pins.len());
        page.family("nvme_host_pins_peak", "gauge", "The most pins that were out at once.");
        page.sample("nvme_host_pins_peak", &[], self.pins_peak);
        page.family("nvme_host_pin_age_seconds", "gauge", "How long a pin has been held.");
        for (number, pin) in self.pins.iter().enumerate() {
            // Two may be held for the same reason.
            let labels = [("pin", &*number.to_string()), ("holder", &*pin.holder)];
            page.sample("nvme_host_pin_age_seconds", &labels, pin.held_for.as_secs_f64());
        }
        page.0
    }

    fn controllers_page(&self, page: &mut Page) {
        type Value = fn(&ControllerSnapshot) -> f64;
        let families: [(&str, &str, &str, Value); 8] = [
            ("host_memory_bytes", "gauge", "Host memory buffer in use.", |c| c.host_memory as f64),
            ("age_seconds", "gauge", "Time since the program connected.", |c| secs(c.age)),
            ("state_seconds", "gauge", "Time since the state last changed.", |c| secs(c.state_for)),
            ("reconnects_total", "counter", "Returns after a loss.", |c| c.reconnects as f64),
            ("io_queues", "gauge", "I/O queues granted.", |c| c.io_queues.unwrap_or(0).into()),
            ("marginal", "gauge", "1 if used last.", |c| c.marginal.into()),
            ("in_flight", "gauge", "I/O commands in flight.", |c| c.in_flight as f64),
            ("commands_total", "counter", "I/O commands that ended.", |c| c.commands as f64),
        ];
        let name = "nvme_host_controller_info";
        page.family(name, "gauge", "Always 1: what the controller says of itself.");
        self.each_controller(|c, labels| {
            let cntlid = c.cntlid.map(|id| id.to_string()).unwrap_or_default();
            let more = [("subsystem", c.subsystem.as_deref().unwrap_or("")), ("cntlid", &*cntlid)];
            page.sample(name, &[labels, &more].concat(), 1);
        });
        let name = "nvme_host_controller_state";
        page.family(name, "gauge", "1 for the state that the controller is in.");
        self.each_controller(|c, labels| {
            page.states(name, labels, State::ALL.iter().map(|s| s.name()), c.state.name());
        });
        for (suffix, kind, help, value) in families {
            let name = format!("nvme_host_controller_{suffix}");
            page.family(&name, kind, help);
            self.each_controller(|c, labels| page.sample(&name, labels, value(c)));
        }
        let name = "nvme_host_latency_seconds";
        page.family(name, "histogram", "How long I/O commands that succeeded took.");
        self.each_controller(|c, labels| {
            for (direction, times) in [("read", &c.latency.reads), ("write", &c.latency.writes)] {
                page.histogram(name, &[labels, &[("direction", direction)]].concat(), times);
            }
        });
    }

    fn each_controller(&self, mut f: impl FnMut(&ControllerSnapshot, &[Label<'_>])) {
        for c in &self.controllers {
            f(c, &[("controller", &c.id.to_string()), ("address", &c.address)]);
        }
    }

    fn paths_page(&self, page: &mut Page) {
        let name = "nvme_host_path_ana_state";
        page.family(name, "gauge", "1 for the ANA state that the path has.");
        self.each_path(|p, labels| {
            page.states(name, labels, ANA.iter().map(|a| a.name()), p.ana.name());
        });
        type Value = fn(&PathSnapshot) -> u64;
        let families: [(&str, &str, Value); 2] = [
            ("usable", "1 if I/O may be sent on the path.", |p| p.usable.into()),
            ("held", "Writes held until the path's lost controller is fenced.", |p| p.held),
        ];
        for (suffix, help, value) in families {
            let name = format!("nvme_host_path_{suffix}");
            page.family(&name, "gauge", help);
            self.each_path(|p, labels| page.sample(&name, labels, value(p)));
        }
    }

    fn each_path(&self, mut f: impl FnMut(&PathSnapshot, &[Label<'_>])) {
        for head in &self.heads {
            for p in &head.paths {
                let id = p.controller.to_string();
                f(p, &[("head", &head.name), ("controller", &id), ("address", &p.address)]);
            }
        }
    }

    fn heads_page(&self, page: &mut Page) {
        let name = "nvme_host_head_state";
        page.family(name, "gauge", "1 for the state that the head is in.");
        for head in &self.heads {
            let all = HeadState::NAMES.into_iter();
            page.states(name, &[("head", &head.name)], all, head.state.name());
        }
        let name = "nvme_host_head_removal_seconds";
        page.family(name, "gauge", "Time left until a pending removal; absent if there is no end.");
        for head in &self.heads {
            if let HeadState::RemovalPending { remaining: Some(left), .. } = &head.state {
                page.sample(name, &[("head", &head.name)], left.as_secs_f64());
            }
        }
        type Value = fn(&HeadStats) -> u64;
        let families: [(&str, &str, &str, Value); 11] = [
            ("parked", "gauge", "Requests that wait for a path.", |s| s.parked_now),
            ("held", "gauge", "Writes that are held.", |s| s.held_now),
            ("failovers_total", "counter", "Requests moved to another path.", |s| s.failovers),
            ("retries_total", "counter", "Requests retried for their status.", |s| s.retries),
            ("parked_total", "counter", "Requests that had to wait for a path.", |s| s.parked),
            ("held_total", "counter", "Times that a write was held.", |s| s.held),
            ("no_path_total", "counter", "Requests failed for want of a path.", |s| {
                s.failed_no_path
            }),
            ("lost_total", "counter", "Commands lost with their connection.", |s| s.lost),
            ("hedges_total", "counter", "Reads sent down a second path.", |s| s.hedges),
            ("hedges_won_total", "counter", "Those answered there first.", |s| s.hedges_won),
            ("hedges_denied_total", "counter", "Those over budget.", |s| s.hedges_denied),
        ];
        for (suffix, kind, help, value) in families {
            let name = format!("nvme_host_head_{suffix}");
            page.family(&name, kind, help);
            for HeadSnapshot { name: head, stats, .. } in &self.heads {
                page.sample(&name, &[("head", head)], value(stats));
            }
        }
        let name = "nvme_host_head_errors_total";
        page.family(name, "counter", "Answers that were no success, by status type and code.");
        for head in &self.heads {
            for e in &head.errors {
                let (sct, sc) = (e.sct.to_string(), format!("{:#04x}", e.sc));
                let what = e.name.unwrap_or("");
                let labels =
                    [("head", &*head.name), ("sct", &*sct), ("sc", &*sc), ("status", what)];
                page.sample(name, &labels, e.count);
            }
        }
    }
}

fn secs(time: Duration) -> f64 {
    time.as_secs_f64()
}
