//! Admin commands.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use nvme_core::spec::command::{GetLogPage, Identify};
use nvme_core::spec::feature::{APST_ENTRIES, ApstEntry, HostBehavior, NumberOfQueues, fid};
use nvme_core::spec::identify::IDENTIFY_LEN;
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::spec::{Sqe, Status};

use crate::ana::AnaTable;
use crate::config::Limits;
use crate::controller::{Controller, ErrorRecord};
use crate::directory::Directory;
use crate::fabrics::Binding;
use crate::namespace::Namespace;
use crate::subsystem::{State, Subsystem};
use crate::{identify, logs};

/// The table of autonomous power state transitions.
pub(crate) const APST_BYTES: usize = APST_ENTRIES * size_of::<ApstEntry>();

/// What an admin command came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Done, with this result.
    Done(u64),
    /// Done, with data to send. `base` is where the data begins within its page.
    Data { data: Vec<u8>, base: u64 },
    /// Completed later, or not at all, by way of the [`Peer`](crate::controller::Peer).
    Later,
    /// Failed.
    Failed(Status),
}

impl From<Result<Self, Status>> for Outcome {
    fn from(result: Result<Self, Status>) -> Self {
        result.unwrap_or_else(Self::Failed)
    }
}

/// What an admin command can look at and change, the subsystem's lock being held.
pub(crate) struct Admin<'a> {
    pub directory: &'a Directory,
    pub subsystem: &'a Subsystem,
    pub limits: &'a Limits,
    pub namespaces: &'a BTreeMap<u32, Namespace>,
    pub ana: &'a AnaTable,
    pub ctrl: &'a mut Controller,
    /// Our end of the connection.
    pub local_addr: SocketAddr,
}

/// Bytes that the host sends with an admin command; `None` if the command takes none.
pub(crate) fn host_data_len(sqe: &Sqe) -> Option<u32> {
    let setting = AdminOpcode(sqe.opcode) == AdminOpcode::SET_FEATURES;
    match sqe.cdw10.get() as u8 {
        fid::HOST_BEHAVIOR if setting => Some(size_of::<HostBehavior>() as u32),
        fid::AUTONOMOUS_POWER_STATE if setting => Some(APST_BYTES as u32),
        _ => None,
    }
}

/// Carries out an admin command. `len` is the length that the command's SGL gives, `data` what the host sent.
pub(crate) fn execute(
    directory: &Directory,
    binding: &Binding,
    local_addr: SocketAddr,
    sqe: &Sqe,
    len: u32,
    data: &[u8],
) -> Outcome {
    let subsystem = &*binding.subsystem;
    let mut state = subsystem.lock();
    if AdminOpcode(sqe.opcode) == AdminOpcode::CROSS_CONTROLLER_RESET {
        return state.cross_reset(binding.cntlid, sqe);
    }
    let State { limits, namespaces, ana, controllers, .. } = &mut *state;
    let Some(ctrl) = controllers.get_mut(&binding.cntlid).filter(|c| c.is_enabled()) else {
        return Outcome::Failed(Status::SEQUENCE_ERROR.with_dnr());
    };
    let mut admin = Admin { directory, subsystem, limits, namespaces, ana, ctrl, local_addr };
    let outcome = admin.dispatch(sqe, len, data);
    if let Outcome::Failed(status) = outcome {
        let (cid, nsid) = (sqe.cid.get(), sqe.nsid.get());
        admin.ctrl.record_error(ErrorRecord { count: 0, sqid: 0, cid, status, lba: 0, nsid });
    }
    outcome
}

