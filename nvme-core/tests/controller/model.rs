//! The model: registers, Identify structures and namespaces, as tables that a test changes.

use std::collections::BTreeMap;

use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::spec::command::{GetLogPage, Identify};
use nvme_core::spec::fabrics::{ConnectCommand, ConnectResponse, FABRICS_OPCODE, PropertyCommand};
use nvme_core::spec::feature::{NumberOfQueues, fid};
use nvme_core::spec::identify::{
    IdentifyController, IdentifyNamespace, MultiPathCapabilities, NamespaceIds, NsidList, cns,
};
use nvme_core::spec::log::{self, AnaLog, lid};
use nvme_core::spec::opcode::{AdminOpcode, FabricsType};
use nvme_core::spec::registers::{Cap, Cc, Csts, Version, offset};
use nvme_core::spec::{Sqe, Status};
use nvme_core::transport::{Data, QueueSetup, TransportKind};
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// What a command is answered with.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Nothing yet.
    Silence,
    /// A status and a result.
    Status(Status, u64),
    /// Success with these bytes.
    Bytes(Vec<u8>),
}

impl Answer {
    pub fn error(status: Status) -> Self {
        Self::Status(status, 0)
    }

    pub fn ok() -> Self {
        Self::Status(Status::SUCCESS, 0)
    }
}

#[derive(Clone)]
pub struct Namespace {
    pub ids: NamespaceIds,
    pub ns: IdentifyNamespace,
}

pub struct Model {
    pub kind: TransportKind,
    pub transport_max: Option<usize>,
    pub cap: Cap,
    pub version: Version,
    pub cc: Cc,
    /// How often `CSTS` is read before it is ready after a change of `CC.EN`.
    pub reads_until_ready: u32,
    reads: u32,
    /// `None`: `CSTS` as it should be.
    pub csts: Option<u32>,
    pub cntlid: u16,
    pub connect: Status,
    pub controller: IdentifyController,
    pub granted: u32,
    pub namespaces: BTreeMap<u32, Namespace>,
    /// The ANA log: change count, and groups with state and namespaces.
    pub ana_changes: u64,
    pub ana: Vec<(u32, u8, Vec<u32>)>,
    pub shutdown_asked: bool,
}

impl Model {
    pub fn fabrics() -> Self {
        let mut controller = IdentifyController::new_zeroed();
        controller.cntlid = 9.into();
        controller.set_names("SERIAL1", "Model M", "1.0");
        controller.subnqn = Nqn::new(crate::rig::SUBSYSTEM).unwrap().to_field();
        controller.kas = 10.into();
        controller.ioccsz = (4 + 8192 / 16).into();
        controller.iorcsz = 1.into();
        controller.sgls = 1.into();
        controller.nn = 1024.into();
        controller.oaes = (1 << 8 | 1 << 11).into();
        controller.lpa = 1 << 2;
        controller.rtd3e = 2_000_000.into();
        let mut model = Self {
            kind: TransportKind::Fabrics,
            transport_max: None,
            cap: Cap(0).with_mqes(1023).with_to(15).with_css(Cap::CSS_NVM),
            version: Version::new(2, 1, 0),
            cc: Cc(0),
            reads_until_ready: 1,
            reads: 0,
            csts: None,
            cntlid: 9,
            connect: Status::SUCCESS,
            controller,
            granted: 4,
            namespaces: BTreeMap::new(),
            ana_changes: 1,
            ana: Vec::new(),
            shutdown_asked: false,
        };
        model.add(1);
        model
    }

    pub fn memory() -> Self {
        let mut model = Self { kind: TransportKind::Memory, ..Self::fabrics() };
        model.controller.ioccsz = 0.into();
        model.controller.iorcsz = 0.into();
        model.controller.sgls = 0.into();
        model.controller.kas = 0.into();
        model
    }

    /// One that reports ANA: group 1 optimized, with all namespaces that there are.
    pub fn with_ana(mut self) -> Self {
        self.controller.cmic = MultiPathCapabilities::ANA;
        self.controller.nanagrpid = 128.into();
        self.controller.anagrpmax = 128.into();
        self.controller.mnan = 1024.into();
        self.ana = vec![(1, 1, self.namespaces.keys().copied().collect())];
        self
    }

    pub fn add(&mut self, nsid: u32) -> &mut Namespace {
        let mut uuid = [0x55; 16];
        uuid[..4].copy_from_slice(&nsid.to_be_bytes());
        let ids = NamespaceIds { uuid: Some(Uuid(uuid)), ..NamespaceIds::default() };
        let mut ns = IdentifyNamespace::new_zeroed();
        ns.nsze = 2048.into();
        ns.ncap = 2048.into();
        ns.lbaf[0].lbads = 9;
        ns.anagrpid = 1.into();
        self.namespaces.remove(&nsid);
        self.namespaces.entry(nsid).or_insert(Namespace { ids, ns })
    }

    pub fn reset(&mut self) {
        self.reads = 0;
        if self.kind == TransportKind::Fabrics {
            self.cc = Cc(0);
        }
    }

    pub fn setup(&self, qid: u16) -> QueueSetup {
        crate::rig::setup(self.kind, qid)
    }

