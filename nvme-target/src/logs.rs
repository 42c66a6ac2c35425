//! Log pages (NVMe 2.1 §5.1.12). Each is made whole and then cut to what was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use nvme_core::spec::Status;
use nvme_core::spec::command::GetLogPage;
use nvme_core::spec::fabrics::CNTLID_DYNAMIC;
use nvme_core::spec::log::{
    AddressFamily, AnaGroup, AnaGroupDescriptor, AnaLog, AnaLogHeader, AnaState as WireAnaState,
    ChangedNamespaceList, DiscoveryEntry, DiscoveryHeader, ErrorLogEntry, FirmwareSlotLog,
    LSP_RETURN_GROUPS_ONLY, SmartLog, SubsystemType, TransportRequirements, TransportType, lid,
};
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use crate::admin::Admin;
use crate::ana::ANA_GROUP_MAX;
use crate::controller::ERROR_LOG_ENTRIES;
use crate::namespace::NSID_MAX;
use crate::{cross_reset, identify};

/// Temperature that the health log reports: 27 °C in kelvin.
const TEMPERATURE: u16 = 300;
/// Entries of an admin submission queue at most, for the discovery log.
pub(crate) const ADMIN_QUEUE_ENTRIES: u16 = 32;

/// The ANA log page with all groups and all namespaces that there can be.
const ANA_LOG_MAX: usize = size_of::<AnaLogHeader>()
    + ANA_GROUP_MAX as usize * size_of::<AnaGroupDescriptor>()
    + NSID_MAX as usize * size_of::<u32>();

/// The page that `args` asks for, from its beginning.
pub(crate) fn page(admin: &mut Admin<'_>, args: &GetLogPage) -> Result<Vec<u8>, Status> {
    let page = if admin.ctrl.discovery {
        match args.lid {
            lid::DISCOVERY => discovery(admin),
            _ => return Err(Status::INVALID_LOG_PAGE.with_dnr()),
        }
    } else {
        match args.lid {
            lid::SUPPORTED_LOG_PAGES => supported(admin.ctrl.cross_resets != 0),
            lid::ERROR => error(admin),
            lid::SMART => smart(admin),
            lid::FIRMWARE_SLOT => firmware_slot(admin),
            lid::CHANGED_NAMESPACES => changed(admin, args),
            lid::EFFECTS => identify::effects(admin.ctrl.cross_resets != 0).as_bytes().to_vec(),
            lid::CROSS_CONTROLLER_RESET if admin.ctrl.cross_resets != 0 => {
                cross_reset::log(admin.ctrl, args.rae)
            }
            lid::ANA => ana(admin, args.lsp & LSP_RETURN_GROUPS_ONLY != 0),
            _ => return Err(Status::INVALID_LOG_PAGE.with_dnr()),
        }
    };
    if !args.rae {
        admin.ctrl.aer.log_read(args.lid);
    }
    Ok(page)
}

/// The part of a page that Get Log Page transfers; what lies past the page's end is zero. An offset past the end is
/// an error (NVMe 2.1 §5.1.12).
pub(crate) fn cut(page: &[u8], args: &GetLogPage) -> Result<Vec<u8>, Status> {
    let invalid = Status::INVALID_FIELD.with_dnr();
    let start = usize::try_from(args.offset).map_err(|_| invalid)?;
    let rest = page.get(start..).filter(|_| start.is_multiple_of(4)).ok_or(invalid)?;
    let len = usize::try_from(args.len).map_err(|_| invalid)?;
    let mut data = vec![0; len];
    let n = len.min(rest.len());
    data[..n].copy_from_slice(&rest[..n]);
    Ok(data)
}

/// Supported log pages: 256 dwords, bit 0 of each says whether there is such a page.
fn supported(cross_resets: bool) -> Vec<u8> {
    let mut page = vec![0; 1024];
    let pages = [
        lid::SUPPORTED_LOG_PAGES,
        lid::ERROR,
        lid::SMART,
        lid::FIRMWARE_SLOT,
        lid::CHANGED_NAMESPACES,
        lid::EFFECTS,
        lid::ANA,
    ];
    for lid in pages.into_iter().chain(cross_resets.then_some(lid::CROSS_CONTROLLER_RESET)) {
        page[usize::from(lid) * 4] = 1;
    }
    page
}

