//! What the controllers are made of: ports that a test changes at will.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

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
use nvme_core::spec::{Cqe, Sqe, Status};
use nvme_core::time::{Clock, Duration, Instant};
use nvme_core::transport::{Data, Tag, TransportError};

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use super::TestClock;

/// What becomes of I/O commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// Answered at once.
    Answer,
    /// Kept until [`World::release`].
    Hold,
    /// Answered at once with this status.
    Fail(Status),
}

/// What becomes of Abort commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// Commands that are held are aborted.
    Works,
    /// Answered with "not aborted".
    Refuses,
    /// Never answered.
    Silent,
}

/// One namespace, as one port shows it.
#[derive(Clone, Debug)]
pub struct Ns {
    pub uuid: [u8; 16],
    pub blocks: u64,
    pub lbads: u8,
    pub shared: bool,
    pub group: u32,
}

impl Ns {
    pub fn new(nsid: u32) -> Self {
        Self { uuid: [nsid as u8; 16], blocks: 2048, lbads: 9, shared: true, group: 1 }
    }
}

/// One controller.
pub struct Port {
    pub up: bool,
    pub namespaces: BTreeMap<u32, Ns>,
    /// ANA state of each group; `None`: the controller has no ANA.
    pub ana: Option<BTreeMap<u32, u8>>,
    pub ana_changes: u64,
    /// Longest transition in seconds (ANATT).
    pub anatt: u8,
    /// I/O queues granted.
    pub granted: u32,
    pub io: Io,
    /// Most bytes that its I/O queues take with one command; nobody is told.
    pub most: usize,
    /// Its queues have descriptors, as a socket's does; answers come within the call that sends.
    pub descriptors: bool,
    /// MDTS, which is kept to: what is larger is refused for good.
    pub mdts: u8,
    /// Command Quiesce Time in milliseconds.
    pub cqt: u16,
    /// Cross-controller resets that the controller takes at once; 0: it and its like know of none.
    pub ccrl: u8,
    /// A reset is not done at once: the log and an event tell of it when the test says so.
    pub slow_reset: bool,
    /// What the reset log says of each controller.
    pub reset_log: BTreeMap<u16, ResetState>,
    /// Writes whose connection has died, with the controller that may still execute them.
    pub late: Vec<(u16, Instant, InFlight)>,
    pub abort: Abort,
    /// Abort Command Limit, a number less one.
    pub acl: u8,
    /// Abort commands that came.
    pub aborts: u32,
    /// Admin passthrough (Get Features) is not answered.
    pub hold_features: bool,
    /// Reads return this byte, over and over.
    pub content: u8,
    /// Connects of I/O queues are not answered.
    pub hold_io_connect: bool,
    /// The end of a shutdown is not told.
    pub slow_shutdown: bool,
    /// NQN of the subsystem that it says it is of.
    pub subnqn: &'static str,
    /// What Identify Namespace is answered with instead of the namespace.
    pub namespace_status: Option<Status>,
    /// Identify Namespace is not answered until [`World::release_identify`].
    pub hold_namespace: bool,
    /// The ANA log is not sent until [`World::release_log`].
    pub hold_log: bool,
    /// Groups of namespaces by the log, where that is another than Identify Namespace says.
    pub moved: BTreeMap<u32, u32>,
    /// Commands executed, as (NSID, opcode, SLBA, user byte).
    pub executed: Vec<(u32, u8, u64, u8)>,
    pub links: Vec<Arc<Link>>,
    /// Every queue that was ever opened and may still be held by somebody.
    pub all: Vec<Arc<Link>>,
    pub attempts: u32,
    pub log_reads: u32,
}

impl Port {
    fn new() -> Self {
        Self {
            up: true,
            namespaces: BTreeMap::from([(1, Ns::new(1))]),
            ana: None,
            ana_changes: 1,
            anatt: 0,
            granted: 16,
            io: Io::Answer,
            most: usize::MAX,
            descriptors: false,
            mdts: 0,
            cqt: 0,
            ccrl: 0,
            slow_reset: false,
            reset_log: BTreeMap::new(),
            late: Vec::new(),
            abort: Abort::Works,
            acl: 3,
            aborts: 0,
            hold_features: false,
            content: 0,
            hold_io_connect: false,
            slow_shutdown: false,
            subnqn: super::SUBSYSTEM,
            namespace_status: None,
            hold_namespace: false,
            hold_log: false,
            moved: BTreeMap::new(),
            executed: Vec::new(),
            links: Vec::new(),
            all: Vec::new(),
            attempts: 0,
            log_reads: 0,
        }
    }

