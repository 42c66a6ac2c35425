//! Asynchronous events: which are on, which were reported and wait for their log page to be read (NVMe 2.1 §5.1.2).

use std::collections::VecDeque;

use nvme_core::spec::Status;

/// Asynchronous Event Requests that a controller takes at once (AERL is one less).
pub(crate) const AER_LIMIT: usize = 4;

/// An asynchronous event that a test can raise; see [`Subsystem::raise_event`](crate::Subsystem::raise_event).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncEvent {
    /// Event type, 0 to 7: 0 error, 1 SMART, 2 notice, 6 command set specific, 7 vendor specific.
    pub event_type: u8,
    /// Event information within the type.
    pub info: u8,
    /// The log page that reading clears the event.
    pub log: u8,
}

impl AsyncEvent {
    /// The attached namespaces, or the attributes of one, have changed.
    pub const NAMESPACE_CHANGED: Self = Self { event_type: 2, info: 0x00, log: 0x04 };
    /// An ANA state has changed.
    pub const ANA_CHANGED: Self = Self { event_type: 2, info: 0x03, log: 0x0c };
    /// A cross-controller reset that this controller was asked for has ended (TP8028).
    pub const CROSS_CONTROLLER_RESET: Self = Self { event_type: 2, info: 0xf4, log: 0x1e };
    /// The discovery log has changed.
    pub const DISCOVERY_CHANGED: Self = Self { event_type: 2, info: 0xf0, log: 0x70 };
    /// Persistent internal error: hosts reset the controller.
    pub const PERSISTENT_INTERNAL_ERROR: Self = Self { event_type: 0, info: 0x03, log: 0x01 };

    /// The bit of the Asynchronous Event Configuration feature that turns the event on; `None` if it is always on
    /// (NVMe 2.1 §5.1.25.1.5).
    const fn config_bit(self) -> Option<u32> {
        match self {
            Self::NAMESPACE_CHANGED => Some(ENABLE_NAMESPACE),
            Self::ANA_CHANGED => Some(ENABLE_ANA),
            Self::DISCOVERY_CHANGED => Some(ENABLE_DISCOVERY),
            Self::CROSS_CONTROLLER_RESET => Some(ENABLE_CROSS_RESET),
            _ => None,
        }
    }

    /// The completion's dword 0.
    const fn result(self) -> u64 {
        (self.log as u64) << 16 | (self.info as u64) << 8 | (self.event_type & 0x7) as u64
    }
}

const ENABLE_NAMESPACE: u32 = 1 << 8;
const ENABLE_ANA: u32 = 1 << 11;
const ENABLE_CROSS_RESET: u32 = 1 << 20;
const ENABLE_DISCOVERY: u32 = 1 << 31;

/// Optional events of an I/O controller: the OAES field, and the feature's bits that may be set.
pub(crate) const OAES_IO: u32 = ENABLE_NAMESPACE | ENABLE_ANA;
/// The same of one that can reset others.
pub(crate) const OAES_IO_RESETS: u32 = OAES_IO | ENABLE_CROSS_RESET;
/// Optional events of a discovery controller.
pub(crate) const OAES_DISCOVERY: u32 = ENABLE_DISCOVERY;

/// The events of one controller.
#[derive(Debug)]
pub(crate) struct Aer {
    /// Event types on; starts with all that are supported, as Linux's target does.
    pub config: u32,
    /// Outstanding requests, by command identifier.
    waiting: VecDeque<u16>,
    /// Events that no request was there for.
    pending: VecDeque<AsyncEvent>,
    /// Reported, and not to be reported again until their log page has been read.
    masked: Vec<AsyncEvent>,
}

/// A request to complete: command identifier and result.
pub(crate) type Answer = (u16, u64);

impl Aer {
    pub fn new(config: u32) -> Self {
        Self { config, waiting: VecDeque::new(), pending: VecDeque::new(), masked: Vec::new() }
    }

    /// An event has happened; the request that it completes, if there is one.
    pub fn raise(&mut self, event: AsyncEvent) -> Option<Answer> {
        let off = event.config_bit().is_some_and(|bit| self.config & bit == 0);
        if off || self.masked.contains(&event) || self.pending.contains(&event) {
            return None;
        }
        self.pending.push_back(event);
        self.report()
    }

    /// A request has come; the event that completes it at once, if one is pending.
    pub fn request(&mut self, cid: u16) -> Result<Option<Answer>, Status> {
        if self.waiting.len() >= AER_LIMIT {
            return Err(Status::AER_LIMIT_EXCEEDED.with_dnr());
        }
        self.waiting.push_back(cid);
        Ok(self.report())
    }

    fn report(&mut self) -> Option<Answer> {
        if self.waiting.is_empty() {
            return None;
        }
        let event = self.pending.pop_front()?;
        self.masked.push(event);
        self.waiting.pop_front().map(|cid| (cid, event.result()))
    }

    /// A log page was read without Retain Asynchronous Event.
    pub fn log_read(&mut self, lid: u8) {
        self.masked.retain(|event| event.log != lid);
    }

    /// Takes a request away, for Abort; whether it was there.
    pub fn cancel(&mut self, cid: u16) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|c| *c != cid);
        self.waiting.len() != before
    }

    /// The controller was disabled.
    pub fn reset(&mut self, config: u32) {
        *self = Self::new(config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_masked_until_its_log_is_read() {
        let mut aer = Aer::new(OAES_IO);
        assert_eq!(aer.raise(AsyncEvent::ANA_CHANGED), None);
        assert_eq!(aer.raise(AsyncEvent::ANA_CHANGED), None);
        assert_eq!(aer.request(1), Ok(Some((1, 0x0c_03_02))));
        assert_eq!(aer.request(2), Ok(None), "raised twice, reported once");
        assert_eq!(aer.raise(AsyncEvent::ANA_CHANGED), None, "masked");
        aer.log_read(0x04);
        assert_eq!(aer.raise(AsyncEvent::ANA_CHANGED), None, "another log was read");
        aer.log_read(0x0c);
        assert_eq!(aer.raise(AsyncEvent::ANA_CHANGED), Some((2, 0x0c_03_02)));
        assert_eq!(aer.raise(AsyncEvent::DISCOVERY_CHANGED), None, "off on I/O controllers");
    }

    #[test]
    fn requests_are_limited_and_can_be_cancelled() {
        let mut aer = Aer::new(0);
        for cid in 0..AER_LIMIT as u16 {
            assert_eq!(aer.request(cid), Ok(None));
        }
        assert_eq!(aer.request(9), Err(Status::AER_LIMIT_EXCEEDED.with_dnr()));
        assert_eq!(aer.raise(AsyncEvent::NAMESPACE_CHANGED), None, "off by configuration");
        assert!(aer.cancel(0));
        assert!(!aer.cancel(0));
        assert_eq!(aer.raise(AsyncEvent::PERSISTENT_INTERNAL_ERROR), Some((1, 0x01_03_00)));
    }
}