impl Admin<'_> {
    fn dispatch(&mut self, sqe: &Sqe, len: u32, data: &[u8]) -> Outcome {
        let opcode = AdminOpcode(sqe.opcode);
        // a discovery controller knows few commands (NVMe 2.1 §3.1.3.3)
        let io_only = matches!(opcode, AdminOpcode::ABORT);
        if self.ctrl.discovery && io_only {
            return Outcome::Failed(Status::INVALID_OPCODE.with_dnr());
        }
        match opcode {
            AdminOpcode::IDENTIFY => self.identify(sqe, len).into(),
            AdminOpcode::GET_LOG_PAGE => self.log_page(sqe, len).into(),
            AdminOpcode::SET_FEATURES => self.set_features(sqe, data).into(),
            AdminOpcode::GET_FEATURES => self.get_features(sqe, len).into(),
            AdminOpcode::ASYNC_EVENT_REQUEST => match self.ctrl.aer.request(sqe.cid.get()) {
                Ok(answer) => {
                    if let Some((cid, result)) = answer {
                        let cqe = nvme_core::spec::Cqe::new(cid, Status::SUCCESS, result);
                        self.ctrl.admin.complete(cqe);
                    }
                    Outcome::Later
                }
                Err(status) => Outcome::Failed(status),
            },
            AdminOpcode::KEEP_ALIVE => Outcome::Done(0),
            AdminOpcode::ABORT => self.abort(sqe),
            _ => Outcome::Failed(Status::INVALID_OPCODE.with_dnr()),
        }
    }

    fn identify(&mut self, sqe: &Sqe, len: u32) -> Result<Outcome, Status> {
        expect_len(len, IDENTIFY_LEN as u64)?;
        let data = identify::identify(self, Identify::from_sqe(sqe))?;
        Ok(Outcome::Data { data, base: 0 })
    }

    fn log_page(&mut self, sqe: &Sqe, len: u32) -> Result<Outcome, Status> {
        let args = GetLogPage::from_sqe(sqe);
        expect_len(len, args.len)?;
        let page = logs::page(self, &args)?;
        Ok(Outcome::Data { data: logs::cut(&page, &args)?, base: args.offset })
    }

    fn set_features(&mut self, sqe: &Sqe, data: &[u8]) -> Result<Outcome, Status> {
        let value = sqe.cdw11.get();
        let fid = sqe.cdw10.get() as u8;
        let invalid = Status::INVALID_FIELD.with_dnr();
        // nothing survives a reset, so nothing can be saved
        if sqe.cdw10.get() & 1 << 31 != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE.with_dnr());
        }
        match fid {
            fid::KEEP_ALIVE_TIMER => self.ctrl.kato = value,
            fid::ASYNC_EVENT_CONFIG => {
                if value & !self.ctrl.supported_events() != 0 {
                    return Err(invalid);
                }
                self.ctrl.aer.config = value;
            }
            _ if self.ctrl.discovery => return Err(invalid),
            fid::NUMBER_OF_QUEUES => {
                if value & 0xffff == 0xffff || value >> 16 == 0xffff {
                    return Err(invalid);
                }
                return Ok(Outcome::Done(self.queues()));
            }
            fid::ARBITRATION => self.ctrl.arbitration = value,
            fid::HOST_BEHAVIOR => self.ctrl.host_behavior = data.to_vec(),
            fid::POWER_MANAGEMENT => {
                let most = self.limits.power_states.len().max(1);
                if value as usize & 0x1f >= most {
                    return Err(invalid);
                }
                self.ctrl.power_state = value as u8 & 0x1f;
            }
            fid::AUTONOMOUS_POWER_STATE if !self.limits.power_states.is_empty() => {
                self.ctrl.apst = data.to_vec();
                self.ctrl.apst_enabled = value & 1 != 0;
            }
            // the identifier came with Connect, and stays
            fid::HOST_IDENTIFIER => return Err(Status::SEQUENCE_ERROR.with_dnr()),
            _ => return Err(invalid),
        }
        Ok(Outcome::Done(0))
    }

    /// What Number of Queues reports: as Linux's target, what there is, whatever was asked for.
    fn queues(&self) -> u64 {
        NumberOfQueues::pairs(self.limits.queues.into()).to_dword().into()
    }

    fn get_features(&mut self, sqe: &Sqe, len: u32) -> Result<Outcome, Status> {
        let invalid = Status::INVALID_FIELD.with_dnr();
        // only current values are kept
        if sqe.cdw10.get() >> 8 & 0x7 != 0 {
            return Err(invalid);
        }
        let done = match sqe.cdw10.get() as u8 {
            fid::KEEP_ALIVE_TIMER => self.ctrl.kato.into(),
            fid::ASYNC_EVENT_CONFIG => self.ctrl.aer.config.into(),
            _ if self.ctrl.discovery => return Err(invalid),
            fid::NUMBER_OF_QUEUES => self.queues(),
            fid::VOLATILE_WRITE_CACHE => 1,
            fid::POWER_MANAGEMENT => self.ctrl.power_state.into(),
            fid::ARBITRATION => self.ctrl.arbitration.into(),
            fid::HOST_BEHAVIOR => {
                expect_len(len, self.ctrl.host_behavior.len() as u64)?;
                return Ok(Outcome::Data { data: self.ctrl.host_behavior.clone(), base: 0 });
            }
            fid::HOST_IDENTIFIER => {
                // EXHID: only the 128 bit form can be read over fabrics (NVMe 2.1 §5.1.25.1.28)
                if sqe.cdw11.get() & 1 == 0 {
                    return Err(invalid);
                }
                expect_len(len, 16)?;
                return Ok(Outcome::Data { data: self.ctrl.host_id.0.to_vec(), base: 0 });
            }
            _ => return Err(invalid),
        };
        Ok(Outcome::Done(done))
    }

    /// Abort (NVMe 2.1 §5.1.1): an event request here, or a command that a queue holds back.
    fn abort(&mut self, sqe: &Sqe) -> Outcome {
        const NOT_ABORTED: u64 = 1;
        let sqid = sqe.cdw10.get() as u16;
        let cid = (sqe.cdw10.get() >> 16) as u16;
        if sqid == 0 && self.ctrl.aer.cancel(cid) {
            let aborted = nvme_core::spec::Cqe::new(cid, Status::ABORT_REQUESTED, 0);
            self.ctrl.admin.complete(aborted);
            return Outcome::Done(0);
        }
        let queue = if sqid == 0 { Some(&self.ctrl.admin) } else { self.ctrl.queues.get(&sqid) };
        match queue {
            Some(queue) => {
                queue.abort(cid, Arc::clone(&self.ctrl.admin), sqe.cid.get());
                Outcome::Later
            }
            None => Outcome::Done(NOT_ABORTED),
        }
    }
}

/// The SGL must describe just what the command transfers.
fn expect_len(len: u32, expected: u64) -> Result<(), Status> {
    if u64::from(len) == expected {
        Ok(())
    } else {
        Err(Status::SGL_INVALID_DATA_LENGTH.with_dnr())
    }
}
