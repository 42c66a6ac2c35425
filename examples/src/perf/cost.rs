//! What this process has used up.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Counts of the whole process since it began, or between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Processor time of all threads.
    pub cpu: Duration,
    /// Of that, the part that was spent in the operating system, from 0 to 1; known to a hundredth
    /// of a second. `None` if the system does not tell.
    pub system: Option<f64>,
    /// The same by ticks of a hundredth of a second: in the program, in the system.
    ticks: Option<(u64, u64)>,
}

impl Cost {
    /// What has been used up to now.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let cpu = Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0));
        let ticks = ticks(&std::fs::read_to_string("/proc/self/stat").unwrap_or_default());
        Self { cpu, system: None, ticks }
    }

    /// What has been used from `before` to this.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let ticks = self
            .ticks
            .zip(before.ticks)
            .map(|(now, then)| (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1)));
        let share = |(user, system): (u64, u64)| {
            let all = user + system;
            (all > 0).then(|| system as f64 / all as f64)
        };
        Self { cpu: self.cpu.saturating_sub(before.cpu), system: ticks.and_then(share), ticks }
    }
}

/// User and system time out of `/proc/PID/stat`: the 14th and the 15th field, where the second is a
/// name in parentheses that may itself contain some.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 5 6";
        assert_eq!(ticks(stat), Some((250, 50)));
        assert_eq!(ticks("7 (x"), None);
        let before = Cost { ticks: Some((10, 10)), ..Cost::default() };
        let now = Cost { cpu: Duration::from_secs(1), ticks: Some((40, 20)), ..Cost::default() };
        let used = now.since(&before);
        assert_eq!(used.system, Some(0.25));
        assert_eq!(used.cpu, Duration::from_secs(1));
    }

    #[test]
    fn this_process_uses_time() {
        let before = Cost::now();
        let mut x = 1u64;
        while Cost::now().cpu == before.cpu {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(Cost::now().since(&before).cpu > Duration::ZERO);
    }
}
