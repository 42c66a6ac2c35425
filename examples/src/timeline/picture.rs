//! The picture of a run: a lane for the head and for each path, and charts below, over one time axis.

use svg::node::element::{Group, Line, Rectangle, Title};

use super::record::{Moment, PathMoment, Run};
use crate::plot::{
    Axis, CHART, FAINT, INK, LEFT, LINE, RIGHT, WIDTH, area, chart, document, rectangle, tenth,
    text, time_axis,
};
use crate::terminal::grouped;

const TOP: f64 = 64.0;
const LANE: f64 = 46.0;
const GAP: f64 = 14.0;
/// Events that are told below the picture; all of them have a mark.
const TOLD: usize = 40;

/// Draws a run as SVG.
///
/// Lanes are groups of the class `lane`, with the attribute `data-lane`: `head`, or the address of the
/// path; what a lane is in at a time is a rectangle of the class `state` with `data-state`. Removal
/// windows are rectangles of the class `window`, charts groups of the class `chart`.
#[must_use]
pub fn picture(run: &Run) -> String {
    let end = run.moments.last().map_or(1.0, |m| m.t).max(0.001);
    let end = if end.is_finite() { end } else { 1.0 };
    let x = Axis { end };
    let mut y = TOP;
    let mut parts: Vec<Group> = vec![heading(run, end)];
    parts.push(head_lane(run, &x, y));
    y += LANE + GAP;
    // One scale for all paths, so that they can be compared.
    let most = (0..run.paths.len()).flat_map(|p| rates(run, p)).map(|(_, r)| r).fold(1.0, f64::max);
    for path in 0..run.paths.len() {
        parts.push(path_lane(run, &x, y, path, most));
        y += LANE + GAP;
    }
    let total: Vec<(f64, f64)> = total_rates(run);
    parts.push(chart("I/O per second", &[("all paths", "#0969da", total)], &x, y));
    y += CHART + GAP;
    let count = |of: fn(&Moment) -> u64| run.moments.iter().map(|m| (m.t, of(m) as f64)).collect();
    let waiting = [
        ("parked", "#bc4c00", count(|m| m.parked)),
        ("held", "#8250df", count(|m| m.held)),
        ("pins", "#1a7f37", count(|m| m.pins)),
    ];
    parts.push(chart("waiting requests, pins", &waiting, &x, y));
    y += CHART;
    parts.push(time_axis(&x, TOP, y));
    parts.push(marks(run, &x, TOP, y));
    y += 40.0;
    let (told, height) = events(run, y);
    parts.push(told);
    y += height + 10.0;
    document(y, parts)
}

fn heading(run: &Run, end: f64) -> Group {
    let what = format!("{:.1} s, {} paths, {} events", end, run.paths.len(), run.events.len());
    let mut group = Group::new()
        .add(text(&run.head, 12.0, 24.0, 16.0, INK).set("font-weight", "bold"))
        .add(text(what, 12.0, 44.0, 12.0, FAINT));
    let mut x = LEFT + 150.0;
    for (color, what) in [
        (GOOD, "optimized"),
        (FAIR, "non-optimized"),
        (POOR, "not accessible"),
        (DOWN, "reconnecting"),
        (AWAY, "left the head"),
        (WINDOW, "removal window"),
    ] {
        group = group.add(rectangle(x, 34.0, 12.0, 12.0, color));
        group = group.add(text(what, x + 17.0, 44.0, 11.0, INK));
        x += 40.0 + 6.6 * what.len() as f64;
    }
    group
}

const GOOD: &str = "#aceebb";
const FAIR: &str = "#fae17d";
const POOR: &str = "#ffb77c";
const DOWN: &str = "#ffaba8";
const AWAY: &str = "#d0d7de";
const WINDOW: &str = "#ff8182";

fn path_color(p: &PathMoment) -> (&'static str, &str) {
    match (&p.ana, p.usable) {
        (None, _) => (AWAY, "left"),
        (Some(ana), true) if ana == "optimized" => (GOOD, "optimized"),
        (Some(_), true) => (FAIR, "non-optimized"),
        (Some(ana), false) if p.controller == "live" && ana != "optimized" => (POOR, ana),
        (Some(_), false) => (DOWN, &p.controller),
    }
}

/// Times at which something is the same: from, to, and what.
fn stretches<'a, T: PartialEq>(run: &'a Run, of: impl Fn(&'a Moment) -> T) -> Vec<(f64, f64, T)> {
    let mut all: Vec<(f64, f64, T)> = Vec::new();
    for m in &run.moments {
        let is = of(m);
        if let Some(last) = all.last_mut() {
            last.1 = m.t;
            if last.2 == is {
                continue;
            }
        }
        all.push((m.t, m.t, is));
    }
    all
}

fn lane(name: &str, about: &str, y: f64) -> Group {
    let group = Group::new().set("class", "lane").set("data-lane", name);
    group.add(text(name, 12.0, y + 19.0, 12.0, INK).set("font-weight", "bold")).add(text(
        about,
        12.0,
        y + 35.0,
        11.0,
        FAINT,
    ))
}

fn state(x: &Axis, from: f64, to: f64, y: f64, what: &str, color: &str) -> Rectangle {
    let title = Title::new(format!("{what}: {from:.2} s to {to:.2} s"));
    let r = rectangle(x.at(from), y, x.at(to) - x.at(from), LANE, color);
    r.set("class", "state").set("data-state", what).add(title)
}

