//! Asynchronous events: one request is always outstanding while the controller is live
//! (`NVMe 2.1 §5.1.2`).

use super::action::ControllerEvent;
use super::admin::Purpose;
use super::machine::Controller;
use crate::spec::aen::{AsyncEvent, ErrorInfo, EventKind, NoticeInfo};
use crate::spec::feature::{AsyncEventConfig, fid};
use crate::spec::{Cqe, Sqe, Status};
use crate::time::Instant;
use crate::transport::Data;

/// The events that are of use here.
const USED: AsyncEventConfig = AsyncEventConfig::NAMESPACE
    .union(AsyncEventConfig::FIRMWARE_ACTIVATION)
    .union(AsyncEventConfig::ANA_CHANGE)
    .union(AsyncEventConfig::CROSS_CONTROLLER_RESET)
    .union(AsyncEventConfig::DISCOVERY_CHANGE);

/// What an event asks the controller layer to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Nothing; it is passed on.
    Tell,
    NamespacesChanged,
    AnaChanged,
    DiscoveryChanged,
    /// A reset of another controller has ended.
    CrossResetDone,
    /// The controller is broken and says so.
    Broken,
}

impl Meaning {
    const fn of(event: AsyncEvent) -> Self {
        match event.kind() {
            EventKind::Error(ErrorInfo::PERSISTENT_INTERNAL_ERROR) => Self::Broken,
            EventKind::Notice(NoticeInfo::NAMESPACE_CHANGED) => Self::NamespacesChanged,
            EventKind::Notice(NoticeInfo::ANA_CHANGE) => Self::AnaChanged,
            EventKind::Notice(NoticeInfo::DISCOVERY_LOG_CHANGE) => Self::DiscoveryChanged,
            EventKind::Notice(NoticeInfo::CROSS_CONTROLLER_RESET_COMPLETED) => Self::CrossResetDone,
            _ => Self::Tell,
        }
    }
}

impl Controller {
    /// Asks for those events that the controller offers (`offered` is `OAES`). Done before the ANA
    /// log is read, so that a change in between raises an event.
    pub(super) fn configure_events(&mut self, now: Instant, offered: u32) {
        let wanted = AsyncEventConfig::from_bits_retain(offered) & USED;
        if wanted.is_empty() {
            return self.events_configured(now);
        }
        let sqe = Sqe::set_features(fid::ASYNC_EVENT_CONFIG, false, 0, wanted.bits());
        self.send(now, sqe, Data::None, Purpose::AsyncConfig);
    }

    pub(super) fn send_event_request(&mut self, now: Instant) {
        self.send(now, Sqe::async_event_request(), Data::None, Purpose::EventRequest);
    }

    pub(super) fn event_reported(&mut self, now: Instant, cqe: &Cqe) {
        if !self.is_live() {
            return;
        }
        let status = cqe.status();
        if !status.is_success() {
            // Asking at once would be answered in the same way, at the speed of the wire. These two
            // are not the controller's mood: one request too many is out there already, or it has no
            // events at all.
            if !status.is(Status::AER_LIMIT_EXCEEDED) && !status.is(Status::INVALID_OPCODE) {
                self.link.events.failed(now);
            }
            return;
        }
        self.link.events.succeeded();
        let dw0 = cqe.dw0.get();
        match Meaning::of(AsyncEvent::from_cqe(cqe)) {
            Meaning::Tell => self.emit(ControllerEvent::AsyncEvent { result: dw0 }),
            Meaning::NamespacesChanged => self.rescan(now),
            Meaning::AnaChanged => self.reread_ana(now),
            Meaning::DiscoveryChanged => self.emit(ControllerEvent::DiscoveryChanged),
            Meaning::CrossResetDone => self.read_reset_log(now),
            Meaning::Broken => {
                self.emit(ControllerEvent::AsyncEvent { result: dw0 });
                let error = self.fatal("event Persistent Internal Error");
                return self.fail(now, error);
            }
        }
        self.send_event_request(now);
    }

    /// Asks for events again after a request was failed. What happened in the meantime was not told,
    /// so all that events tell of is looked at.
    pub(super) fn events_timeout(&mut self, now: Instant) {
        if !self.is_live() || !self.link.events.is_due(now) {
            return;
        }
        self.link.events.begun();
        self.send_event_request(now);
        self.rescan(now);
        self.reread_ana(now);
        if self.link.identified.as_ref().is_some_and(|id| id.discovery) {
            self.emit(ControllerEvent::DiscoveryChanged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_mean_what_the_specification_says() {
        let of = |dw0: u64| Meaning::of(AsyncEvent::from_cqe(&Cqe::new(0, Status::SUCCESS, dw0)));
        assert_eq!(of(0x0004_0002), Meaning::NamespacesChanged);
        assert_eq!(of(0x000c_0302), Meaning::AnaChanged);
        assert_eq!(of(0x0070_f002), Meaning::DiscoveryChanged);
        assert_eq!(of(0x001e_f402), Meaning::CrossResetDone);
        assert_eq!(of(0x0001_0300), Meaning::Broken);
        // Firmware Activation Starting, a SMART threshold, and a vendor's own.
        for tell in [0x0003_0102, 0x0002_0101, 0x0000_0007] {
            assert_eq!(of(tell), Meaning::Tell);
        }
    }
}
