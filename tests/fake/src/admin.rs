//! Admin and Fabrics commands.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::spec::command::{GetLogPage, Identify};
use nvme_core::spec::fabrics::{ConnectCommand, ConnectResponse, FABRICS_OPCODE, PropertyCommand};
use nvme_core::spec::feature::{NumberOfQueues, fid};
use nvme_core::spec::identify::{
    IdentifyController, IdentifyNamespace, MultiPathCapabilities, NamespaceIds, NamespaceSharing,
    NsidList, cns,
};
use nvme_core::spec::log::{self, AnaLog, ResetState, lid};
use nvme_core::spec::opcode::{AdminOpcode, FabricsType};
use nvme_core::spec::registers::{Cap, Cc, Csts, Version, offset};
use nvme_core::spec::{Sqe, Status};
use nvme_core::transport::Tag;
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use crate::io::fill;
use crate::port::{Abort, Port};
use crate::wire::{InFlight, Link, Wire};

fn ciu(cntlid: u16) -> u8 {
    cntlid as u8 ^ 0x5a
}

pub(crate) fn cirn(cntlid: u16) -> u64 {
    u64::from(cntlid) + 1000
}

pub(crate) fn admin(
    port: &mut Port,
    link: &Link,
    wire: &mut Wire,
    command: &mut InFlight,
    tag: Tag,
) -> Option<(Status, u64)> {
    let sqe = command.sqe;
    let ok = Some((Status::SUCCESS, 0));
    if sqe.opcode == FABRICS_OPCODE {
        return fabrics(port, link, &sqe);
    }
    match AdminOpcode(sqe.opcode) {
        AdminOpcode::IDENTIFY => {
            let args = Identify::from_sqe(&sqe);
            if args.cns == cns::NAMESPACE && port.hold_namespace {
                wire.held.insert(tag);
                return None;
            }
            identify(port, link, command, args)
        }
        AdminOpcode::GET_LOG_PAGE
            if port.hold_log && GetLogPage::from_sqe(&sqe).lid == lid::ANA =>
        {
            wire.held.insert(tag);
            None
        }
        AdminOpcode::GET_LOG_PAGE => log_page(port, command, GetLogPage::from_sqe(&sqe)),
        AdminOpcode::SET_FEATURES if sqe.cdw10.get() as u8 == fid::NUMBER_OF_QUEUES => {
            Some((Status::SUCCESS, NumberOfQueues::pairs(port.granted).to_dword().into()))
        }
        AdminOpcode::ASYNC_EVENT_REQUEST => {
            let result = wire.unsent.pop_first();
            if result.is_none() {
                wire.events.push(tag);
            }
            result.map(|result| (Status::SUCCESS, result))
        }
        AdminOpcode::GET_FEATURES if port.hold_features => {
            wire.held.insert(tag);
            None
        }
        AdminOpcode::ABORT => abort(port, wire, link, &sqe),
        _ => ok,
    }
}

/// Commands are known on this wire by the lower half of their tag.
fn abort(port: &mut Port, wire: &mut Wire, link: &Link, sqe: &Sqe) -> Option<(Status, u64)> {
    const NOT_ABORTED: Option<(Status, u64)> = Some((Status::SUCCESS, 1));
    port.aborts += 1;
    let (qid, cid) = (sqe.cdw10.get() as u16, sqe.cdw10.get() >> 16);
    let take = |wire: &mut Wire| {
        let tag = wire.held.iter().copied().find(|tag| tag & 0xffff == cid)?;
        wire.held.remove(&tag);
        wire.answers.push_back((tag, Status::ABORT_REQUESTED, 0));
        Some((Status::SUCCESS, 0))
    };
    match port.abort {
        Abort::Silent => None,
        Abort::Refuses => NOT_ABORTED,
        Abort::Works if qid == link.qid => take(wire).or(NOT_ABORTED),
        Abort::Works => {
            let same = |l: &&Arc<Link>| l.qid == qid && Arc::ptr_eq(&l.session, &link.session);
            let other = port.links.iter().find(same);
            other.and_then(|other| take(&mut other.lock())).or(NOT_ABORTED)
        }
    }
}

fn fabrics(port: &mut Port, link: &Link, sqe: &Sqe) -> Option<(Status, u64)> {
    let (qid, session) = (link.qid, &link.session);
    match sqe.fabrics_type() {
        Some(FabricsType::CONNECT) => {
            assert_eq!(ConnectCommand::from(*sqe).qid.get(), qid);
            if qid != 0 && port.hold_io_connect {
                return None;
            }
            let response = ConnectResponse {
                cntlid: session.cntlid,
                secure_channel_required: false,
                authentication_required: false,
            };
            Some((Status::SUCCESS, response.to_result()))
        }
        Some(FabricsType::PROPERTY_GET) => {
            let value = match PropertyCommand::from(*sqe).ofst.get() as usize {
                offset::CAP => Cap(0).with_mqes(1023).with_to(15).with_css(Cap::CSS_NVM).0,
                offset::VS => Version::new(2, 1, 0).0.into(),
                offset::CC => session.cc.lock().unwrap().0.into(),
                offset::CSTS => {
                    let cc = *session.cc.lock().unwrap();
                    let over = cc.shn() != 0 && !port.slow_shutdown;
                    session.told_shut_down.store(over, Ordering::Relaxed);
                    let shst = if over { Csts::SHST_COMPLETE } else { Csts::SHST_NORMAL };
                    Csts(0).with_rdy(cc.en()).with_shst(shst).0.into()
                }
                _ => 0,
            };
            Some((Status::SUCCESS, value))
        }
        Some(FabricsType::PROPERTY_SET) => {
            let command = PropertyCommand::from(*sqe);
            if command.ofst.get() as usize == offset::CC {
                *session.cc.lock().unwrap() = Cc(command.value.get() as u32);
            }
            Some((Status::SUCCESS, 0))
        }
        other => panic!("fabrics command {other:?}"),
    }
}

