//! What the events that a host tells must have in common.

use std::collections::{BTreeMap, BTreeSet};

use nvme_core::controller::State;
use nvme_mpath::{ControllerId, Event, TimedEvent};

use crate::clock::SEC;

/// How late a removal may be: the control plane is driven when its time comes.
const SLACK: u64 = SEC / 10;

/// A removal that is pending.
#[derive(Clone, Copy, Debug)]
struct Removal {
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
}

impl EventRules {
    /// Users have given up heads, changed windows, or want the host to end.
    pub fn user_acts(&mut self) {
        self.removals.values_mut().for_each(|removal| removal.hurried = true);
    }

    /// An event was told.
    ///
    /// # Errors
    /// It cannot be, after those before.
    pub fn told(&mut self, timed: &TimedEvent) -> Result<(), String> {
        let at = timed.at.as_nanos();
        match &timed.event {
            Event::RemovalScheduled { head, after, .. } => {
                let deadline = after.map_or(u64::MAX, |d| at + d.as_nanos() as u64);
                let removal = Removal { deadline, hurried: false };
                match self.removals.insert(head.name().to_owned(), removal) {
                    None => Ok(()),
                    Some(before) => Err(format!("{head:?} is to be removed twice: {before:?}")),
                }
            }
            Event::RemovalRearmed { head, after } => {
                let deadline = after.map_or(u64::MAX, |d| at + d.as_nanos() as u64);
                let removal = Removal { deadline, hurried: false };
                match self.removals.insert(head.name().to_owned(), removal) {
                    Some(_) => Ok(()),
                    None => Err(format!("{head:?} was not to be removed, and is now")),
                }
            }
            Event::RemovalCancelled { head, .. } => match self.removals.remove(head.name()) {
                Some(_) => Ok(()),
                None => Err(format!("{head:?} was not to be removed, and is no more")),
            },
            Event::HeadRemoved { head, delayed, .. } => {
                let removal = self.removals.remove(head.name());
                self.up.retain(|(name, _)| name != head.name());
                match removal {
                    Some(r) if !r.hurried && at < r.deadline => {
                        Err(format!("{head:?} was removed at {at}, before its time: {r:?}"))
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
