//! What users do to requests, paths and heads while they are in use.

use std::time::Duration;

use nvme_mpath::{Fence, HedgeOptions, PathPolicy};

use crate::clock::{MS, US};
use crate::load::BLOCKS;
use crate::world::{Violation, World};

impl World {
    /// A user does something.
    pub fn user_acts(&mut self) {
        match self.dice.roll(8) {
            0..=2 => self.cancel_some(),
            3 => self.mark(),
            4 | 5 => self.choose_policy(),
            6 => self.choose_fence(),
            _ => self.keep_heads(),
        }
    }

    /// Cancels one request, or all of a channel.
    fn cancel_some(&mut self) {
        let (now, all) = (self.now(), self.dice.once_in(6));
        let under_way = &self.load.under_way;
        let numbers: Vec<(u64, usize)> = under_way.iter().map(|(n, op)| (*n, op.channel)).collect();
        if numbers.is_empty() {
            return;
        }
        let (number, channel) = self.dice.of(&numbers);
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.number == channel) else { return };
        lane.due = now;
        if all {
            lane.channel.cancel_all();
            let own = numbers.iter().filter(|(_, c)| *c == channel);
            own.for_each(|(n, _)| self.load.cancelled(*n, now));
        } else {
            lane.channel.cancel(number);
            self.load.cancelled(number, now);
        }
        self.note(73, format_args!("request {number} cancelled, all: {all}"));
    }

    /// Marks a controller as marginal, or takes the mark off.
    fn mark(&mut self) {
        if self.controllers.is_empty() {
            return;
        }
        let at = self.dice.roll(self.controllers.len() as u64) as usize;
        let marginal = self.dice.once_in(2);
        self.controllers[at].1.set_marginal(marginal);
        self.note(74, format_args!("{:?} marginal: {marginal}", self.controllers[at].1));
    }

    fn choose_policy(&mut self) {
        let policy = self.dice.of(&PathPolicy::ALL);
        let (what, at) = (self.dice.roll(3), self.dice.roll(1 << 16) as usize);
        self.note(75, format_args!("policy {policy:?}, for {what}"));
        let Some(host) = &self.host else { return };
        let heads = host.heads();
        match (what, heads.is_empty()) {
            (0, _) => host.set_policy(policy),
            (_, true) => {}
            (1, _) => heads[at % heads.len()].set_policy(Some(policy)),
            _ => {
                let ids: Vec<_> = self.controllers.iter().map(|(_, c)| c.id()).collect();
                let preferred = ids.get(at % (ids.len() + 1)).copied();
                heads[at % heads.len()].set_preferred_path(preferred);
            }
        }
    }

    /// Only where late writes need not be fenced for sure.
    fn choose_fence(&mut self) {
        let fence = match self.dice.roll(4) {
            0 if !self.plan.fenced => Some(Fence::Off),
            1 => Some(Fence::Strict),
            2 => Some(Fence::Auto),
            _ => None,
        };
        self.note(76, format_args!("fence {fence:?}"));
        let Some(host) = &self.host else { return };
        host.heads().iter().for_each(|head| head.set_fence(fence));
    }

    /// Heads that are to be removed wait without end; a later change of the windows ends that.
    fn keep_heads(&mut self) {
        let Some(host) = &self.host else { return };
        self.rules.removals_put_off();
        let kept = host.heads().iter().filter(|head| head.cancel_removal()).count();
        self.note(77, format_args!("{kept} removals put off"));
    }

    /// Has reads hedged, and channels see enough of them.
    pub fn hedge(&mut self) -> Result<(), Violation> {
        let mut options = HedgeOptions::default();
        options.percentile = self.dice.of(&[0.5, 0.9]);
        options.min_delay = Duration::from_nanos(self.dice.of(&[10 * US, MS]));
        options.budget = self.dice.of(&[0.05, 1.0]);
        options.burst = 16.0;
        let heads = self.host.as_ref().map(|host| host.heads()).unwrap_or_default();
        let Some(head) = heads.first() else { return Ok(()) };
        self.note(78, format_args!("reads of {head:?} are hedged: {options:?}"));
        heads.iter().for_each(|head| head.set_hedged_reads(Some(options)));
        for round in 0..14 {
            for i in 0..10 {
                self.read(0, head, (round + i) % BLOCKS)?;
            }
            self.run_for(2 * MS)?;
        }
        Ok(())
    }
}