pub(crate) fn identify(
    port: &mut Port,
    link: &Link,
    command: &mut InFlight,
    args: Identify,
) -> Option<(Status, u64)> {
    let ns = port.namespaces.get(&args.nsid);
    match args.cns {
        cns::CONTROLLER => {
            let mut c = IdentifyController::new_zeroed();
            c.cntlid = link.session.cntlid.into();
            c.set_names("SERIAL1", "Model M", "1.0");
            c.subnqn = Nqn::new(port.subnqn).unwrap().to_field();
            c.kas = 10.into();
            c.acl = port.acl;
            c.mdts = port.mdts;
            c.ioccsz = (4 + 8192 / 16).into();
            c.iorcsz = 1.into();
            c.sgls = 1.into();
            c.nn = 1024.into();
            c.oaes = (1 << 8 | 1 << 11).into();
            c.lpa = 1 << 2;
            c.cmic = MultiPathCapabilities::MULTIPLE_CONTROLLERS;
            c.cqt = port.cqt.into();
            c.ccrl = port.ccrl;
            if port.ccrl != 0 {
                c.ciu = ciu(link.session.cntlid);
                c.cirn = cirn(link.session.cntlid).into();
                c.oaes = (1 << 8 | 1 << 11 | 1 << 20).into();
            }
            if port.ana.is_some() {
                c.cmic |= MultiPathCapabilities::ANA;
                c.anatt = port.anatt;
                c.nanagrpid = 16.into();
                c.anagrpmax = 16.into();
                c.mnan = 1024.into();
            }
            fill(command, c.as_bytes())
        }
        cns::ACTIVE_NAMESPACES => {
            let after = port.namespaces.keys().copied().filter(|nsid| *nsid > args.nsid);
            let list = NsidList::from_nsids(after);
            fill(command, list.as_bytes())
        }
        cns::NAMESPACE_DESCRIPTORS => match ns {
            Some(ns) => {
                let ids = NamespaceIds { uuid: Some(Uuid(ns.uuid)), ..NamespaceIds::default() };
                fill(command, &ids.encode())
            }
            None => Some((Status::INVALID_NAMESPACE.with_dnr(), 0)),
        },
        cns::NAMESPACE if port.namespace_status.is_some() => {
            port.namespace_status.map(|status| (status, 0))
        }
        cns::NAMESPACE => match ns {
            Some(ns) => {
                let mut id = IdentifyNamespace::new_zeroed();
                id.nsze = ns.blocks.into();
                id.ncap = ns.blocks.into();
                id.lbaf[0].lbads = ns.lbads;
                id.anagrpid = ns.group.into();
                if ns.shared {
                    id.nmic = NamespaceSharing::SHARED;
                }
                fill(command, id.as_bytes())
            }
            None => fill(command, &[0; 4096]),
        },
        _ => Some((Status::INVALID_FIELD.with_dnr(), 0)),
    }
}

pub(crate) fn log_page(
    port: &mut Port,
    command: &mut InFlight,
    args: GetLogPage,
) -> Option<(Status, u64)> {
    match args.lid {
        lid::ANA => {
            port.log_reads += 1;
            let groups = port.ana.clone().unwrap_or_default();
            let of = |group: u32| -> Vec<U32> {
                let in_it = port.namespaces.iter().filter(|(nsid, ns)| {
                    port.moved.get(nsid).copied().unwrap_or(ns.group) == group
                });
                in_it.map(|(nsid, _)| (*nsid).into()).collect()
            };
            let nsids: Vec<Vec<U32>> = groups.keys().map(|group| of(*group)).collect();
            let list = groups.iter().zip(&nsids).map(|((group, state), nsids)| log::AnaGroup {
                grpid: *group,
                chgcnt: port.ana_changes,
                state: log::AnaState(*state),
                nsids,
            });
            let bytes = AnaLog::encode(port.ana_changes, list);
            let from = (args.offset as usize).min(bytes.len());
            fill(command, &bytes[from..])
        }
        lid::CROSS_CONTROLLER_RESET => {
            let entry = |(cntlid, state): (&u16, &ResetState)| {
                log::CrossControllerResetEntry::new(*cntlid, ciu(*cntlid), *state)
            };
            let entries: Vec<_> = port.reset_log.iter().map(entry).collect();
            fill(command, &log::CrossControllerResetLog::encode(&entries))
        }
        lid::CHANGED_NAMESPACES => fill(command, &[0; 4096]),
        _ => Some((Status::INVALID_LOG_PAGE.with_dnr(), 0)),
    }
}
