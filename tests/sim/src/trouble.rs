//! What goes wrong, and what users do meanwhile.

use std::time::Duration;

use nvme_core::spec::Status;
use nvme_core::spec::opcode::NvmOpcode;
use nvme_core::spec::tcp::PduType;
use nvme_target::{AnaState, FaultAction, FaultId, FaultRule};

use crate::clock::{MS, US};
use crate::making::namespace;
use crate::net::Way;
use crate::world::{MOST_LANES, Violation, World};

/// Faults that are armed on targets.
pub type Armed = Vec<(usize, FaultId)>;

impl World {
    /// One misfortune.
    pub fn disturb(&mut self, armed: &mut Armed) -> Result<(), Violation> {
        let ports = self.net.lock().ports.len() as u64;
        let port = self.dice.roll(ports) as usize;
        match self.dice.roll(38) {
            0..=2 => self.break_one(),
            3 => self.listener(port, true),
            4 => self.listener(port, false),
            5 | 6 => self.stall(port),
            7 => self.net.lock().heal(port),
            8 => self.latency(port),
            9..=11 if self.plan.ana => self.ana_storm(),
            12 => self.hide_or_show(port),
            13 => self.delete_namespace(port),
            14 => self.new_namespace(port),
            15 | 16 => self.restart(port),
            17..=20 => self.arm(port, armed),
            21 => self.disarm(armed),
            22 => self.change_windows(),
            23 => self.user_on_controllers(port),
            24 => self.channels(),
            25 => self.queue_limit(port),
            26 => self.busy_thread(),
            27 => self.give_up_heads(),
            28..=33 => self.user_acts(),
            34 => self.muddle(port, armed),
            35 | 36 => self.oversleep(),
            _ => {}
        }
        Ok(())
    }

    fn break_one(&mut self) {
        let living = self.net.lock().living();
        if !living.is_empty() {
            let link = self.dice.of(&living);
            self.net.lock().break_link(link);
        }
    }

    /// A listener closes, with its connections; or comes back.
    fn listener(&mut self, port: usize, close: bool) {
        self.note(50, format_args!("port {port} closes: {close}"));
        self.net.lock().ports[port].refusing = close;
        if close {
            let (site, listener) = self.place(port);
            self.kill_connections(site, Some(listener));
        }
    }

    /// Nothing passes, in one direction or both, for a while or until the end.
    fn stall(&mut self, port: usize) {
        let ways: &[Way] = match self.dice.roll(3) {
            0 => &[Way::Up],
            1 => &[Way::Down],
            _ => &[Way::Up, Way::Down],
        };
        let until = match self.dice.roll(4) {
            0 => u64::MAX,
            1 => self.now() + self.dice.between(1_000, 6_000) * MS,
            _ => self.now() + self.dice.between(10, 1_000) * MS,
        };
        self.note(51, format_args!("port {port} is stalled {ways:?} until {until}"));
        self.net.lock().stall(port, ways, until);
    }

    fn latency(&mut self, port: usize) {
        let (latency, jitter) = (self.dice.of(&[20, 100, 3_000]), self.dice.of(&[0, 200, 10_000]));
        self.note(52, format_args!("port {port} takes {latency} us and up to {jitter} more"));
        let mut net = self.net.lock();
        (net.ports[port].latency, net.ports[port].jitter) = (latency * US, jitter * US);
    }

    fn ana_storm(&mut self) {
        const STATES: [AnaState; 6] = [
            AnaState::Optimized,
            AnaState::Optimized,
            AnaState::NonOptimized,
            AnaState::Inaccessible,
            AnaState::PersistentLoss,
            AnaState::Change,
        ];
        for _ in 0..=self.dice.roll(4) {
            let ports = self.net.lock().ports.len() as u64;
            let port = self.dice.roll(ports) as usize;
            let (group, state) = (1 + self.dice.roll(2) as u32, self.dice.of(&STATES));
            self.set_ana(port, group, state);
        }
    }

    /// A namespace of the port's site.
    fn some_namespace(&mut self, port: usize) -> Option<(usize, u32)> {
        let site = self.place(port).0;
        let nsids: Vec<u32> = self.sites[site].namespaces.keys().copied().collect();
        if nsids.is_empty() { None } else { Some((site, self.dice.of(&nsids))) }
    }

