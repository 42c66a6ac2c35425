//! What the events that a host tells must have in common.

use std::collections::{BTreeMap, BTreeSet};

use nvme_core::controller::State;
use nvme_mpath::{ControllerId, DelayedRemoval, Event, Head, LossCause, TimedEvent, Window};

use crate::clock::SEC;

/// How late a removal may be: the control plane is driven when its time comes.
const SLACK: u64 = SEC / 10;

/// A removal that is pending.
#[derive(Clone, Copy, Debug)]
struct Removal {
    lost_at: u64,
    cause: LossCause,
    deadline: u64,
    /// A user has said something meanwhile: it may end at any time.
    hurried: bool,
}

/// What was told so far.
#[derive(Debug, Default)]
pub struct EventRules {
    removals: BTreeMap<String, Removal>,
    states: BTreeMap<ControllerId, State>,
    up: BTreeSet<(String, ControllerId)>,
    /// Windows that were set since the control plane last told all it had to tell.
    windows: Vec<DelayedRemoval>,
    /// Users have put removals off since then.
    put_off: bool,
    /// The host is being shut down: nothing waits any more.
    ending: bool,
}

const fn window(windows: DelayedRemoval, cause: LossCause) -> Window {
    match cause {
        LossCause::LinkLost => windows.link_lost,
        LossCause::Disconnected => windows.disconnected,
        // NamespaceGone; there are no others.
        _ => windows.namespace_gone,
    }
}

/// When a window ends that was opened at `lost_at`; at once for none.
fn end_of(window: Window, lost_at: u64) -> u64 {
    match window {
        Window::None => lost_at,
        Window::For(time) => lost_at + time.as_nanos() as u64,
        Window::Forever => u64::MAX,
    }
}

impl EventRules {
    /// Users have given up heads.
    pub fn heads_given_up(&mut self) {
        self.removals.values_mut().for_each(|removal| removal.hurried = true);
    }

    /// Users have set the windows of all heads.
    pub fn windows_set(&mut self, windows: DelayedRemoval) {
        self.windows.push(windows);
        // One that is over by the new window goes at once.
        self.heads_given_up();
    }

    /// Users have put off all removals.
    pub fn removals_put_off(&mut self) {
        self.put_off = true;
        self.heads_given_up();
    }

    /// Users want the host to end.
    pub fn host_ends(&mut self) {
        self.ending = true;
        self.heads_given_up();
    }

    /// The control plane has told all that has happened so far.
    pub fn all_told(&mut self) {
        self.windows.clear();
        self.put_off = false;
    }

    /// When the next removal is due that has a time.
    #[must_use]
    pub fn next_removal(&self) -> Option<u64> {
        self.removals.values().map(|r| r.deadline).filter(|at| *at != u64::MAX).min()
    }

    /// Whether a head that was lost at this time may be removed at that.
    fn may_end(&self, head: &Head, cause: LossCause, lost_at: u64, end: u64) -> bool {
        let set = self.windows.iter().copied().chain([head.delayed_removal()]);
        set.map(|windows| end_of(window(windows, cause), lost_at)).any(|at| at == end)
    }

    /// An event was told.
    ///
    /// # Errors
    /// It cannot be, after those before.
    pub fn told(&mut self, timed: &TimedEvent) -> Result<(), String> {
        let at = timed.at.as_nanos();
        match &timed.event {
            Event::RemovalScheduled { head, cause, after } => {
                let deadline = after.map_or(u64::MAX, |d| at + d.as_nanos() as u64);
                let removal = Removal { lost_at: at, cause: *cause, deadline, hurried: false };
                if let Some(before) = self.removals.insert(head.name().to_owned(), removal) {
                    return Err(format!("{head:?} is to be removed twice: {before:?}"));
                }
                match self.may_end(head, *cause, at, deadline) {
                    true => Ok(()),
                    false => Err(format!("{head:?} is to be removed at another time: {removal:?}")),
                }
            }
            Event::RemovalRearmed { head, after } => {
                let deadline = after.map_or(u64::MAX, |d| at + d.as_nanos() as u64);
                let Some(removal) = self.removals.get_mut(head.name()) else {
                    return Err(format!("{head:?} was not to be removed, and is now"));
                };
                (removal.deadline, removal.hurried) = (deadline, false);
                let removal = *removal;
                let Removal { cause, lost_at, .. } = removal;
                let put_off = self.put_off && deadline == u64::MAX;
                match put_off || self.may_end(head, cause, lost_at, deadline) {
                    true => Ok(()),
                    false => Err(format!("{head:?} has another time, a wrong one: {removal:?}")),
                }
            }
            Event::RemovalCancelled { head, .. } => match self.removals.remove(head.name()) {
                Some(_) => Ok(()),
                None => Err(format!("{head:?} was not to be removed, and is no more")),
            },
            Event::HeadRemoved { head, cause, delayed } => {
                let removal = self.removals.remove(head.name());
                self.up.retain(|(name, _)| name != head.name());
                match removal {
                    Some(r) if !r.hurried && at < r.deadline => {
                        Err(format!("{head:?} was removed at {at}, before its time: {r:?}"))
                    }
                    None if !*delayed && !self.ending && !self.may_end(head, *cause, at, at) => {
                        Err(format!("{head:?} was removed at once, and has a window"))
                    }
                    None if *delayed => Err(format!("{head:?} was removed without notice")),
                    _ => Ok(()),
                }
            }
            Event::ControllerState { controller, from, to, .. } => {
                match self.states.insert(*controller, *to) {
                    Some(last) if last != *from && last != State::Dead => Err(format!(
                        "{controller:?} goes from {from:?} to {to:?}, and was {last:?}"
                    )),
                    _ => Ok(()),
                }
            }
            Event::PathUp { head, controller, .. } => {
                match self.up.insert((head.name().to_owned(), *controller)) {
                    true => Ok(()),
                    false => Err(format!("the path of {head:?} by {controller:?} comes twice")),
                }
            }
            Event::PathDown { head, controller, .. } => {
                match self.up.remove(&(head.name().to_owned(), *controller)) {
                    true => Ok(()),
                    false => Err(format!("the path of {head:?} by {controller:?} goes twice")),
                }
            }
            Event::Lagged(lost) => Err(format!("{lost} events were lost")),
            _ => Ok(()),
        }
    }

    /// Looks for removals whose time has passed.
    ///
    /// # Errors
    /// The head and its removal.
    pub fn check(&self, now: u64) -> Result<(), String> {
        let late = |(_, r): &(&String, &Removal)| r.deadline.saturating_add(SLACK) < now;
        match self.removals.iter().find(late) {
            Some((head, removal)) => Err(format!("{head} is still there at {now}: {removal:?}")),
            None => Ok(()),
        }
    }
}
