//! What Identify returns (NVMe 2.1 §5.1.13).

use nvme_core::spec::command::Identify;
use nvme_core::spec::identify::{
    AnaCapabilities, ControllerAttributes, ControllerType, IDENTIFY_LEN, IdentifyController,
    IdentifyNamespace, IndependentNamespace, MultiPathCapabilities, NamespaceIds as Descriptors,
    NamespaceSharing, NsidList, OptionalCommands, SglSupport, cns, csi,
};
use nvme_core::spec::log::EffectsLog;
use nvme_core::spec::{NSID_ALL, Status};
use zerocopy::{FromZeros, IntoBytes};

use crate::admin::Admin;
use crate::aer::AER_LIMIT;
use crate::ana::ANA_GROUP_MAX;
use crate::controller::ERROR_LOG_ENTRIES;
use crate::namespace::{Metadata, NSID_MAX, Namespace};

/// Abort commands that may be outstanding, less one.
const ABORT_LIMIT: u8 = 3;
/// Submission entries of 64 bytes, completion entries of 16, required and largest (as powers of two).
const SQES: u8 = 0x66;
const CQES: u8 = 0x44;
/// Granularity of the keep alive timer, in units of 100 ms.
const KEEP_ALIVE_GRANULARITY: u16 = 10;
/// Commands Supported and Effects, and extended data for Get Log Page.
const LOG_PAGE_ATTRIBUTES: u8 = 1 << 1 | 1 << 2;
/// Firmware slot 1 is there, and read only.
const FIRMWARE_SLOTS: u8 = 1 << 1 | 1 << 0;
/// A volatile write cache; Flush goes to one namespace.
const WRITE_CACHE: u8 = 1 << 0;
/// Deallocated blocks read as zeroes, and Write Zeroes deallocates.
const DEALLOCATE_READS_ZEROES: u8 = 1 << 3 | 1;

/// Bytes of Identify data: 4096.
pub(crate) type Page = Vec<u8>;

pub(crate) fn identify(admin: &Admin<'_>, args: Identify) -> Result<Page, Status> {
    let invalid = Status::INVALID_FIELD.with_dnr();
    if admin.ctrl.discovery && args.cns != cns::CONTROLLER {
        return Err(invalid);
    }
    match args.cns {
        cns::CONTROLLER => Ok(controller(admin).as_bytes().to_vec()),
        cns::NAMESPACE => namespace(admin, args.nsid),
        cns::ACTIVE_NAMESPACES => list(admin, args.nsid),
        cns::NAMESPACE_DESCRIPTORS => descriptors(admin, args.nsid),
        cns::INDEPENDENT_NAMESPACE => independent(admin, args.nsid),
        cns::CSI_NAMESPACE | cns::CSI_CONTROLLER | cns::CSI_ACTIVE_NAMESPACES
            if args.csi != csi::NVM =>
        {
            Err(invalid)
        }
        cns::CSI_NAMESPACE => {
            find(admin, args.nsid)?;
            Ok(zeroes())
        }
        // no limits of the NVM command set's own: VSL, WZSL and DMRL are zero
        cns::CSI_CONTROLLER => Ok(zeroes()),
        cns::CSI_ACTIVE_NAMESPACES => list(admin, args.nsid),
        cns::COMMAND_SETS => {
            let mut page = zeroes();
            page[0] = 1 << csi::NVM;
            Ok(page)
        }
        _ => Err(invalid),
    }
}

fn zeroes() -> Page {
    vec![0; IDENTIFY_LEN]
}

