//! The picture of a measurement: requests per second over time, and how latencies are distributed.

use hdrhistogram::Histogram;
use serde::Serialize;
use svg::node::element::{Group, Title};

use crate::plot::{
    Axis, CHART, FAINT, INK, LEFT, RIGHT, WIDTH, chart, document, rectangle, tenth, text, time_axis,
};
use crate::terminal::{grouped, latency};

const TOP: f64 = 64.0;
const GAP: f64 = 50.0;
const BARS: f64 = 220.0;

/// Bars for each power of ten of latency.
const PER_DECADE: u32 = 20;

/// How it went at one time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moment {
    /// Seconds since the measurement began.
    pub t: f64,
    /// Requests per second.
    pub iops: f64,
    /// The median latency of late, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile of late, in microseconds.
    pub p99_us: f64,
}

/// What is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// What was measured, in a few words.
    pub title: &'a str,
    /// What came out, in a line.
    pub result: &'a str,
    /// How it went.
    pub moments: &'a [Moment],
    /// All latencies, in nanoseconds.
    pub latencies: &'a Histogram<u64>,
}

impl Picture<'_> {
    /// Draws it as SVG. Charts are groups of the class `chart` with the attribute `data-chart`; the
    /// bars of the distribution are rectangles of the class `bar`.
    #[must_use]
    pub fn draw(&self) -> String {
        let mut parts = vec![
            Group::new()
                .add(text(self.title, 12.0, 24.0, 16.0, INK).set("font-weight", "bold"))
                .add(text(self.result, 12.0, 44.0, 12.0, FAINT)),
        ];
        let end = self.moments.last().map_or(1.0, |m| m.t).max(0.001);
        let x = Axis { end };
        let series = |of: fn(&Moment) -> f64| self.moments.iter().map(|m| (m.t, of(m))).collect();
        let mut y = TOP;
        parts.push(chart(
            "IOPS over time",
            &[("requests/s", "#0969da", series(|m| m.iops))],
            &x,
            y,
        ));
        parts.push(time_axis(&x, y, y + CHART));
        y += CHART + GAP;
        parts.push(distribution(self.latencies, y));
        y += BARS + GAP;
        document(y, parts)
    }
}

/// A bar for each class of latencies; classes are equally wide on a logarithmic axis.
fn distribution(latencies: &Histogram<u64>, y: f64) -> Group {
    let floor = y + BARS;
    let mut group = Group::new().set("class", "chart").set("data-chart", "latency");
    group = group
        .add(rectangle(LEFT, y, WIDTH - LEFT - RIGHT, BARS, "#f6f8fa"))
        .add(text("latency", 12.0, y + 16.0, 12.0, INK).set("font-weight", "bold"));
    if latencies.is_empty() {
        return group.add(text("nothing ended", LEFT + 8.0, y + 16.0, 11.0, FAINT));
    }
    for (line, q) in (0u8..).zip([0.5, 0.9, 0.99, 0.999, 0.9999]) {
        let told = latency(std::time::Duration::from_nanos(latencies.value_at_quantile(q)));
        let told = format!("p{}  {told}", q * 100.0);
        group = group.add(text(told, 12.0, y + 34.0 + 16.0 * f64::from(line), 11.0, INK));
    }
    let per = f64::from(PER_DECADE);
    let class = |nanos: u64| ((nanos.max(1) as f64).log10() * per).floor() as i32;
    let edge = |class: i32| 10f64.powf(f64::from(class) / per);
    let (first, last) = (class(latencies.min()), class(latencies.max()));
    let width = (WIDTH - LEFT - RIGHT) / f64::from(last - first + 1);
    let mut counts = vec![0u64; usize::try_from(last - first + 1).unwrap_or(1)];
    for value in latencies.iter_recorded() {
        let at = usize::try_from(class(value.value_iterated_to()) - first).unwrap_or(0);
        let at = at.min(counts.len().saturating_sub(1));
        if let Some(count) = counts.get_mut(at) {
            *count += value.count_at_value();
        }
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    for (class, count) in (first..).zip(counts) {
        let x = LEFT + f64::from(class - first) * width;
        let time = |class| latency(std::time::Duration::from_nanos(edge(class) as u64));
        if class.rem_euclid(PER_DECADE as i32 / 2) == 0 {
            let told = text(time(class), tenth(x), floor + 18.0, 10.0, FAINT);
            group = group.add(told.set("text-anchor", "middle"));
        }
        if count == 0 {
            continue;
        }
        let height = count as f64 / most * (BARS - 6.0);
        let title = format!("{} to {}: {}", time(class), time(class + 1), grouped(count));
        let bar = rectangle(x, floor - height, width - 1.0, height, "#0969da");
        group = group.add(bar.set("class", "bar").add(Title::new(title)));
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(svg: &str) -> usize {
        let document = roxmltree::Document::parse(svg).expect("well-formed");
        document.descendants().filter(|n| n.attribute("class") == Some("bar")).count()
    }

    #[test]
    fn each_class_of_latencies_has_a_bar_and_nothing_is_no_mistake() {
        let mut latencies = Histogram::new(3).expect("three digits");
        let moments = [1.0, 2.0].map(|t| Moment { t, iops: 5.0, p50_us: 1.0, p99_us: 2.0 });
        let mut picture =
            Picture { title: "a < b", result: "", moments: &[], latencies: &latencies };
        assert_eq!(bars(&picture.draw()), 0);
        picture.moments = &moments;
        assert_eq!(bars(&picture.draw()), 0);
        for nanos in [1_000, 1_001, 50_000, 9_000_000, 0] {
            latencies.record(nanos).expect("in range");
        }
        let svg =
            Picture { title: "", result: "", moments: &moments, latencies: &latencies }.draw();
        assert_eq!(bars(&svg), 4);
    }
}
