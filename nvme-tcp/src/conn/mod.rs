//! The protocol of one connection, without a socket and without a clock.
//!
//! A [`Connection`] is driven by whoever owns the stream:
//!
//! - [`Connection::gather`] shows the bytes to send, in order, as slices over headers and over the
//!   requests' own buffers; [`Connection::advance`] says how many of them went out.
//! - [`Connection::read_list`] and [`Connection::read_targets`] show where the next bytes received belong, and
//!   [`Connection::received`] says how many have been put there, checks them and completes commands.
//! - [`Connection::deadline`] and [`Connection::expired`] bound the set-up.
//! - After an error [`Connection::terminate`] prepares the termination request, and
//!   [`Connection::abort`] completes what was in flight.
//!
//! Memory is allocated when the connection is made and not after, apart from the buffer that a
//! thread receives into, which all its connections share ([`Connection::put_aside`]).

mod ahead;
mod check;
mod digest;
mod error;
mod place;
mod quick;
mod receive;
mod rx;
mod slots;
mod tx;

use std::io::{IoSlice, IoSliceMut};

use nvme_core::spec::fabrics::FABRICS_OPCODE;
use nvme_core::spec::tcp::{DigestFlags, IcReq, MAXH2CDATA_MIN, PDA_MAX, PduType, TermReq};
use nvme_core::spec::{Cqe, Sqe, Status};
use nvme_core::time::Instant;
use nvme_core::transport::{Data, RejectReason, Rejected, Sink, Tag};
use zerocopy::IntoBytes;

use ahead::Ahead;
pub use ahead::LIST;
use check::Agreed;
pub use error::ProtocolError;
use quick::Usual;
use rx::{Expect, Rx};
use slots::{Phase, Slots};
use tx::Tx;

/// In-capsule data that every controller takes on the admin queue and for fabrics commands, in bytes
/// (TCP 1.1 §3.3.2.1).
pub const ADMIN_IN_CAPSULE_DATA: usize = 8192;

/// Most R2Ts per command that [`Config::max_r2t`] can ask for.
pub const MAX_R2T_LIMIT: u16 = 256;

/// What a connection asks for and how large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Entries of the submission queue, 2 to 65,535; one fewer commands can be in flight.
    pub entries: u16,
    /// The admin queue takes 8,192 bytes of data in a capsule from the start; an I/O queue only
    /// for fabrics commands, until [`Connection::set_in_capsule_data`].
    pub admin: bool,
    /// Ask for CRC32C digests of headers.
    pub header_digest: bool,
    /// Ask for CRC32C digests of data.
    pub data_digest: bool,
    /// R2Ts that one command may have outstanding, 1 to [`MAX_R2T_LIMIT`].
    pub max_r2t: u16,
    /// Alignment of received data in dwords less one (HPDA), 0 to 31.
    pub hpda: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            entries: 128,
            admin: false,
            header_digest: false,
            data_digest: false,
            max_r2t: 1,
            hpda: 0,
        }
    }
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// ICReq has been prepared or sent, ICResp has not come.
    SettingUp,
    /// Commands flow.
    Ready,
    /// It is over. What [`Connection::gather`] still shows is a termination request.
    Failed,
}

/// The host's end of one NVMe/TCP connection, which is one queue pair.
#[derive(Debug)]
pub struct Connection {
    state: State,
    deadline: Instant,
    asked: DigestFlags,
    agreed: Agreed,
    usual: Usual,
    max_r2t: u16,
    admin: bool,
    in_capsule_data: u32,
    slots: Slots,
    tx: Tx,
    rx: Rx,
    ahead: Ahead,
    draining: Vec<u16>,
    /// The header that broke the protocol: at most 128 bytes, and how many.
    offender: ([u8; 128], u8),
}

