//! Connect, and access to controller properties (NVMe 2.1 §6).

use std::collections::btree_map::Entry;
use std::mem::offset_of;
use std::sync::Arc;
use std::time::Instant;

use nvme_core::nqn::Nqn;
use nvme_core::spec::fabrics::{
    CNTLID_DYNAMIC, ConnectAttributes, ConnectCommand, ConnectData, ConnectInvalidParameter,
    ConnectResponse, PropertyCommand, PropertySize, property,
};
use nvme_core::spec::opcode::FabricsType;
use nvme_core::spec::{Sqe, Status};

use crate::controller::{Controller, NewController, Peer, Shared};
use crate::cross_reset::Instance;
use crate::directory::Directory;
use crate::io::TRANSFER_MAX;
use crate::logs::ADMIN_QUEUE_ENTRIES;
use crate::namespace::IoView;
use crate::subsystem::{State, Subsystem};

/// Property and CAP values that do not depend on the configuration.
mod cap {
    /// Worst case time to become ready, in units of 500 ms.
    pub const TIMEOUT: u64 = 15;
    /// NVM command set, and command sets chosen by Identify I/O Command Set.
    pub const CSS: u64 = 1 << 37 | 1 << 43;
}

/// A queue that Connect has made.
#[derive(Debug)]
pub(crate) struct Binding {
    pub subsystem: Arc<Subsystem>,
    pub cntlid: u16,
    pub qid: u16,
    /// Entries of the submission queue.
    pub entries: u32,
    /// SQHD is kept.
    pub flow_control: bool,
    pub shared: Arc<Shared>,
    pub view: Arc<IoView>,
    /// Largest transfer in bytes.
    pub max_transfer: u64,
    /// Bytes of data that a command capsule may carry.
    pub in_capsule: u32,
}

/// Data of a command capsule on the admin queue at most (TCP 1.1 §3.5).
pub(crate) const ADMIN_IN_CAPSULE: u32 = 8192;

/// A command that failed, with what its result says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: Status,
    pub result: u64,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { status, result: 0 }
    }
}

impl Refusal {
    fn invalid(offset: usize, in_data: bool) -> Self {
        let parameter = ConnectInvalidParameter { offset: offset as u16, in_data };
        Self {
            status: Status::CONNECT_INVALID_PARAMETERS.with_dnr(),
            result: parameter.to_result(),
        }
    }

    fn command_field(offset: usize) -> Self {
        Self::invalid(offset, false)
    }

    fn data_field(offset: usize) -> Self {
        Self::invalid(offset, true)
    }
}

/// The connection that a Connect came in through.
pub(crate) struct Arrival {
    pub listener: usize,
    pub peer: Arc<dyn Peer>,
    pub now: Instant,
}

/// Carries out a Connect (NVMe 2.1 §6.3).
pub(crate) fn connect(
    directory: &Directory,
    command: &ConnectCommand,
    data: &ConnectData,
    from: Arrival,
) -> Result<(Binding, ConnectResponse), Refusal> {
    if command.recfmt.get() != 0 {
        return Err(Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr().into());
    }
    let bad_subsystem = || Refusal::data_field(offset_of!(ConnectData, subnqn));
    let nqn = Nqn::from_field(&data.subnqn).map_err(|_| bad_subsystem())?;
    let host = Nqn::from_field(&data.hostnqn)
        .map_err(|_| Refusal::data_field(offset_of!(ConnectData, hostnqn)))?;
    let subsystem = directory.subsystem(&nqn).ok_or_else(bad_subsystem)?;

    let listener = from.listener;
    let mut state = subsystem.lock();
    if state.limits.hosts.as_ref().is_some_and(|hosts| !hosts.contains(&host)) {
        return Err(Refusal {
            status: Status::CONNECT_INVALID_HOST.with_dnr(),
            result: Refusal::data_field(offset_of!(ConnectData, hostnqn)).result,
        });
    }
    let sqsize = command.sqsize.get();
    // CAP.MQES limits I/O queues; the admin queue has the limit that the discovery log tells.
    let entries = match command.qid.get() {
        0 => state.limits.queue_entries.max(ADMIN_QUEUE_ENTRIES),
        _ => state.limits.queue_entries,
    };
    if sqsize == 0 || sqsize >= entries {
        return Err(Refusal::command_field(offset_of!(ConnectCommand, sqsize)));
    }
    let (cntlid, shared) = if command.qid.get() == 0 {
        connect_admin(&mut state, command, data, host, from, subsystem.is_discovery())?
    } else {
        connect_io(&mut state, command, data, &host, from)?
    };
    shared.opened();
    let max_transfer = match state.limits.mdts {
        0 => TRANSFER_MAX,
        mdts => 4096 << mdts,
    };
    let in_capsule =
        if command.qid.get() == 0 { ADMIN_IN_CAPSULE } else { state.limits.in_capsule };
    drop(state);
    let binding = Binding {
        view: subsystem.view(listener),
        subsystem,
        cntlid,
        qid: command.qid.get(),
        entries: u32::from(sqsize) + 1,
        flow_control: !command.cattr.contains(ConnectAttributes::DISABLE_SQ_FLOW_CONTROL),
        shared,
        max_transfer,
        in_capsule,
    };
    let response =
        ConnectResponse { cntlid, secure_channel_required: false, authentication_required: false };
    Ok((binding, response))
}