    fn hide_or_show(&mut self, port: usize) {
        let Some((site, nsid)) = self.some_namespace(port) else { return };
        let site = &mut self.sites[site];
        if let Some((_, enabled)) = site.namespaces.get_mut(&nsid) {
            *enabled = !*enabled;
            let enabled = *enabled;
            // It is there.
            let _ = site.target.subsystems()[0].enable_namespace(nsid, enabled);
            self.note(53, format_args!("namespace {nsid} of port {port} enabled: {enabled}"));
        }
    }

    fn delete_namespace(&mut self, port: usize) {
        let Some((site, nsid)) = self.some_namespace(port) else { return };
        self.sites[site].namespaces.remove(&nsid);
        let _ = self.sites[site].target.subsystems()[0].remove_namespace(nsid);
        self.note(54, format_args!("namespace {nsid} of port {port} deleted"));
    }

    /// One under an identifier that no host can have a command under way for.
    fn new_namespace(&mut self, port: usize) {
        let site = self.place(port).0;
        if self.sites[site].namespaces.len() < 3 && self.sites[site].used < 9 {
            self.sites[site].used += 1;
            let nsid = self.sites[site].used;
            self.add_namespace(site, nsid);
        }
    }

    fn add_namespace(&mut self, site: usize, nsid: u32) {
        let identity = self.fresh_identity();
        let _ = self.sites[site].target.subsystems()[0].add_namespace(namespace(nsid, identity));
        self.sites[site].namespaces.insert(nsid, (identity, true));
        self.note(55, format_args!("namespace {nsid} of site {site} is now {identity:x}"));
    }

    /// A target loses all its connections, and may come back with another namespace under an
    /// identifier. Only then: a command to the old one that is still on the way to a target that goes
    /// on would reach the new one, whatever the host does.
    fn restart(&mut self, port: usize) {
        let (site, listener) = self.place(port);
        if self.dice.once_in(2) {
            self.note(56, format_args!("all connections to port {port} are closed"));
            self.kill_connections(site, Some(listener));
            return;
        }
        self.note(57, format_args!("site {site} restarts"));
        self.kill_connections(site, None);
        if self.dice.once_in(2)
            && let Some((site, nsid)) = self.some_namespace(port)
        {
            let _ = self.sites[site].target.subsystems()[0].remove_namespace(nsid);
            self.add_namespace(site, nsid);
        }
    }

    /// A target will misbehave.
    fn arm(&mut self, port: usize, armed: &mut Armed) {
        let (site, listener) = self.place(port);
        let ms = Duration::from_millis(self.dice.of(&[1, 30, 400, 2_500]));
        let times = self.dice.of(&[1, 2, 6]);
        let late = if self.plan.fenced { ms.min(Duration::from_millis(400)) } else { ms };
        let write = |action| FaultRule::new(action).io().opcode(NvmOpcode::WRITE.0);
        let read = |action| FaultRule::new(action).io().opcode(NvmOpcode::READ.0);
        let kind = self.dice.roll(17);
        self.deaf |= kind == 3;
        let rule = match kind {
            0 => FaultRule::new(FaultAction::SilentListener),
            1 => FaultRule::new(FaultAction::CloseOnAccept),
            2 => FaultRule::new(FaultAction::Drop).io(),
            3 => FaultRule::new(FaultAction::Drop).admin(),
            4 => FaultRule::new(FaultAction::DropAnswer).io(),
            5 => FaultRule::new(FaultAction::Delay(ms)).admin(),
            6 => read(FaultAction::Delay(ms)),
            // The target goes on with it when the host has given up.
            7 if self.plan.late => write(FaultAction::Delay(late)),
            8 | 9 if self.plan.late => write(FaultAction::LateWrite(late)),
            10 => FaultRule::new(FaultAction::CloseBefore).io(),
            11 => FaultRule::new(FaultAction::CloseAfter).io(),
            12 => FaultRule::new(FaultAction::Fail(self.dice.of(&[
                Status::INTERNAL_PATH_ERROR,
                Status::NAMESPACE_NOT_READY,
                Status::ANA_TRANSITION,
                Status::INTERNAL_ERROR.with_dnr(),
            ])))
            .io(),
            13 => FaultRule::new(FaultAction::Fail(Status::INTERNAL_ERROR)).admin(),
            14 => FaultRule::new(FaultAction::AnswerTwice).io(),
            // Always another generation: of two answers that are exchanged between commands under way
            // no host could tell that they are.
            15 => {
                let flip = self.dice.of(&[0x0100, 0x1000, 0x8001]);
                FaultRule::new(FaultAction::StaleCommandId(flip)).io()
            }
            _ => FaultRule::new(FaultAction::TruncateAt { pdu: PduType::CAPSULE_RESP, bytes: 9 })
                .io(),
        };
        let rule = rule.listener(listener).times(times).skip(self.dice.roll(3));
        self.note(58, format_args!("port {port} will misbehave: {rule:?}"));
        armed.push((site, self.sites[site].target.add_fault(rule)));
    }