    /// Queues, dead ones included, that the library has not dropped.
    pub fn queues_not_dropped(&mut self) -> usize {
        self.all.retain(|link| !link.lock().dropped);
        self.all.len()
    }
}

/// A command that a queue holds.
pub struct InFlight {
    pub sqe: Sqe,
    pub data: Data,
}

/// The state of one queue, seen from both ends.
#[derive(Default)]
pub struct Wire {
    pub dead: Option<TransportError>,
    pub dead_since: Instant,
    pub told_dead: bool,
    pub in_flight: BTreeMap<Tag, InFlight>,
    pub answers: VecDeque<(Tag, Status, u64)>,
    pub held: BTreeSet<Tag>,
    pub events: Vec<Tag>,
    /// Events for which no request was there.
    pub unsent: BTreeSet<u64>,
    pub dropped: bool,
}

/// What the controller of one association has of its own.
pub struct Session {
    pub cntlid: u16,
    cc: Mutex<Cc>,
    told_shut_down: AtomicBool,
}

/// One queue.
pub struct Link {
    pub session: Arc<Session>,
    pub qid: u16,
    pub wire: Mutex<Wire>,
    clock: Arc<TestClock>,
}

impl Link {
    pub fn lock(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap()
    }

    pub fn cut(&self, why: TransportError) {
        let mut wire = self.lock();
        if wire.dead.is_none() {
            wire.dead = Some(why);
            wire.dead_since = self.clock.now();
        }
    }
}