fn controller(admin: &Admin<'_>) -> IdentifyController {
    let limits = admin.limits;
    let ctrl = &admin.ctrl;
    let mut id = IdentifyController::new_zeroed();
    id.set_names(&limits.serial, &limits.model, &limits.firmware);
    id.rab = 6;
    id.mdts = limits.mdts;
    id.cntlid = ctrl.cntlid.into();
    id.ver = limits.version.into();
    id.oaes = ctrl.supported_events().into();
    let mut attributes = ControllerAttributes::HOST_ID_128;
    attributes |= ControllerAttributes::TRAFFIC_BASED_KEEP_ALIVE;
    id.ctratt = attributes.bits().into();
    id.aerl = AER_LIMIT as u8 - 1;
    id.lpa = LOG_PAGE_ATTRIBUTES;
    id.elpe = (ERROR_LOG_ENTRIES - 1) as u8;
    id.kas = KEEP_ALIVE_GRANULARITY.into();
    id.maxcmd = limits.queue_entries.into();
    let sgls = SglSupport::BYTE_ALIGNED | SglSupport::OFFSET;
    id.sgls = sgls.bits().into();
    id.subnqn = admin.subsystem.nqn().to_field();
    id.msdbd = 1;
    for (to, from) in id.crdt.iter_mut().zip(limits.retry_delays) {
        *to = from.into();
    }
    if ctrl.discovery {
        id.cntrltype = ControllerType::DISCOVERY;
        return id;
    }

    id.cntrltype = ControllerType::IO;
    id.cqt = (limits.quiesce_time.as_millis() as u16).into();
    if ctrl.cross_resets != 0 {
        id.ciu = ctrl.instance.ciu;
        id.cirn = ctrl.instance.cirn.into();
        id.ccrl = ctrl.cross_resets;
    }
    id.cmic = MultiPathCapabilities::MULTIPLE_PORTS
        | MultiPathCapabilities::MULTIPLE_CONTROLLERS
        | MultiPathCapabilities::ANA;
    id.anacap = AnaCapabilities::OPTIMIZED
        | AnaCapabilities::NON_OPTIMIZED
        | AnaCapabilities::INACCESSIBLE
        | AnaCapabilities::PERSISTENT_LOSS
        | AnaCapabilities::CHANGE;
    id.psd[0].mp = 2500.into();
    for (to, from) in id.psd.iter_mut().zip(&limits.power_states) {
        to.mp = from.power.into();
        to.flags = u8::from(from.non_operational) << 1;
        (to.enlat, to.exlat) = (from.entry_us.into(), from.exit_us.into());
    }
    if !limits.power_states.is_empty() {
        id.npss = (limits.power_states.len() - 1) as u8;
        id.apsta = 1;
    }
    id.anatt = limits.ana_transition;
    id.anagrpmax = ANA_GROUP_MAX.into();
    id.nanagrpid = ANA_GROUP_MAX.into();
    id.acl = ABORT_LIMIT;
    id.frmw = FIRMWARE_SLOTS;
    id.sqes = SQES;
    id.cqes = CQES;
    id.nn = NSID_MAX.into();
    id.mnan = NSID_MAX.into();
    let commands = OptionalCommands::COMPARE
        | OptionalCommands::DATASET_MANAGEMENT
        | OptionalCommands::WRITE_ZEROES;
    id.oncs = commands.bits().into();
    id.vwc = WRITE_CACHE;
    id.ioccsz = ((64 + limits.in_capsule) / 16).into();
    id.iorcsz = 1.into();
    id
}

/// The namespace, if the host may see it.
fn find<'a>(admin: &Admin<'a>, nsid: u32) -> Result<&'a Namespace, Status> {
    let invalid = Status::INVALID_NAMESPACE.with_dnr();
    admin.namespaces.get(&nsid).filter(|ns| ns.enabled).ok_or(invalid)
}