    /// Writes are lost at a target, and an answer to something else bears the number of another command,
    /// with another generation. Whoever believes that takes a write for done that is not, and never will be.
    fn muddle(&mut self, port: usize, armed: &mut Armed) {
        let (site, listener) = self.place(port);
        let lost = FaultRule::new(FaultAction::Drop).io().opcode(NvmOpcode::WRITE.0);
        let flip = 0x8000 | self.dice.of(&[1, 2, 3, 4]);
        let stale = FaultRule::new(FaultAction::StaleCommandId(flip)).io();
        let read = stale.opcode(NvmOpcode::READ.0).skip(self.dice.roll(3));
        self.note(72, format_args!("port {port} loses writes and muddles answers: {flip:#x}"));
        for rule in [lost.times(2), read.times(2)] {
            let rule = rule.listener(listener);
            armed.push((site, self.sites[site].target.add_fault(rule)));
        }
    }

    /// The targets behave again.
    pub fn disarm(&mut self, armed: &mut Armed) {
        for (site, id) in armed.drain(..) {
            let _ = self.sites[site].target.remove_fault(id);
        }
    }

    fn change_windows(&mut self) {
        let windows = Self::windows(&mut self.dice);
        let fail = self.dice.once_in(4);
        self.note(59, format_args!("windows {windows:?}, fail_if_no_path {fail}"));
        self.rules.windows_set(windows);
        let Some(host) = &self.host else { return };
        host.set_delayed_removal(windows);
        for head in host.heads() {
            head.set_delayed_removal(windows);
            head.set_fail_if_no_path(fail);
        }
    }

    fn user_on_controllers(&mut self, port: usize) {
        if self.controllers.is_empty() {
            return self.connect(port);
        }
        let at = self.dice.roll(self.controllers.len() as u64) as usize;
        let what = self.dice.roll(4);
        self.note(60 + what, format_args!("user: {what} on {:?}", self.controllers[at].1));
        match what {
            0 => self.controllers[at].1.reset("the dice said so"),
            1 => self.controllers[at].1.rescan(),
            2 => {
                let (_, controller) = self.controllers.swap_remove(at);
                self.given_up.push(controller.id());
                controller.disconnect();
            }
            _ if self.controllers.len() < 8 => self.connect(port),
            _ => {}
        }
    }

    fn channels(&mut self) {
        if self.lanes.len() < MOST_LANES {
            self.open_lane();
        } else {
            let at = self.dice.roll(self.lanes.len() as u64) as usize;
            self.close_lane(at);
        }
    }

    fn queue_limit(&mut self, port: usize) {
        let (site, limit) = (self.place(port).0, self.dice.of(&[1, 2, 8]));
        self.note(70, format_args!("site {site} grants {limit} queues"));
        self.sites[site].target.subsystems()[0].set_queue_limit(limit);
    }

    fn busy_thread(&mut self) {
        if self.dice.once_in(3) {
            self.host_busy = self.now() + self.dice.of(&[20 * US, 5 * MS, 50 * MS]);
        }
        let until = self.now() + self.dice.of(&[300 * US, 20 * MS, 1_500 * MS]);
        if let Some(lane) = self.lanes.first_mut() {
            lane.busy = until;
        }
    }

    /// The control thread gets no processor when the time of a removal comes.
    fn oversleep(&mut self) {
        let Some(deadline) = self.rules.next_removal() else { return };
        let late = self.dice.of(&[10 * US, MS, 50 * MS]);
        self.nap = (deadline.saturating_sub(self.dice.of(&[0, US, 5 * MS])), deadline + late);
        self.note(82, format_args!("the control thread sleeps past {deadline}"));
    }

    fn give_up_heads(&mut self) {
        let Some(host) = &self.host else { return };
        self.rules.heads_given_up();
        let removed = host.heads().iter().filter(|h| h.remove_now()).count();
        self.note(71, format_args!("{removed} heads given up"));
    }
}