fn connect_admin(
    state: &mut State,
    command: &ConnectCommand,
    data: &ConnectData,
    host_nqn: Nqn,
    from: Arrival,
    discovery: bool,
) -> Result<(u16, Arc<Shared>), Refusal> {
    // the subsystem hands out controllers as they are asked for; no host can choose one
    if data.cntlid.get() != CNTLID_DYNAMIC {
        return Err(Refusal::data_field(offset_of!(ConnectData, cntlid)));
    }
    if state.controllers.len() >= state.limits.controllers {
        return Err(Status::CONNECT_CONTROLLER_BUSY.into());
    }
    let cntlid = state.free_cntlid().ok_or(Status::CONNECT_CONTROLLER_BUSY)?;
    state.lives += 1;
    let controller = Controller::new(NewController {
        cntlid,
        instance: Instance::new(cntlid, state.lives, state.limits.instance_seed),
        discovery,
        listener: from.listener,
        host_nqn,
        host_id: data.hostid,
        kato: command.kato.get(),
        admin: from.peer,
        cross_resets: state.limits.cross_resets,
        now: from.now,
    });
    let shared = Arc::clone(&controller.shared);
    state.controllers.insert(cntlid, controller);
    Ok((cntlid, shared))
}

fn connect_io(
    state: &mut State,
    command: &ConnectCommand,
    data: &ConnectData,
    host: &Nqn,
    from: Arrival,
) -> Result<(u16, Arc<Shared>), Refusal> {
    let qid = command.qid.get();
    let limit = state.limits.queues;
    let cntlid = data.cntlid.get();
    let Some(ctrl) = state.controllers.get_mut(&cntlid) else {
        return Err(Refusal::data_field(offset_of!(ConnectData, cntlid)));
    };
    if ctrl.host_nqn != *host {
        return Err(Refusal::data_field(offset_of!(ConnectData, hostnqn)));
    }
    if ctrl.host_id != data.hostid {
        return Err(Refusal::data_field(offset_of!(ConnectData, hostid)));
    }
    if qid > limit || ctrl.discovery {
        return Err(Refusal::command_field(offset_of!(ConnectCommand, qid)));
    }
    if !ctrl.is_enabled() {
        return Err(Status::SEQUENCE_ERROR.with_dnr().into());
    }
    match ctrl.queues.entry(qid) {
        Entry::Occupied(_) => Err(Status::SEQUENCE_ERROR.with_dnr().into()),
        Entry::Vacant(vacant) => {
            vacant.insert(from.peer);
            Ok((cntlid, Arc::clone(&ctrl.shared)))
        }
    }
}

/// Carries out Property Get and Property Set; the result.
pub(crate) fn property(binding: &Binding, sqe: &Sqe, now: Instant) -> Result<u64, Refusal> {
    let command = PropertyCommand::from(*sqe);
    let mut state = binding.subsystem.lock();
    let State { limits, controllers, .. } = &mut *state;
    let ctrl = controllers.get_mut(&binding.cntlid).ok_or(Status::SEQUENCE_ERROR.with_dnr())?;
    let invalid = Refusal::from(Status::INVALID_FIELD.with_dnr());
    let size = command.size().ok_or(invalid)?;
    let offset = command.ofst.get();
    if command.fctype == FabricsType::PROPERTY_SET {
        if offset != property::CC || size != PropertySize::Four {
            return Err(invalid);
        }
        ctrl.configure(command.value.get() as u32, now);
        return Ok(0);
    }
    match (offset, size) {
        (property::CAP, PropertySize::Eight) => {
            let mqes = u64::from(limits.queue_entries) - 1;
            Ok(cap::CSS | cap::TIMEOUT << 24 | mqes)
        }
        (property::VS, PropertySize::Four) => Ok(limits.version.into()),
        (property::CC, PropertySize::Four) => Ok(ctrl.cc.into()),
        (property::CSTS, PropertySize::Four) => Ok(ctrl.csts.into()),
        _ => Err(invalid),
    }
}