fn error(admin: &Admin<'_>) -> Vec<u8> {
    let mut page = Vec::with_capacity(ERROR_LOG_ENTRIES * size_of::<ErrorLogEntry>());
    for record in &admin.ctrl.errors {
        let mut entry = ErrorLogEntry::new_zeroed();
        entry.error_count = record.count.into();
        entry.sqid = record.sqid.into();
        entry.cid = record.cid.into();
        entry.status = (record.status.raw() << 1).into();
        entry.lba = record.lba.into();
        entry.nsid = record.nsid.into();
        entry.trtype = TransportType::TCP.0;
        page.extend_from_slice(entry.as_bytes());
    }
    page.resize(ERROR_LOG_ENTRIES * size_of::<ErrorLogEntry>(), 0);
    page
}

fn smart(admin: &Admin<'_>) -> Vec<u8> {
    let mut log = SmartLog::new_zeroed();
    log.temperature = TEMPERATURE.into();
    log.available_spare = 100;
    log.spare_threshold = 10;
    log.power_cycles = 1.into();
    log.error_log_entries = u128::from(admin.ctrl.error_count).into();
    log.as_bytes().to_vec()
}

fn firmware_slot(admin: &Admin<'_>) -> Vec<u8> {
    let mut log = FirmwareSlotLog::new_zeroed();
    log.afi = 1;
    let revision = admin.limits.firmware.bytes().chain(std::iter::repeat(b' '));
    for (to, from) in log.revisions[0].iter_mut().zip(revision) {
        *to = from;
    }
    log.as_bytes().to_vec()
}

fn changed(admin: &mut Admin<'_>, args: &GetLogPage) -> Vec<u8> {
    let list = admin.ctrl.changed.list();
    if !args.rae {
        admin.ctrl.changed.clear();
    }
    ChangedNamespaceList::from_nsids(list).as_bytes().to_vec()
}

/// The ANA log page as the controller's listener shows it: the groups that have namespaces or were given a state.
fn ana(admin: &Admin<'_>, groups_only: bool) -> Vec<u8> {
    let listener = admin.ctrl.listener;
    let mut members: BTreeMap<u32, Vec<U32>> = BTreeMap::new();
    for ns in admin.namespaces.values().filter(|ns| ns.enabled) {
        members.entry(ns.ana_group).or_default().push(ns.nsid.into());
    }
    let known: BTreeSet<u32> = members.keys().copied().chain(admin.ana.known(listener)).collect();
    let groups = known.iter().map(|grpid| {
        let group = admin.ana.group(listener, *grpid);
        let nsids = members.get(grpid).filter(|_| !groups_only);
        AnaGroup {
            grpid: *grpid,
            chgcnt: group.changes,
            state: WireAnaState(group.state.code()),
            nsids: nsids.map_or(&[][..], Vec::as_slice),
        }
    });
    let mut page = AnaLog::encode(admin.ana.changes(listener), groups);
    // hosts size the page by what Identify says and may read all of it in parts
    page.resize(page.len().max(ANA_LOG_MAX), 0);
    page
}

/// The discovery log page: every subsystem on every listener that is on.
fn discovery(admin: &Admin<'_>) -> Vec<u8> {
    let listing = admin.directory.listing();
    let header = DiscoveryHeader::new(listing.generation, listing.entries.len() as u64);
    let mut page = header.as_bytes().to_vec();
    for (nqn, listener, addr) in &listing.entries {
        let mut entry = DiscoveryEntry::new_zeroed();
        let reached = reachable(*addr, admin.local_addr);
        entry.trtype = TransportType::TCP;
        entry.adrfam = if reached.is_ipv4() { AddressFamily::IPV4 } else { AddressFamily::IPV6 };
        entry.subtype = SubsystemType::NVM;
        entry.treq =
            TransportRequirements::SECURE_NOT_REQUIRED | TransportRequirements::NO_FLOW_CONTROL;
        entry.portid = (*listener as u16).into();
        entry.cntlid = CNTLID_DYNAMIC.into();
        entry.asqsz = ADMIN_QUEUE_ENTRIES.into();
        entry.subnqn = nqn.to_field();
        entry.set_address(&reached.ip().to_string(), &reached.port().to_string());
        page.extend_from_slice(entry.as_bytes());
    }
    page
}

/// A listener on the wildcard address is reached where the host reached us.
fn reachable(listener: SocketAddr, local: SocketAddr) -> SocketAddr {
    if listener.ip().is_unspecified() {
        SocketAddr::new(local.ip().to_canonical(), listener.port())
    } else {
        listener
    }
}
