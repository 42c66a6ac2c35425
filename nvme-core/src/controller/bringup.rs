//! From nothing to live: one step after the other, each with a limit (`NVMe 2.1 §3.5`, `§3.1.3`).
//!
//! Over fabrics the admin queue comes first, since registers are reached through it. In memory the
//! registers come first, since the addresses of the admin queue may be written only while the
//! controller is disabled; that writing (`AQA`, `ASQ`, `ACQ`) is the transport's own work when it
//! opens queue 0.

use super::action::{Action, ControllerError};
use super::admin::Purpose;
use super::link::{Limit, Link};
use super::machine::{Controller, Phase};
use crate::buffer::Buffer;
use crate::quirk::{Hardware, Quirks};
use crate::spec::Cqe;
use crate::spec::Sqe;
use crate::spec::fabrics::{
    CNTLID_DYNAMIC, ConnectAttributes, ConnectData, ConnectResponse, property,
};
use crate::spec::registers::{Cap, Cc, Crto, Csts, Version};
use crate::time::{Duration, Instant};
use crate::transport::{Data, QueueParams, QueueSetup, TransportError, TransportKind};
use zerocopy::IntoBytes;

/// How often `CSTS` is read while a state of the controller is awaited.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long `CSTS` is left alone after `CC.EN` has been cleared, where that is needed
/// ([`Quirks::READY_DELAY`]). Drives are known to want 2 s; Linux gives them this.
const READY_DELAY: Duration = Duration::from_millis(2300);
/// Unit of `CAP.TO` and `CRTO.CRWMT`.
const READY_UNIT: Duration = Duration::from_millis(500);

/// Where bring-up is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Associate,
    OpenAdmin,
    Connect,
    Capabilities,
    Version,
    ReadyTimeouts,
    /// Is it enabled? (memory only)
    Configuration,
    Disable,
    AwaitNotReady,
    Enable,
    AwaitReady,
    Identify,
    HostBehavior,
    NumberOfQueues,
    Events,
    Ana,
    Power,
    HostMemory,
    IoQueues,
}

/// What to enable the controller with: 4 KiB pages, entries of 64 and 16 bytes, and all command sets
/// that it has where it lets the host choose (`NVMe 2.1 §3.1.4.5`).
pub(super) const fn configuration(cap: Cap) -> Cc {
    let css = if cap.css() & Cap::CSS_IOCS != 0 {
        Cc::CSS_IOCS
    } else if cap.css() & Cap::CSS_NONE != 0 && cap.css() & Cap::CSS_NVM == 0 {
        Cc::CSS_NONE
    } else {
        Cc::CSS_NVM
    };
    Cc::enabled(0).with_css(css)
}

impl Controller {
    pub(super) fn begin_attempt(&mut self, now: Instant) {
        self.link = Link { present: true, ..Link::default() };
        self.namespaces.forget_told();
        self.enter(Step::Associate);
        self.limit(now, "making an association", self.config.connect_timeout);
        self.actions.push_back(Action::Associate);
    }

    /// Whether bring-up is at `step`: what a report must fit to.
    pub(super) fn at(&self, step: Step) -> bool {
        matches!(self.phase, Phase::BringUp(present) if present == step)
    }

    pub(super) fn enter(&mut self, step: Step) {
        self.phase = Phase::BringUp(step);
        self.link.limit = None;
        self.link.poll_at = None;
    }

    pub(super) fn limit(&mut self, now: Instant, what: &'static str, limit: Duration) {
        self.link.limit = Some(Limit { at: now + limit, what, limit });
    }

    /// [`Action::Associate`] was carried out: there is an association of this kind, whose transport
    /// moves at most `max_transfer` bytes with one command, and knows so much of the device.
    pub fn associated(
        &mut self,
        now: Instant,
        kind: TransportKind,
        max_transfer: Option<usize>,
        hardware: Hardware,
    ) {
        if !self.at(Step::Associate) {
            return;
        }
        self.link.kind = kind;
        self.link.transport_max = max_transfer;
        self.link.hardware = hardware;
        if !self.learn_quirks(now, None) {
            return;
        }
        match kind {
            TransportKind::Fabrics => self.open_admin_queue(now),
            TransportKind::Memory => self.read_in(now, Step::Capabilities, property::CAP, 8),
        }
    }