impl Connection {
    /// A connection with ICReq ready to be sent. Values out of range are moved into it.
    ///
    /// `deadline` is when [`Connection::expired`] begins to be true unless set-up is done.
    #[must_use]
    pub fn new(config: Config, deadline: Instant) -> Self {
        let capacity = config.entries.clamp(2, u16::MAX) - 1;
        let max_r2t = config.max_r2t.clamp(1, MAX_R2T_LIMIT);
        let hpda = config.hpda.min(PDA_MAX);
        let mut asked = DigestFlags::empty();
        asked.set(DigestFlags::HEADER, config.header_digest);
        asked.set(DigestFlags::DATA, config.data_digest);
        let mut tx = Tx::new();
        tx.push_plain(&[IcReq::new(hpda, asked, u32::from(max_r2t) - 1).as_bytes()]);
        Self {
            state: State::SettingUp,
            deadline,
            asked,
            // Replaced by what ICResp says; until then only the alignment matters.
            agreed: Agreed {
                header_digest: false,
                data_digest: false,
                send_align: 4,
                receive_align: check::alignment(hpda),
                max_h2c_data: MAXH2CDATA_MIN,
            },
            usual: Usual::default(),
            max_r2t,
            admin: config.admin,
            in_capsule_data: 0,
            slots: Slots::new(capacity, max_r2t),
            tx,
            rx: Rx::new(),
            ahead: Ahead::new(capacity),
            draining: Vec::with_capacity(usize::from(capacity)),
            offender: ([0; 128], 0),
        }
    }

