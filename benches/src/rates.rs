//! Requests a second of what is run again and again for a while, and what to tell of several runs.

use std::time::{Duration, Instant};

/// Before each run, so that windows and buffers have grown.
const WARMUP: Duration = Duration::from_millis(100);

/// Requests a second, for `time` after a short while of the same, of what does as many requests of `bytes`
/// each, `depth` at a time, as it is told.
pub fn rate(bytes: usize, depth: usize, time: Duration, mut run: impl FnMut(u64)) -> f64 {
    // So many at once that looking at the clock costs nothing, and that the pipe does not run empty often.
    let batch = depth as u64 * (1 << 20 >> bytes.max(1).ilog2()).clamp(16, 256);
    let mut go = |limit| {
        let (since, mut ended) = (Instant::now(), 0);
        while since.elapsed() < limit {
            run(batch);
            ended += batch;
        }
        ended as f64 / since.elapsed().as_secs_f64()
    };
    go(WARMUP);
    go(time)
}

/// The least, the median and the most of some figures; zeroes if there are none.
#[must_use]
pub fn summary(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    let median = figures.get(figures.len() / 2).copied().unwrap_or_default();
    let ends = [figures.first(), figures.last()].map(|end| end.copied().unwrap_or_default());
    (ends[0], median, ends[1])
}
