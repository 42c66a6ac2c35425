//! Hedged reads: what a program can set.

use nvme_core::time::Duration;

/// When a read is sent down a second path, because the first takes too long to answer.
///
/// **Buffers.** The first path keeps the request's buffer until it answers. The second one reads into
/// a buffer of the channel's own, and if it answers first, the completion carries *that* buffer
/// instead ([`IoCompletion::exchanged`](crate::IoCompletion::exchanged)): of the same length, owned
/// by the program from then on, just as the request's now belongs to the channel. Only requests whose
/// buffer was made from a vector are hedged: memory that the program may need to get back itself
/// ([`Buffer::from_raw_parts`](nvme_core::buffer::Buffer::from_raw_parts), DMA buffers) never is.
/// [`ChannelOptions::hedge_buffers`](crate::ChannelOptions::hedge_buffers) bounds how many are out
/// at once.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct HedgeOptions {
    /// A read is hedged when it outlives this part of the reads of its size class on its channel,
    /// 0.5..=0.9999. Default 0.99. Nothing is hedged before 128 reads have been seen.
    pub percentile: f64,
    /// The least time before a read is hedged. Default 100 µs.
    pub min_delay: Duration,
    /// Second attempts per read, over time, 0..=1. Default 0.05: one in twenty.
    pub budget: f64,
    /// Second attempts that may be saved up while few are needed, for a path that stands still.
    /// Default 128.
    pub burst: f64,
}

impl Default for HedgeOptions {
    fn default() -> Self {
        let min_delay = Duration::from_micros(100);
        Self { percentile: 0.99, min_delay, budget: 0.05, burst: 128.0 }
    }
}

impl HedgeOptions {
    /// The same, with every value within its range.
    pub(crate) fn checked(self) -> Self {
        let within = |value: f64, least: f64, most: f64, default: f64| {
            if value.is_nan() { default } else { value.clamp(least, most) }
        };
        Self {
            percentile: within(self.percentile, 0.5, 0.9999, 0.99),
            min_delay: self.min_delay,
            budget: within(self.budget, 0.0, 1.0, 0.05),
            burst: within(self.burst, 1.0, 1e6, 128.0),
        }
    }
}