    /// Where the connection is in its life.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Commands that can be in flight at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Commands in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.in_use()
    }

    /// The identifier on the wire of the unanswered command that was submitted with `tag`.
    #[must_use]
    pub fn command_id(&self, tag: Tag) -> Option<u16> {
        self.slots.command_id(tag)
    }

    /// When set-up must be done; `None` once it is, or has failed.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (self.state == State::SettingUp).then_some(self.deadline)
    }

    /// Whether set-up has taken longer than allowed.
    #[must_use]
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// Sets how much write data may go inside a command capsule of an I/O queue, in bytes
    /// (IOCCSZ × 16 − 64). For fabrics commands, and on an admin queue, it is always 8,192.
    pub fn set_in_capsule_data(&mut self, bytes: usize) {
        self.in_capsule_data = u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    /// Takes a command. Writes its identifier and data pointer; it is sent by [`Connection::gather`].
    ///
    /// # Errors
    /// [`Rejected`] with the data: no slot free, not ready, more data than a 32-bit length says, or
    /// metadata beside it, which fabrics do not move (`NVMe 2.1 §4.1`, MPTR).
    pub fn submit(&mut self, mut sqe: Sqe, data: Data, tag: Tag) -> Result<(), Rejected> {
        if self.state != State::Ready {
            return Err(Rejected { reason: RejectReason::NotReady, data });
        }
        if data.has_metadata() {
            return Err(Rejected { reason: RejectReason::Metadata, data });
        }
        let Ok(len) = u32::try_from(data.len()) else {
            return Err(Rejected { reason: RejectReason::TooLarge, data });
        };
        if self.slots.is_full() {
            return Err(Rejected { reason: RejectReason::Full, data });
        }
        let limit = if self.admin || sqe.opcode == FABRICS_OPCODE {
            ADMIN_IN_CAPSULE_DATA as u32
        } else {
            self.in_capsule_data
        };
        let in_capsule = matches!(data, Data::Write(_)) && len > 0 && len <= limit;
        tx::set_data_pointer(&mut sqe, len, in_capsule);
        if let Some(index) = self.slots.take(data, tag, len) {
            let slot = self.slots.get_mut(index);
            slot.in_capsule = in_capsule;
            if len > 0 && matches!(slot.data, Data::Read(_)) {
                self.ahead.push(slot.cid);
            }
            if !self.tx.try_stage(&mut self.slots, index, sqe, &self.agreed) {
                self.slots.get_mut(index).sqe = sqe;
                self.slots.queue_send(index);
            }
        }
        Ok(())
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.tx.is_empty() || self.slots.has_sends()
    }

    /// Whether 3 slices are enough for [`Connection::gather`] to show everything that is to be sent.
    #[must_use]
    pub fn is_brief(&self) -> bool {
        self.tx.is_short() && !self.slots.has_sends()
    }

    /// Shows what is to be sent next, front first; returns how many slices of `out` were filled.
    /// `out` should have room for at least 3 slices.
    pub fn gather<'a>(&'a mut self, out: &mut [IoSlice<'a>]) -> usize {
        if self.state == State::Ready {
            self.tx.stage(&mut self.slots, &self.agreed);
        }
        self.tx.gather(&self.slots, out)
    }

    /// Takes note that the first `n` bytes that [`Connection::gather`] showed have been sent.
    pub fn advance(&mut self, n: usize) {
        self.tx.advance(n);
    }

    /// Completes commands that were answered before all of their data had been sent, once it has
    /// been. To be called after [`Connection::advance`].
    pub fn reap(&mut self, sink: &mut dyn Sink) {
        if self.draining.is_empty() {
            return;
        }
        let sent = self.tx.sent();
        let mut i = 0;
        while let Some(&index) = self.draining.get(i) {
            let slot = self.slots.get(index);
            if slot.queued || slot.tx_end > sent {
                i += 1;
                continue;
            }
            self.draining.swap_remove(i);
            let cqe = slot.answer;
            complete(&mut self.slots, index, cqe, sink);
        }
    }

    /// Where the next bytes received belong: first the one slice (a request's buffer; may be empty),
    /// then the other. Both are empty once the connection has failed.
    pub fn read_targets(&mut self) -> (&mut [u8], &mut [u8]) {
        if self.state == State::Failed {
            return (&mut [], &mut []);
        }
        self.ahead.give_back(0, &mut self.slots);
        self.rx.targets(&mut self.slots)
    }

    /// Whether it is worth to ask [`Connection::read_list`].
    #[must_use]
    #[inline]
    pub fn has_list(&self) -> bool {
        self.ahead.is_likely(self.slots.in_use()) && self.state == State::Ready
    }

    /// Where the next bytes received belong, in place of [`Connection::read_targets`], so that small reads that
    /// are answered in the order of their submission are received without a copy: how many slices of `out`,
    /// none of them empty, are to be filled in order. `out` must have room for [`LIST`].
    ///
    /// Zero where that is not to be expected, for example after answers in another order; then
    /// `read_targets` is to be asked.
    pub fn read_list<'a>(&'a mut self, out: &mut [IoSliceMut<'a>]) -> usize {
        self.list(out)
    }

    /// Takes note that `n` bytes have been put where [`Connection::read_list`] or
    /// [`Connection::read_targets`] said, whichever was asked last, and acts on them.
    ///
    /// # Errors
    /// [`ProtocolError`]: the connection is over; go on with [`Connection::terminate`].
    pub fn received(&mut self, n: usize, sink: &mut dyn Sink) -> Result<(), ProtocolError> {
        if self.state == State::Failed {
            return Ok(());
        }
        if self.ahead.is_listed() {
            self.placed(n, sink);
        } else {
            self.ahead.was_general();
            self.rx.filled(n, &self.slots);
        }
        loop {
            while (self.rx.expect == Expect::Header && self.quick(sink)) || self.step(sink)? {}
            self.rx.compact();
            if !self.rx.unspill() {
                return Ok(());
            }
        }
    }

    /// Nothing more is received for now: the thread's next connection that receives gets the staging
    /// buffer of this one, 64 KiB, until then. To be called after each round of
    /// [`read_targets`](Self::read_targets) and [`received`](Self::received); without it each
    /// connection keeps a buffer of its own.
    pub fn put_aside(&mut self) {
        self.rx.put_aside();
    }

    /// Ends the connection: nothing more is taken, no command is sent, and unless the controller
    /// ended it itself a termination request is ready to be sent (TCP 1.1 §3.6.2.4).
    ///
    /// The PDU that is being sent is finished first, so that the controller can make out the next.
    pub fn terminate(&mut self, error: &ProtocolError) {
        self.state = State::Failed;
        self.tx.drop_unsent();
        if let Some((fes, fei)) = error.fatal_error() {
            let (header, len) = &self.offender;
            let copy = header.get(..usize::from(*len)).unwrap_or_default();
            let request = TermReq::new(PduType::H2C_TERM_REQ, fes, fei, *len);
            self.tx.push_plain(&[request.as_bytes(), copy]);
        }
    }

    /// Ends the connection and completes every command in flight as aborted by the host
    /// (NVMe 2.1 §4.2.3.4, SCT 3h SC 71h). No buffer is held after this.
    pub fn abort(&mut self, sink: &mut dyn Sink) {
        self.state = State::Failed;
        self.tx.clear();
        while self.slots.next_send().is_some() {}
        self.draining.clear();
        self.ahead.give_back(0, &mut self.slots);
        for index in 0..self.slots.capacity() as u16 {
            let slot = self.slots.get(index);
            if slot.phase != Phase::Free {
                let cqe = Cqe::new(slot.cid, Status::ABORTED_BY_HOST, 0);
                complete(&mut self.slots, index, cqe, sink);
            }
        }
    }
}

/// Gives a command back to its owner.
fn complete(slots: &mut Slots, index: u16, cqe: Cqe, sink: &mut dyn Sink) {
    let (tag, data) = slots.release(index);
    sink.complete_from(tag, &cqe, data);
    // What the owner did not take, if anything.
    *data = Data::None;
}