/// CNS 00h. A namespace that is not active is all zeroes (NVMe 2.1 §5.1.13.2.1).
fn namespace(admin: &Admin<'_>, nsid: u32) -> Result<Page, Status> {
    if nsid == 0 || nsid > NSID_MAX && nsid != NSID_ALL {
        return Err(Status::INVALID_NAMESPACE.with_dnr());
    }
    let mut id = IdentifyNamespace::new_zeroed();
    if let Ok(ns) = find(admin, nsid) {
        id.nsze = ns.blocks.into();
        id.ncap = ns.blocks.into();
        id.nuse = ns.blocks.into();
        id.nmic = NamespaceSharing::SHARED;
        id.dlfeat = DEALLOCATE_READS_ZEROES;
        id.anagrpid = ns.ana_group.into();
        id.nguid = ns.ids.nguid;
        id.eui64 = ns.ids.eui64;
        id.lbaf[0].lbads = ns.block_shift as u8;
        id.lbaf[0].ms = ns.metadata.bytes().into();
        // Metadata capabilities: bit 0 after the data, bit 1 beside it (NVM 1.1 §4.1.5.1).
        id.mc = match ns.metadata {
            Metadata::None => 0,
            Metadata::Extended(_) => 1,
            Metadata::Separate(_) => 2,
        };
        id.flbas = u8::from(matches!(ns.metadata, Metadata::Extended(_))) << 4;
        id.nvmcap = (u128::from(ns.blocks) << ns.block_shift).into();
    }
    Ok(id.as_bytes().to_vec())
}

/// CNS 02h and 07h: the active namespaces above `after`.
fn list(admin: &Admin<'_>, after: u32) -> Result<Page, Status> {
    // NVMe 2.1 §5.1.13.2.2: these have nothing above them
    if after >= NSID_ALL - 1 {
        return Err(Status::INVALID_NAMESPACE.with_dnr());
    }
    let active = admin.namespaces.range(after + 1..).filter(|(_, ns)| ns.enabled);
    Ok(NsidList::from_nsids(active.map(|(nsid, _)| *nsid)).as_bytes().to_vec())
}

/// CNS 03h.
fn descriptors(admin: &Admin<'_>, nsid: u32) -> Result<Page, Status> {
    let ids = find(admin, nsid)?.ids;
    let descriptors = Descriptors {
        eui64: Some(ids.eui64).filter(|id| !id.is_nil()),
        nguid: Some(ids.nguid).filter(|id| !id.is_nil()),
        uuid: Some(ids.uuid).filter(|id| !id.is_nil()),
        csi: Some(csi::NVM),
    };
    Ok(descriptors.encode().to_vec())
}

/// CNS 08h.
fn independent(admin: &Admin<'_>, nsid: u32) -> Result<Page, Status> {
    let ns = find(admin, nsid)?;
    let mut id = IndependentNamespace::new_zeroed();
    id.nmic = NamespaceSharing::SHARED;
    id.anagrpid = ns.ana_group.into();
    id.nstat = 1;
    Ok(id.as_bytes().to_vec())
}

/// The commands that the target carries out, for the effects log page.
pub(crate) fn effects(cross_resets: bool) -> EffectsLog {
    use nvme_core::spec::log::{CommandEffects, Effects};
    use nvme_core::spec::opcode::{AdminOpcode, NvmOpcode};

    let mut log = EffectsLog::new_zeroed();
    let supported = CommandEffects(Effects::SUPPORTED.bits().into());
    let writes = CommandEffects((Effects::SUPPORTED | Effects::CONTENT_CHANGE).bits().into());
    for opcode in [
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::IDENTIFY,
        AdminOpcode::ABORT,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::ASYNC_EVENT_REQUEST,
        AdminOpcode::KEEP_ALIVE,
    ] {
        log.admin[usize::from(opcode.0)] = supported;
    }
    if cross_resets {
        log.admin[usize::from(AdminOpcode::CROSS_CONTROLLER_RESET.0)] = supported;
    }
    for opcode in [NvmOpcode::READ, NvmOpcode::FLUSH, NvmOpcode::COMPARE] {
        log.io[usize::from(opcode.0)] = supported;
    }
    for opcode in [NvmOpcode::WRITE, NvmOpcode::WRITE_ZEROES, NvmOpcode::DATASET_MANAGEMENT] {
        log.io[usize::from(opcode.0)] = writes;
    }
    log
}