/// All ports.
pub struct World {
    sessions: AtomicU16,
    clock: Arc<TestClock>,
    /// Times that a queue was asked when it is to be polled.
    pub asked: AtomicUsize,
    /// Controllers that others have reset.
    reset: Mutex<BTreeSet<u16>>,
    ports: Mutex<BTreeMap<String, Port>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl World {
    pub fn new() -> Arc<Self> {
        Self::at(&TestClock::new())
    }

    /// One whose time is that of a clock.
    pub fn at(clock: &Arc<TestClock>) -> Arc<Self> {
        let clock = Arc::clone(clock);
        Arc::new(Self {
            sessions: AtomicU16::new(1),
            clock,
            asked: AtomicUsize::new(0),
            reset: Mutex::default(),
            ports: Mutex::default(),
        })
    }

    /// Looks at a port, or changes it. It is there from the first look on.
    pub fn port<R>(&self, name: &str, f: impl FnOnce(&mut Port) -> R) -> R {
        f(self.ports.lock().unwrap().entry(name.to_owned()).or_insert_with(Port::new))
    }

    pub fn lost(name: &str) -> TransportError {
        TransportError::Lost { address: format!("fake://{name}"), reason: "pulled".into() }
    }

    /// Cuts all queues of a port and lets nobody in.
    pub fn pull(&self, name: &str) {
        self.port(name, |port| {
            port.up = false;
            port.links.drain(..).for_each(|link| link.cut(Self::lost(name)));
        });
    }

    /// Cuts one queue alone.
    pub fn cut(&self, name: &str, qid: u16) {
        self.port(name, |port| {
            let is = |link: &&Arc<Link>| link.qid == qid && link.lock().dead.is_none();
            if let Some(link) = port.links.iter().rev().find(is) {
                link.cut(Self::lost(name));
            }
        });
    }

    pub fn plug(&self, name: &str) {
        self.port(name, |port| port.up = true);
    }

    /// Answers an outstanding event request.
    fn event(port: &mut Port, result: u64) {
        for link in port.links.iter().filter(|link| link.qid == 0) {
            let mut wire = link.lock();
            match wire.events.pop() {
                Some(tag) => wire.answers.push_back((tag, Status::SUCCESS, result)),
                None => _ = wire.unsent.insert(result),
            }
        }
    }

    /// Changes the namespaces and says so.
    pub fn namespaces(&self, name: &str, change: impl FnOnce(&mut BTreeMap<u32, Ns>)) {
        self.port(name, |port| {
            change(&mut port.namespaces);
            Self::event(port, 0x0004_0002);
        });
    }

    /// Sets an ANA group's state, and says so.
    pub fn ana(&self, name: &str, group: u32, state: u8) {
        self.port(name, |port| {
            port.ana.get_or_insert_default().insert(group, state);
            port.ana_changes += 1;
            Self::event(port, 0x000c_0302);
        });
    }

    /// I/O commands held.
    pub fn held(&self, name: &str) -> usize {
        self.port(name, |port| port.links.iter().map(|l| l.lock().held.len()).sum())
    }

    /// Answers all I/O commands that are held.
    pub fn release(&self, name: &str, status: Status) {
        self.port(name, |port| {
            for link in port.links.clone() {
                let mut wire = link.lock();
                for tag in std::mem::take(&mut wire.held) {
                    if let Some(command) =
                        wire.in_flight.get_mut(&tag).filter(|_| status.is_success())
                    {
                        execute(port, command);
                    }
                    wire.answers.push_back((tag, status, 0));
                }
            }
        });
    }

    /// Answers the Identify Namespace commands that are held, and holds no more.
    pub fn release_identify(&self, name: &str) {
        self.port(name, |port| {
            port.hold_namespace = false;
            for link in port.links.clone().into_iter().filter(|link| link.qid == 0) {
                let mut wire = link.lock();
                for tag in std::mem::take(&mut wire.held) {
                    let Some(command) = wire.in_flight.get_mut(&tag) else { continue };
                    let args = Identify::from_sqe(&command.sqe);
                    if let Some((status, result)) = identify(port, &link, command, args) {
                        wire.answers.push_back((tag, status, result));
                    }
                }
            }
        });
    }

    /// Sends the ANA logs that are held, and holds no more.
    pub fn release_log(&self, name: &str) {
        self.port(name, |port| {
            port.hold_log = false;
            for link in port.links.clone().into_iter().filter(|link| link.qid == 0) {
                let mut wire = link.lock();
                for tag in std::mem::take(&mut wire.held) {
                    let Some(command) = wire.in_flight.get_mut(&tag) else { continue };
                    let args = GetLogPage::from_sqe(&command.sqe);
                    if let Some((status, result)) = log_page(port, command, args) {
                        wire.answers.push_back((tag, status, result));
                    }
                }
            }
        });
    }

    /// Cuts all queues of a port as a device does that is taken away.
    pub fn take_away(&self, name: &str) {
        self.port(name, |port| {
            port.up = false;
            let gone = TransportError::Gone { address: name.into(), reason: "taken away".into() };
            port.links.drain(..).for_each(|link| link.cut(gone.clone()));
        });
    }

    /// Takes a Cross-Controller Reset. The other controller may be at any port.
    fn cross_reset(&self, name: &str, link: &Link, sqe: Sqe, tag: Tag) {
        let cntlid = sqe.cdw10.get() as u16;
        assert_eq!(u64::from(sqe.cdw12.get()), cirn(cntlid), "the instance that it was");
        let slow = self.port(name, |port| port.slow_reset);
        let state = if slow { ResetState::IN_PROGRESS } else { ResetState::SUCCESS };
        self.port(name, |port| _ = port.reset_log.insert(cntlid, state));
        if !slow {
            self.forget_late(cntlid);
        }
        let mut wire = link.lock();
        wire.in_flight.insert(tag, InFlight { sqe, data: Data::None });
        wire.answers.push_back((tag, Status::SUCCESS, u64::from(!slow)));
    }

    /// A controller is reset: it executes nothing any more.
    fn forget_late(&self, cntlid: u16) {
        self.reset.lock().unwrap().insert(cntlid);
        let mut ports = self.ports.lock().unwrap();
        ports.values_mut().for_each(|port| port.late.retain(|(of, ..)| *of != cntlid));
    }

    /// Ends the slow resets that a port was asked for, and says so.
    pub fn finish_resets(&self, name: &str, state: ResetState) {
        let under_way = self.port(name, |port| {
            let mut done = Vec::new();
            for (cntlid, s) in port.reset_log.iter_mut().filter(|(_, s)| **s != state) {
                *s = state;
                done.push(*cntlid);
            }
            done
        });
        if state == ResetState::SUCCESS {
            under_way.into_iter().for_each(|cntlid| self.forget_late(cntlid));
        }
        self.port(name, |port| Self::event(port, 0x001e_f402));
    }

    /// Keeps the writes that a dead queue has and that were not executed.
    pub fn bury(&self, name: &str, link: &Link) {
        if link.lock().dead.is_none() {
            return;
        }
        self.port(name, |port| {
            // One that has said that it is shut down, or was reset, executes nothing.
            let reset = self.reset.lock().unwrap().contains(&link.session.cntlid);
            if reset || link.session.told_shut_down.load(Ordering::Relaxed) {
                return;
            }
            let mut wire = link.lock();
            for tag in std::mem::take(&mut wire.held) {
                let Some(InFlight { sqe, data: Data::Write(b) }) = wire.in_flight.get(&tag) else {
                    continue;
                };
                let data = Data::Write(b.as_slice().to_vec().into());
                let command = InFlight { sqe: *sqe, data };
                port.late.push((link.session.cntlid, wire.dead_since, command));
            }
        });
    }

    /// Executes the writes whose connections have died. Their user bytes.
    pub fn execute_late(&self, name: &str) -> Vec<u8> {
        let executed = self.execute_late_within(name, Duration::MAX);
        executed.into_iter().map(|e| e.3).collect()
    }

    /// Executes those of them whose connections have died less than that ago, and drops the others.
    pub fn execute_late_within(&self, name: &str, time: Duration) -> Vec<(u32, u8, u64, u8)> {
        let now = self.clock.now();
        self.port(name, |port| {
            let mut late = std::mem::take(&mut port.late);
            let from = port.executed.len();
            for (_, since, command) in &mut late {
                if now.saturating_since(*since) < time {
                    execute(port, command);
                }
            }
            port.executed[from..].to_vec()
        })
    }

    /// A new controller, with an identifier of its own.
    pub fn session(&self) -> Arc<Session> {
        let cntlid = self.sessions.fetch_add(1, Ordering::Relaxed);
        Arc::new(Session { cntlid, cc: Mutex::new(Cc(0)), told_shut_down: AtomicBool::new(false) })
    }

    /// A new queue; `None` if the port is down.
    pub fn open(&self, name: &str, session: &Arc<Session>, qid: u16) -> Option<Arc<Link>> {
        self.port(name, |port| {
            port.attempts += u32::from(qid == 0);
            port.links.retain(|link| link.lock().dead.is_none() && !link.lock().dropped);
            if !port.up {
                return None;
            }
            let (session, clock) = (session.clone(), self.clock.clone());
            let link = Arc::new(Link { session, qid, wire: Mutex::default(), clock });
            port.links.push(link.clone());
            port.all.push(link.clone());
            Some(link)
        })
    }

    /// Takes a command.
    pub fn submit(&self, name: &str, link: &Arc<Link>, sqe: Sqe, data: Data, tag: Tag) {
        if link.qid == 0 && sqe.opcode == AdminOpcode::CROSS_CONTROLLER_RESET.0 {
            return self.cross_reset(name, link, sqe, tag);
        }
        self.port(name, |port| {
            let mut wire = link.lock();
            let mut command = InFlight { sqe, data };
            let answer = if link.qid != 0 && sqe.opcode != FABRICS_OPCODE {
                io(port, &mut wire, &mut command, tag)
            } else {
                admin(port, link, &mut wire, &mut command, tag)
            };
            let before = wire.in_flight.insert(tag, command);
            assert!(before.is_none(), "tag {tag:#x} is in flight twice on one queue");
            if let Some((status, result)) = answer {
                wire.answers.push_back((tag, status, result));
            }
        });
    }
}

fn ciu(cntlid: u16) -> u8 {
    cntlid as u8 ^ 0x5a
}

fn cirn(cntlid: u16) -> u64 {
    u64::from(cntlid) + 1000
}

fn io(port: &mut Port, wire: &mut Wire, command: &mut InFlight, tag: Tag) -> Option<(Status, u64)> {
    if port.mdts != 0 && command.data.len() > 4096 << port.mdts {
        return Some((Status::INVALID_FIELD.with_dnr(), 0));
    }
    match port.io {
        Io::Hold => {
            wire.held.insert(tag);
            None
        }
        Io::Fail(status) => Some((status, 0)),
        Io::Answer => {
            execute(port, command);
            Some((Status::SUCCESS, 0))
        }
    }
}

fn execute(port: &mut Port, command: &mut InFlight) {
    if let Data::Read(buffer) = &mut command.data {
        buffer.as_mut_slice().fill(port.content);
    }
    let sqe = &command.sqe;
    let slba = u64::from(sqe.cdw11.get()) << 32 | u64::from(sqe.cdw10.get());
    let byte = match &command.data {
        Data::Write(b) | Data::Read(b) => b.as_slice().first().copied().unwrap_or(0),
        Data::None => 0,
    };
    port.executed.push((sqe.nsid.get(), sqe.opcode, slba, byte));
}

fn fill(command: &mut InFlight, bytes: &[u8]) -> Option<(Status, u64)> {
    if let Data::Read(buffer) = &mut command.data {
        let len = buffer.len().min(bytes.len());
        buffer.as_mut_slice()[..len].copy_from_slice(&bytes[..len]);
    }
    Some((Status::SUCCESS, 0))
}

fn admin(
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

fn identify(
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

fn log_page(port: &mut Port, command: &mut InFlight, args: GetLogPage) -> Option<(Status, u64)> {
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

/// The completion entry for an answer.
pub fn cqe(status: Status, result: u64) -> Cqe {
    Cqe::new(0, status, result)
}