    /// [`Action::Associate`] failed: there is no association.
    pub fn association_failed(&mut self, now: Instant, error: TransportError) {
        if self.at(Step::Associate) {
            self.link.present = false;
            self.fail(now, ControllerError::Transport(error));
        }
    }

    fn open_admin_queue(&mut self, now: Instant) {
        self.enter(Step::OpenAdmin);
        let open_timeout = self.config.connect_timeout;
        self.limit(now, "opening the admin queue", open_timeout);
        let entries = self.config.admin_entries;
        self.actions.push_back(Action::OpenQueue(QueueParams { qid: 0, entries, open_timeout }));
    }

    /// A queue asked for by [`Action::OpenQueue`] can take commands; `setup` is what the transport
    /// says of how it comes to life.
    pub fn queue_ready(&mut self, now: Instant, qid: u16, setup: QueueSetup) {
        if qid != 0 {
            if self.has_association() {
                self.io_queue_ready(now, qid, setup);
            }
        } else if self.at(Step::OpenAdmin) {
            match setup {
                QueueSetup::Connect => self.connect(now),
                QueueSetup::None => self.enable(now),
                QueueSetup::Create { .. } => {
                    let error = self.invalid("admin queue", "cannot be made by admin commands");
                    self.fail(now, error);
                }
            }
        }
    }

    /// A queue of the association has died: one being opened, one in use here, or an I/O queue that
    /// was handed over.
    pub fn queue_failed(&mut self, now: Instant, qid: u16, error: TransportError) {
        if !self.has_association() {
            return;
        }
        if qid == 0 {
            self.fail(now, ControllerError::Transport(error));
        } else {
            self.io_queue_failed(now, qid, error);
        }
    }

    fn connect(&mut self, now: Instant) {
        let config = &self.config;
        let Some(subnqn) = &config.subnqn else {
            let error = self.invalid("settings", "a fabrics controller needs a subsystem NQN");
            return self.refuse(now, error);
        };
        let data = ConnectData::new(config.hostid, CNTLID_DYNAMIC, subnqn, &config.hostnqn);
        let kato = u32::try_from(config.keep_alive.as_millis()).unwrap_or(u32::MAX);
        let sqsize = config.admin_entries.saturating_sub(1);
        let sqe = Sqe::connect(0, sqsize, ConnectAttributes::empty(), kato);
        let data = Data::Write(Buffer::from(data.as_bytes().to_vec()));
        let limit = config.connect_timeout;
        self.enter(Step::Connect);
        self.send_within(now, sqe, data, Purpose::Connect, limit);
    }

    pub(super) fn connected(&mut self, now: Instant, cqe: &Cqe) {
        if !self.at(Step::Connect) {
            return;
        }
        let status = cqe.status();
        if !status.is_success() {
            let error = self.command_error(Purpose::Connect.name(), status);
            return if status.dnr() { self.refuse(now, error) } else { self.fail(now, error) };
        }
        let response = ConnectResponse::from_cqe(cqe);
        if response.authentication_required || response.secure_channel_required {
            let error = self.invalid("Connect response", "the controller demands authentication");
            return self.refuse(now, error);
        }
        self.link.cntlid = response.cntlid;
        self.read_in(now, Step::Capabilities, property::CAP, 8);
    }

    fn read_in(&mut self, now: Instant, step: Step, offset: u32, size: u8) {
        self.enter(step);
        self.read_register(now, offset, size);
    }

    /// The value of the register that the present step reads.
    pub(super) fn step_value(&mut self, now: Instant, step: Step, value: u64) {
        match step {
            Step::Capabilities => self.capabilities(now, value),
            Step::Version => {
                self.link.version = Version(value as u32);
                if self.link.cap.crwms() == 1 {
                    self.read_in(now, Step::ReadyTimeouts, property::CRTO, 4);
                } else {
                    self.registers_known(now);
                }
            }
            Step::ReadyTimeouts => {
                self.link.ready_timeout = Crto(value as u32).crwmt();
                self.registers_known(now);
            }
            Step::Configuration => {
                if Cc(value as u32).en() == 1 {
                    self.enter(Step::Disable);
                    self.write_register(now, property::CC, 4, 0);
                } else {
                    self.await_status(now, Step::AwaitNotReady);
                }
            }
            Step::AwaitNotReady | Step::AwaitReady => self.status_read(now, step, value as u32),
            _ => {}
        }
    }

