//! Autonomous power state transitions (`NVMe 2.1 §8.1.17`): the controller goes to sleep by itself
//! when it has been idle for a while, as deep as the tolerance for waking up allows.

use super::bringup::Step;
use super::machine::Controller;
use crate::buffer::Buffer;
use crate::controller::admin::Purpose;
use crate::quirk::Quirks;
use crate::spec::Sqe;
use crate::spec::feature::{APST_ENTRIES, ApstEntry, fid};
use crate::spec::identify::{IdentifyController, PowerStateDescriptor};
use crate::time::{Duration, Instant};
use crate::transport::Data;
use zerocopy::IntoBytes;

/// A state is entered after so long when entering and leaving it takes up to so much in sum. Linux has
/// the same two steps since 5.15; what takes longer is not entered.
const STEPS: [(Duration, Duration); 2] = [
    (Duration::from_millis(15), Duration::from_millis(100)),
    (Duration::from_millis(100), Duration::from_millis(2000)),
];
/// PSD flags: no I/O in this state.
const NON_OPERATIONAL: u8 = 1 << 1;
/// PSD flags: the unit of the power is 0.0001 W.
const FINE_SCALE: u8 = 1 << 0;

/// One power state of a controller (`NVMe 2.1 §5.1.13.2.1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PowerState {
    /// Most power that it takes, in 0.1 mW; 0: not reported.
    pub power: u32,
    /// No I/O is done in this state: the controller leaves it for a command.
    pub non_operational: bool,
    /// Longest time to enter it.
    pub entry: Duration,
    /// Longest time to leave it.
    pub exit: Duration,
}

impl From<&PowerStateDescriptor> for PowerState {
    fn from(psd: &PowerStateDescriptor) -> Self {
        let scale = if psd.flags & FINE_SCALE != 0 { 1 } else { 100 };
        Self {
            power: u32::from(psd.mp.get()) * scale,
            non_operational: psd.flags & NON_OPERATIONAL != 0,
            entry: Duration::from_micros(psd.enlat.get().into()),
            exit: Duration::from_micros(psd.exlat.get().into()),
        }
    }
}

/// The states that the controller has, 32 at most.
pub(super) fn states(id: &IdentifyController) -> Vec<PowerState> {
    id.psd.iter().take(usize::from(id.npss) + 1).map(PowerState::from).collect()
}

/// For each state, where the controller goes from there after how long: to the deepest state whose way
/// back takes no longer than `tolerance`, by way of shallower ones.
pub(super) fn table(states: &[PowerState], tolerance: Duration) -> [ApstEntry; APST_ENTRIES] {
    let mut table = [ApstEntry::default(); APST_ENTRIES];
    let mut target = ApstEntry::default();
    let mut last_step = STEPS.len();
    for (at, state) in states.iter().enumerate().take(APST_ENTRIES).rev() {
        if let Some(entry) = table.get_mut(at) {
            *entry = target;
        }
        if !state.non_operational || state.exit > tolerance {
            continue;
        }
        let total = state.entry + state.exit;
        // Each step leads to one state, the deepest that it allows.
        let step = STEPS.iter().position(|(most, _)| total <= *most);
        if let Some((step, (_, idle))) = step.and_then(|s| Some((s, STEPS.get(s)?)))
            && step < last_step
        {
            last_step = step;
            target = ApstEntry::new(at as u8, idle.as_millis() as u32);
        }
    }
    table
}

impl Controller {
    /// Sets the table, if the program has told what it tolerates and the controller can do that.
    pub(super) fn configure_power(&mut self, now: Instant) {
        self.enter(Step::Power);
        let tolerance = self.config.apst_latency;
        let states = self.link.identified.as_ref().filter(|id| id.apst).map(|id| &id.power_states);
        let Some(states) = states.filter(|_| !tolerance.is_zero()) else {
            return self.power_configured(now);
        };
        // Autonomous, that is: the program may still choose it.
        let states = match (states.split_last(), self.link.quirks) {
            (Some((_, others)), quirks) if quirks.contains(Quirks::NO_DEEPEST_STATE) => others,
            _ => states,
        };
        let table = table(states, tolerance);
        let enable = table.iter().any(|entry| *entry != ApstEntry::default());
        let sqe = Sqe::set_features(fid::AUTONOMOUS_POWER_STATE, false, 0, enable.into());
        let data = Data::Write(Buffer::from(table.as_bytes().to_vec()));
        self.send(now, sqe, data, Purpose::Apst);
    }

    /// A controller that refuses goes on as it did.
    pub(super) fn power_configured(&mut self, now: Instant) {
        if self.at(Step::Power) {
            self.give_host_memory(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(non_operational: bool, entry: u64, exit: u64) -> PowerState {
        let (entry, exit) = (Duration::from_micros(entry), Duration::from_micros(exit));
        PowerState { power: 0, non_operational, entry, exit }
    }

    /// State and milliseconds for each of the first five.
    fn computed(states: &[PowerState], tolerance_us: u64) -> Vec<(u8, u32)> {
        let table = table(states, Duration::from_micros(tolerance_us));
        assert!(table[states.len()..].iter().all(|e| *e == ApstEntry::default()));
        table[..states.len()].iter().map(|e| (e.state(), e.idle_ms())).collect()
    }

    #[test]
    fn as_deep_as_is_tolerated_step_by_step() {
        // A common client drive: three operational states, a light sleep, a deep one.
        let drive = [
            state(false, 0, 0),
            state(false, 0, 0),
            state(false, 0, 0),
            state(true, 210, 1200),
            state(true, 2000, 28_000),
        ];
        let none = (0, 0);
        let (light, deep) = ((3, 100), (4, 2000));
        assert_eq!(computed(&drive, 100_000), [light, light, light, deep, none]);
        assert_eq!(computed(&drive, 27_999), [light, light, light, none, none]);
        assert_eq!(computed(&drive, 1200), [light, light, light, none, none], "the bound is in it");
        assert_eq!(computed(&drive, 1199), [none; 5]);
    }

    #[test]
    fn a_state_that_takes_too_long_altogether_is_not_entered() {
        let states = [state(false, 0, 0), state(true, 90_000, 10_001), state(true, 0, 100_000)];
        assert_eq!(computed(&states, 200_000), [(2, 2000), (2, 2000), (0, 0)]);
        assert_eq!(computed(&states[..2], 200_000), [(0, 0), (0, 0)]);
    }

    #[test]
    fn of_two_states_of_one_step_the_deeper_one() {
        let states = [state(false, 0, 0), state(true, 100, 100), state(true, 200, 200)];
        assert_eq!(computed(&states, 100_000), [(2, 100), (2, 100), (0, 0)]);
    }
}
