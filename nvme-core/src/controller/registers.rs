//! Registers, by whichever way they are reached: Property commands or memory.

use super::action::Action;
use super::admin::Purpose;
use super::link::Limit;
use super::machine::{Controller, Phase};
use crate::spec::fabrics::PropertySize;
use crate::spec::{Sqe, Status};
use crate::time::Instant;
use crate::transport::{Data, TransportKind};

const fn property_size(size: u8) -> PropertySize {
    if size == 8 { PropertySize::Eight } else { PropertySize::Four }
}

impl Controller {
    /// Reads a register of `size` 4 or 8; `register_read` or `register_refused` follows.
    pub(super) fn read_register(&mut self, now: Instant, offset: u32, size: u8) {
        match self.link.kind {
            TransportKind::Fabrics => {
                let sqe = Sqe::property_get(offset, property_size(size));
                let limit = self.config.connect_timeout;
                self.send_within(now, sqe, Data::None, Purpose::RegisterRead, limit);
            }
            TransportKind::Memory => {
                self.link.reading = true;
                let limit = self.config.connect_timeout;
                let (at, what) = (now + limit, "reading a register");
                self.link.limit.get_or_insert(Limit { at, what, limit });
                self.actions.push_back(Action::ReadRegister { offset, size });
            }
        }
    }

    /// Writes a register; `register_written` or `register_refused` follows.
    pub(super) fn write_register(&mut self, now: Instant, offset: u32, size: u8, value: u64) {
        match self.link.kind {
            TransportKind::Fabrics => {
                let sqe = Sqe::property_set(offset, property_size(size), value);
                let limit = self.config.connect_timeout;
                self.send_within(now, sqe, Data::None, Purpose::RegisterWrite, limit);
            }
            TransportKind::Memory => {
                self.actions.push_back(Action::WriteRegister { offset, size, value });
                self.register_written(now);
            }
        }
    }

    /// The answer to [`Action::ReadRegister`].
    pub fn register_value(&mut self, now: Instant, value: u64) {
        if self.has_association() && std::mem::take(&mut self.link.reading) {
            self.register_read(now, value);
        }
    }

    pub(super) fn register_read(&mut self, now: Instant, value: u64) {
        match self.phase {
            Phase::BringUp(step) => self.step_value(now, step, value),
            Phase::ShuttingDown(_) => self.shutdown_status(now, value as u32),
            _ => {}
        }
    }

    pub(super) fn register_written(&mut self, now: Instant) {
        match self.phase {
            Phase::BringUp(step) => self.step_written(now, step),
            Phase::ShuttingDown(_) => self.shutdown_asked(now),
            _ => {}
        }
    }

    pub(super) fn register_refused(&mut self, now: Instant, command: &'static str, status: Status) {
        let error = self.command_error(command, status);
        match self.phase {
            Phase::BringUp(step) => self.step_refused(now, step, error),
            Phase::ShuttingDown(_) => self.fail(now, error),
            _ => {}
        }
    }
}