    /// A register of the present step cannot be read or written: `CRTO` is optional.
    pub(super) fn step_refused(&mut self, now: Instant, step: Step, error: ControllerError) {
        if step == Step::ReadyTimeouts {
            self.registers_known(now);
        } else {
            self.fail(now, error);
        }
    }

    pub(super) fn step_written(&mut self, now: Instant, step: Step) {
        match step {
            Step::Disable => {
                let delayed = self.link.quirks.contains(Quirks::READY_DELAY);
                self.await_status_after(now, Step::AwaitNotReady, delayed.then_some(READY_DELAY));
            }
            Step::Enable => self.await_status(now, Step::AwaitReady),
            _ => {}
        }
    }

    fn capabilities(&mut self, now: Instant, value: u64) {
        let cap = Cap(value);
        if value == u64::MAX {
            let reason = "the registers read as all ones".into();
            let address = self.config.address.clone();
            let error = TransportError::Lost { address, reason };
            return self.fail(now, ControllerError::Transport(error));
        }
        let reason = if cap.mqes() == 0 {
            format!("MQES is 0, at least 1 is needed (CAP {value:#018x})")
        } else if cap.mpsmin() != 0 {
            format!("MPSMIN is {}, pages of 4 KiB are needed (CAP {value:#018x})", cap.mpsmin())
        } else {
            self.link.cap = cap;
            return self.read_in(now, Step::Version, property::VS, 4);
        };
        let error = self.invalid("Controller Capabilities", reason);
        self.fail(now, error);
    }

    fn registers_known(&mut self, now: Instant) {
        match self.link.kind {
            TransportKind::Fabrics => self.enable(now),
            TransportKind::Memory => self.read_in(now, Step::Configuration, property::CC, 4),
        }
    }

    fn enable(&mut self, now: Instant) {
        self.enter(Step::Enable);
        let cc = configuration(self.link.cap);
        self.write_register(now, property::CC, 4, cc.0.into());
    }

    /// The longest that the controller may take to become ready, or not ready
    /// (`NVMe 2.1 §3.1.4.1, §3.1.4.21`).
    fn ready_limit(&self) -> Duration {
        READY_UNIT * self.link.ready_timeout.max(self.link.cap.to() as u32).max(1)
    }

    fn await_status(&mut self, now: Instant, step: Step) {
        self.await_status_after(now, step, None);
    }

    /// `delay`: how long `CSTS` must not be read.
    fn await_status_after(&mut self, now: Instant, step: Step, delay: Option<Duration>) {
        self.enter(step);
        let what = match step {
            Step::AwaitNotReady => "becoming disabled (CSTS.RDY = 0)",
            _ => "becoming ready (CSTS.RDY = 1)",
        };
        self.limit(now, what, self.ready_limit() + delay.unwrap_or_default());
        match delay {
            Some(delay) => self.link.poll_at = Some(now + delay),
            None => self.read_register(now, property::CSTS, 4),
        }
    }

    fn status_read(&mut self, now: Instant, step: Step, value: u32) {
        let csts = Csts(value);
        if csts.is_absent() {
            let reason = "CSTS reads as all ones".into();
            let address = self.config.address.clone();
            let error = TransportError::Lost { address, reason };
            self.fail(now, ControllerError::Transport(error));
        } else if step == Step::AwaitNotReady {
            if csts.is_ready() { self.poll_later(now) } else { self.open_admin_queue(now) }
        } else if csts.is_fatal() {
            let error = self.fatal(format!("CSTS.CFS is set while enabling (CSTS {value:#010x})"));
            self.fail(now, error);
        } else if csts.is_ready() {
            self.identify(now);
        } else {
            self.poll_later(now);
        }
    }

    fn poll_later(&mut self, now: Instant) {
        self.link.poll_at = Some(now + POLL_INTERVAL);
    }

    pub(super) fn step_timeout(&mut self, now: Instant) {
        if let Some(Limit { what, limit, .. }) = self.link.limit.filter(|l| l.at <= now) {
            let error = self.timeout_error(what, limit);
            self.fail(now, error);
        } else if self.link.poll_at.is_some_and(|at| at <= now) {
            self.link.poll_at = None;
            self.read_register(now, property::CSTS, 4);
        }
    }
}
