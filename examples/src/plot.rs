//! What pictures are made of: charts over a time axis, as SVG.

use svg::Document;
use svg::node::element::{Group, Line, Path, Rectangle, Text};

use crate::terminal::grouped;

pub(crate) const WIDTH: f64 = 1200.0;
pub(crate) const LEFT: f64 = 210.0;
pub(crate) const RIGHT: f64 = 20.0;
pub(crate) const CHART: f64 = 90.0;
pub(crate) const LINE: f64 = 16.0;

pub(crate) const INK: &str = "#24292f";
pub(crate) const FAINT: &str = "#8c959f";

/// The whole picture, `height` high.
pub(crate) fn document(height: f64, parts: Vec<Group>) -> String {
    let height = height.ceil();
    let mut document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "DejaVu Sans, Helvetica, sans-serif")
        .add(Rectangle::new().set("width", WIDTH).set("height", height).set("fill", "#ffffff"));
    for part in parts {
        document = document.add(part);
    }
    document.to_string()
}

/// Where a time is.
pub(crate) struct Axis {
    pub(crate) end: f64,
}

impl Axis {
    pub(crate) fn at(&self, t: f64) -> f64 {
        LEFT + (t / self.end).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }
}

/// Numbers to a tenth: the picture has no use for more.
pub(crate) fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

pub(crate) fn text(content: impl Into<String>, x: f64, y: f64, size: f64, fill: &str) -> Text {
    let text = Text::new(content.into()).set("x", tenth(x)).set("y", tenth(y));
    text.set("font-size", size).set("fill", fill)
}

pub(crate) fn rectangle(x: f64, y: f64, width: f64, height: f64, fill: &str) -> Rectangle {
    let r = Rectangle::new().set("x", tenth(x)).set("y", tenth(y)).set("fill", fill);
    r.set("width", tenth(width.max(0.5))).set("height", tenth(height))
}

pub(crate) fn area(points: impl Iterator<Item = (f64, f64)>, floor: f64) -> Path {
    let (mut data, mut last) = (String::new(), None);
    for (x, y) in points {
        if last.is_none() {
            data = format!("M{:.1},{floor:.1}", x);
        }
        data.push_str(&format!("L{x:.1},{y:.1}"));
        last = Some(x);
    }
    if let Some(x) = last {
        data.push_str(&format!("L{x:.1},{floor:.1}Z"));
    }
    Path::new().set("d", data)
}

/// A line of a chart: its name, its colour, and its points.
pub(crate) type Series<'a> = (&'a str, &'a str, Vec<(f64, f64)>);

pub(crate) fn chart(name: &str, series: &[Series<'_>], x: &Axis, y: f64) -> Group {
    let all = series.iter().flat_map(|(_, _, points)| points);
    let most = all.map(|(_, value)| *value).fold(1.0, f64::max);
    let floor = y + CHART;
    let mut group = Group::new().set("class", "chart").set("data-chart", name);
    group = group
        .add(rectangle(LEFT, y, WIDTH - LEFT - RIGHT, CHART, "#f6f8fa"))
        .add(text(name, 12.0, y + 16.0, 12.0, INK).set("font-weight", "bold"))
        .add(
            text(grouped(most as u64), LEFT - 6.0, y + 10.0, 10.0, FAINT).set("text-anchor", "end"),
        )
        .add(text("0", LEFT - 6.0, floor, 10.0, FAINT).set("text-anchor", "end"));
    for (place, (what, color, points)) in (0u8..).zip(series) {
        let mut data = String::new();
        let mut before: Option<f64> = None;
        for (t, value) in points {
            let (x, y) = (x.at(*t), floor - value / most * (CHART - 6.0));
            match before {
                // Counts change at once.
                Some(before) if series.len() > 1 => {
                    data.push_str(&format!("L{x:.1},{before:.1}L{x:.1},{y:.1}"));
                }
                Some(_) => data.push_str(&format!("L{x:.1},{y:.1}")),
                None => data = format!("M{x:.1},{y:.1}"),
            }
            before = Some(y);
        }
        let line = Path::new().set("d", data).set("fill", "none").set("stroke", *color);
        group = group.add(line.set("stroke-width", 1.6).set("data-series", *what));
        let peak = points.iter().map(|(_, v)| *v).fold(0.0, f64::max);
        let told = format!("— {what}, at most {}", grouped(peak as u64));
        group = group.add(text(told, 12.0, y + 34.0 + LINE * f64::from(place), 11.0, color));
    }
    group
}

pub(crate) fn time_axis(x: &Axis, top: f64, bottom: f64) -> Group {
    let steps =
        [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
    let step = steps.into_iter().find(|s| x.end / s <= 20.0).unwrap_or(x.end / 20.0);
    let mut group = Group::new().set("class", "axis");
    for tick in 0..=(x.end / step) as u32 {
        let t = f64::from(tick) * step;
        let at = tenth(x.at(t));
        let line = Line::new().set("x1", at).set("x2", at).set("y1", top).set("y2", bottom + 4.0);
        group = group.add(line.set("stroke", "#000000").set("stroke-opacity", 0.08));
        let told = if step < 1.0 { format!("{t:.1} s") } else { format!("{t:.0} s") };
        group = group.add(text(told, at, bottom + 18.0, 10.0, FAINT).set("text-anchor", "middle"));
    }
    group
}