fn head_lane(run: &Run, x: &Axis, y: f64) -> Group {
    let mut group = lane("head", "", y);
    for (from, to, what) in stretches(run, |m| &*m.head) {
        let color = match what {
            "live" => GOOD,
            "no-path" => FAIR,
            "removal-pending" => DOWN,
            _ => AWAY,
        };
        group = group.add(state(x, from, to, y, what, color));
    }
    for (from, to, all, how) in windows(run, x.end) {
        let title = Title::new(format!("removal window: {from:.2} s to {to:.2} s, {how}"));
        let bar = rectangle(x.at(from), y + LANE - 16.0, x.at(to) - x.at(from), 16.0, WINDOW);
        group = group.add(bar.set("class", "window").set("data-end", how).add(title));
        let length = all.map_or("without end".to_owned(), |s| format!("of {s:.1} s"));
        let told = format!("window {length}, {how} after {:.1} s", to - from);
        let at = x.at(from).min(WIDTH - RIGHT - 6.2 * told.len() as f64) + 4.0;
        group = group.add(text(told, at, y + LANE - 20.0, 10.0, INK));
    }
    group
}

/// Removal windows: from, to, how long they were to be, and how they ended.
fn windows(run: &Run, end: f64) -> Vec<(f64, f64, Option<f64>, &'static str)> {
    let (mut all, mut open): (Vec<_>, Option<(f64, Option<f64>)>) = (Vec::new(), None);
    for event in &run.events {
        match (event.window.as_deref(), open) {
            (Some("scheduled"), _) => open = Some((event.t, event.after)),
            (Some("rearmed"), Some((from, _))) => {
                open = Some((from, event.after.map(|after| event.t - from + after)));
            }
            (Some(how @ ("cancelled" | "removed")), Some((from, length))) => {
                let how = if how == "removed" { "removed" } else { "cancelled" };
                all.push((from, event.t, length, how));
                open = None;
            }
            _ => {}
        }
    }
    all.extend(open.map(|(from, length)| (from, end, length, "open")));
    all
}

fn path_lane(run: &Run, x: &Axis, y: f64, path: usize, most: f64) -> Group {
    let rates = rates(run, path);
    let peak = rates.iter().map(|(_, r)| *r).fold(0.0, f64::max);
    let name = run.paths.get(path).map_or("", |p| &p.address);
    let mut group = lane(name, &format!("peak {}/s", grouped(peak as u64)), y);
    let absent = PathMoment::default();
    for (from, to, (color, what)) in
        stretches(run, |m| path_color(m.paths.get(path).unwrap_or(&absent)))
    {
        group = group.add(state(x, from, to, y, what, color));
    }
    let points = rates.iter().map(|(t, r)| (x.at(*t), y + LANE - r / most * (LANE - 4.0)));
    group.add(area(points, y + LANE).set("fill", "#0969da").set("fill-opacity", 0.35))
}

/// Commands per second of a path, over time.
fn rates(run: &Run, path: usize) -> Vec<(f64, f64)> {
    over(run, |from, to| run.rate(path, from, to))
}

fn total_rates(run: &Run) -> Vec<(f64, f64)> {
    over(run, |from, to| (0..run.paths.len()).map(|p| run.rate(p, from, to)).sum())
}

/// Moments that are too close together are taken as one.
fn over(run: &Run, rate: impl Fn(&Moment, &Moment) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let mut moments = run.moments.iter();
    let Some(mut from) = moments.next() else { return points };
    for to in moments {
        if let Some(rate) = rate(from, to) {
            points.push(((from.t + to.t) / 2.0, rate));
            from = to;
        }
    }
    points
}

fn marks(run: &Run, x: &Axis, top: f64, bottom: f64) -> Group {
    let mut group = Group::new().set("class", "marks");
    for event in run.events.iter().filter(|e| e.t >= 0.0) {
        let at = tenth(x.at(event.t));
        let line = Line::new().set("x1", at).set("x2", at).set("y1", top - 6.0).set("y2", bottom);
        let title = Title::new(format!("{:.3} s {}: {}", event.t, event.who, event.text));
        let line = line.set("stroke", "#cf222e").set("stroke-opacity", 0.35);
        group = group.add(line.set("stroke-dasharray", "2,3").add(title));
    }
    group
}

fn events(run: &Run, y: f64) -> (Group, f64) {
    let mut group = Group::new().set("class", "events");
    let shown = run.events.iter().filter(|e| e.t >= 0.0);
    let mut line = y + 12.0;
    for event in shown.clone().take(TOLD) {
        let time = format!("{:.3} s", event.t);
        let room = 130;
        let mut what: String = event.text.chars().take(room).collect();
        if what.len() < event.text.len() {
            what.push('…');
        }
        group = group
            .add(text(time, 80.0, line, 11.0, FAINT).set("text-anchor", "end"))
            .add(text(&event.who, 92.0, line, 11.0, "#0969da"))
            .add(text(what, LEFT + 60.0, line, 11.0, INK));
        line += LINE;
    }
    let more = shown.count().saturating_sub(TOLD) as u64 + run.events_left_out;
    if more > 0 {
        group = group.add(text(format!("and {more} more"), 92.0, line, 11.0, FAINT));
        line += LINE;
    }
    (group, line - y)
}