    pub fn read_register(&mut self, at: u32, _size: u8) -> u64 {
        match at as usize {
            offset::CAP => self.cap.0,
            offset::VS => self.version.0.into(),
            offset::CC => self.cc.0.into(),
            offset::CSTS => self.status().into(),
            offset::CRTO => 40,
            _ => 0,
        }
    }

    fn status(&mut self) -> u32 {
        if let Some(csts) = self.csts {
            return csts;
        }
        let shst = if self.cc.shn() == 0 { Csts::SHST_NORMAL } else { Csts::SHST_COMPLETE };
        self.reads += 1;
        let settled = self.reads > self.reads_until_ready;
        let ready = (self.cc.en() == 1) == settled;
        Csts(0).with_rdy(ready.into()).with_shst(shst).0
    }

    pub fn write_register(&mut self, at: u32, value: u64) {
        if at as usize == offset::CC {
            let cc = Cc(value as u32);
            if cc.en() != self.cc.en() {
                self.reads = 0;
            }
            self.shutdown_asked |= cc.shn() == Cc::SHN_NORMAL;
            self.cc = cc;
        }
    }

    pub fn answer(&mut self, qid: u16, sqe: &Sqe, data: &Data) -> Answer {
        if sqe.opcode == FABRICS_OPCODE {
            return self.fabrics_command(qid, sqe);
        }
        match AdminOpcode(sqe.opcode) {
            AdminOpcode::IDENTIFY => self.identify(Identify::from_sqe(sqe)),
            AdminOpcode::GET_LOG_PAGE => self.log(GetLogPage::from_sqe(sqe), data),
            AdminOpcode::SET_FEATURES => match sqe.cdw10.get() as u8 {
                fid::NUMBER_OF_QUEUES if self.granted == 0 => {
                    Answer::error(Status::INVALID_FIELD.with_dnr())
                }
                fid::NUMBER_OF_QUEUES => {
                    let dword = NumberOfQueues::pairs(self.granted).to_dword();
                    Answer::Status(Status::SUCCESS, dword.into())
                }
                _ => Answer::ok(),
            },
            AdminOpcode::ASYNC_EVENT_REQUEST => Answer::Silence,
            _ => Answer::ok(),
        }
    }

    fn fabrics_command(&mut self, qid: u16, sqe: &Sqe) -> Answer {
        match sqe.fabrics_type() {
            Some(FabricsType::CONNECT) => {
                assert_eq!(ConnectCommand::from(*sqe).qid.get(), qid);
                let response = ConnectResponse {
                    cntlid: self.cntlid,
                    secure_channel_required: false,
                    authentication_required: false,
                };
                Answer::Status(self.connect, response.to_result())
            }
            Some(FabricsType::PROPERTY_GET) => {
                let command = PropertyCommand::from(*sqe);
                let value = self.read_register(command.ofst.get(), 8);
                Answer::Status(Status::SUCCESS, value)
            }
            Some(FabricsType::PROPERTY_SET) => {
                let command = PropertyCommand::from(*sqe);
                self.write_register(command.ofst.get(), command.value.get());
                Answer::ok()
            }
            other => panic!("fabrics command {other:?}"),
        }
    }

    fn identify(&self, args: Identify) -> Answer {
        let namespace = self.namespaces.get(&args.nsid);
        match args.cns {
            cns::CONTROLLER => Answer::Bytes(self.controller.as_bytes().to_vec()),
            cns::ACTIVE_NAMESPACES => {
                let after = self.namespaces.keys().copied().filter(|nsid| *nsid > args.nsid);
                Answer::Bytes(NsidList::from_nsids(after).as_bytes().to_vec())
            }
            cns::NAMESPACE_DESCRIPTORS => match namespace {
                Some(namespace) => Answer::Bytes(namespace.ids.encode().to_vec()),
                None => Answer::error(Status::INVALID_NAMESPACE.with_dnr()),
            },
            cns::NAMESPACE => match namespace {
                Some(namespace) => Answer::Bytes(namespace.ns.as_bytes().to_vec()),
                None => Answer::Bytes(vec![0; 4096]),
            },
            _ => Answer::error(Status::INVALID_FIELD.with_dnr()),
        }
    }

    pub fn ana_log(&self) -> Vec<u8> {
        let nsids: Vec<Vec<U32>> = self
            .ana
            .iter()
            .map(|(_, _, nsids)| nsids.iter().map(|nsid| (*nsid).into()).collect())
            .collect();
        let groups = self.ana.iter().zip(&nsids).map(|((grpid, state, _), nsids)| log::AnaGroup {
            grpid: *grpid,
            chgcnt: self.ana_changes,
            state: log::AnaState(*state),
            nsids,
        });
        AnaLog::encode(self.ana_changes, groups)
    }

    fn log(&self, args: GetLogPage, data: &Data) -> Answer {
        assert_eq!(args.len, data.len() as u64, "the buffer is as long as the command says");
        match args.lid {
            lid::ANA => {
                let log = self.ana_log();
                let from = (args.offset as usize).min(log.len());
                Answer::Bytes(log[from..].to_vec())
            }
            lid::CHANGED_NAMESPACES => Answer::Bytes(vec![0; 4096]),
            _ => Answer::error(Status::INVALID_LOG_PAGE.with_dnr()),
        }
    }
}
