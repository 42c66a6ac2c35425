//! A tiny blocking NVMe/TCP host, just enough to see what the target sends.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::spec::fabrics::{
    CNTLID_DYNAMIC, ConnectAttributes, ConnectData, ConnectResponse, PropertySize, property,
};
use nvme_core::spec::tcp::{
    CapsuleCmd, CapsuleResp, CommonHeader, DataHeader, DigestFlags, IcReq, IcResp, PduFlags,
    PduType, R2t,
};
use nvme_core::spec::{Cqe, SglDescriptor, Sqe, Status};
use nvme_target::{NamespaceConfig, SubsystemConfig, Target};
use zerocopy::{FromBytes, IntoBytes};

pub const NQN: &str = "nqn.2026-01.org.example:sub";
pub const HOST: &str = "nqn.2026-01.org.example:host";
/// No test waits longer than this for anything.
pub const LIMIT: Duration = Duration::from_secs(30);

/// CC with entry sizes set, and enabled.
pub const CC_ENABLE: u64 = 6 << 16 | 4 << 20 | 1;

/// A target of one subsystem with one namespace of 1 MiB in blocks of 512 bytes, on two listeners.
pub fn target() -> Target {
    start(SubsystemConfig::new(NQN).unwrap())
}

pub fn start(subsystem: SubsystemConfig) -> Target {
    let subsystem = subsystem.namespace(NamespaceConfig::memory(1, 1 << 20).block_size(512));
    Target::builder()
        .subsystem(subsystem)
        .listen("127.0.0.1:0")
        .listen("127.0.0.1:0")
        .start()
        .unwrap()
}

/// A PDU as received.
#[derive(Debug, Clone)]
pub struct Pdu {
    pub header: CommonHeader,
    /// Header with its digest and padding, up to the data.
    pub head: Vec<u8>,
    pub data: Vec<u8>,
    pub data_digest: Option<[u8; 4]>,
}

impl Pdu {
    pub fn cqe(&self) -> Cqe {
        assert_eq!(self.header.pdu_type, PduType::CAPSULE_RESP, "{self:?}");
        CapsuleResp::read_from_prefix(&self.head).unwrap().0.cqe
    }

    pub fn r2t(&self) -> R2t {
        assert_eq!(self.header.pdu_type, PduType::R2T, "{self:?}");
        R2t::read_from_prefix(&self.head).unwrap().0
    }

    pub fn data_header(&self) -> DataHeader {
        assert_eq!(self.header.pdu_type, PduType::C2H_DATA, "{self:?}");
        DataHeader::read_from_prefix(&self.head).unwrap().0
    }
}

/// One connection.
pub struct Queue {
    pub socket: TcpStream,
    pub digests: DigestFlags,
    pub ic: IcResp,
    next_cid: u16,
}

impl Queue {
    /// Connects and exchanges ICReq and ICResp.
    pub fn open(addr: SocketAddr, digests: DigestFlags) -> Self {
        Self::open_with(addr, IcReq::new(0, digests, 0))
    }

    pub fn open_with(addr: SocketAddr, req: IcReq) -> Self {
        let mut socket = raw(addr);
        socket.write_all(req.as_bytes()).unwrap();
        let mut ic = [0; 128];
        socket.read_exact(&mut ic).unwrap();
        let ic = IcResp::read_from_bytes(&ic).unwrap();
        Self { socket, digests: ic.dgst, ic, next_cid: 0 }
    }

    pub fn cid(&mut self) -> u16 {
        self.next_cid = self.next_cid.wrapping_add(1);
        self.next_cid
    }

    fn head(
        &self,
        header: &mut CommonHeader,
        bytes: impl FnOnce(&CommonHeader) -> Vec<u8>,
    ) -> Vec<u8> {
        if self.digests.contains(DigestFlags::HEADER) {
            header.flags |= PduFlags::HDGSTF;
        }
        let mut pdu = bytes(header);
        if self.digests.contains(DigestFlags::HEADER) {
            let digest = crc_fast::crc32_iscsi(&pdu).to_le_bytes();
            pdu.extend_from_slice(&digest);
        }
        pdu
    }

    fn send_with_data(
        &mut self,
        mut header: CommonHeader,
        data: &[u8],
        bytes: impl FnOnce(&CommonHeader) -> Vec<u8>,
    ) {
        let mut pdo = usize::from(header.hlen);
        pdo += if self.digests.contains(DigestFlags::HEADER) { 4 } else { 0 };
        let mut plen = pdo + data.len();
        let with_digest = !data.is_empty() && self.digests.contains(DigestFlags::DATA);
        if with_digest {
            header.flags |= PduFlags::DDGSTF;
            plen += 4;
        }
        header.pdo = if data.is_empty() { 0 } else { pdo as u8 };
        header.plen = (plen as u32).into();
        let mut pdu = self.head(&mut header, bytes);
        pdu.extend_from_slice(data);
        if with_digest {
            pdu.extend_from_slice(&crc_fast::crc32_iscsi(data).to_le_bytes());
        }
        self.socket.write_all(&pdu).unwrap();
    }

    /// Sends a command capsule with in-capsule data; the command identifier given to it.
    pub fn send(&mut self, mut sqe: Sqe, data: &[u8]) -> u16 {
        let cid = self.cid();
        sqe.cid = cid.into();
        let header = CommonHeader::new(PduType::CAPSULE_CMD);
        self.send_with_data(header, data, |header| {
            let mut pdu = CapsuleCmd::new(sqe);
            pdu.header = *header;
            pdu.as_bytes().to_vec()
        });
        cid
    }

    /// Sends a command that gets `len` bytes, or waits to be asked for them.
    pub fn send_transport(&mut self, mut sqe: Sqe, len: u32) -> u16 {
        sqe.set_sgl(SglDescriptor::transport(len));
        self.send(sqe, &[])
    }

    pub fn send_in_capsule(&mut self, mut sqe: Sqe, data: &[u8]) -> u16 {
        sqe.set_sgl(SglDescriptor::in_capsule(0, data.len() as u32));
        self.send(sqe, data)
    }

    pub fn send_h2c(&mut self, cid: u16, ttag: u16, offset: u32, data: &[u8], last: bool) {
        let mut header = CommonHeader::new(PduType::H2C_DATA);
        header.flags.set(PduFlags::LAST_PDU, last);
        self.send_with_data(header, data, |header| {
            let mut pdu = DataHeader::h2c(cid, ttag, offset, data.len() as u32);
            pdu.header = *header;
            pdu.as_bytes().to_vec()
        });
    }

    /// The next PDU, or `None` when the target has closed the connection.
    pub fn recv(&mut self) -> Option<Pdu> {
        let mut common = [0; 8];
        match self.socket.read_exact(&mut common) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return None,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
            Err(e) => panic!("no PDU: {e}"),
        }
        let header = CommonHeader::read_from_bytes(&common).unwrap();
        let mut rest = vec![0; header.plen.get() as usize - 8];
        self.socket.read_exact(&mut rest).ok()?;
        let mut whole = common.to_vec();
        whole.append(&mut rest);
        let data_digest = header.flags.contains(PduFlags::DDGSTF).then(|| {
            let at = whole.len() - 4;
            let digest = whole[at..].try_into().unwrap();
            whole.truncate(at);
            digest
        });
        let carries = header.pdu_type == PduType::C2H_DATA;
        let pdo = usize::from(header.pdo).clamp(24, whole.len());
        let data = if carries { whole.split_off(pdo) } else { Vec::new() };
        Some(Pdu { header, head: whole, data, data_digest })
    }

    pub fn pdu(&mut self) -> Pdu {
        self.recv().expect("the target closed the connection")
    }

    /// The next PDU, which is a response to `cid`.
    pub fn response(&mut self, cid: u16) -> Cqe {
        let cqe = self.pdu().cqe();
        assert_eq!(cqe.cid.get(), cid);
        cqe
    }

    /// A command without data; its completion.
    pub fn run(&mut self, sqe: Sqe) -> Cqe {
        let cid = self.send_transport(sqe, 0);
        self.response(cid)
    }

    /// A command that gets `len` bytes: data, and the completion, `None` if the SUCCESS flag took its place.
    pub fn fetch(&mut self, sqe: Sqe, len: u32) -> (Vec<u8>, Option<Cqe>) {
        let cid = self.send_transport(sqe, len);
        let mut data = Vec::new();
        loop {
            let pdu = self.pdu();
            if pdu.header.pdu_type != PduType::C2H_DATA {
                let cqe = pdu.cqe();
                assert_eq!(cqe.cid.get(), cid);
                return (data, Some(cqe));
            }
            let header = pdu.data_header();
            assert_eq!(header.cccid.get(), cid);
            assert_eq!(header.datao.get() as usize, data.len());
            assert_eq!(header.datal.get() as usize, pdu.data.len());
            if let Some(digest) = pdu.data_digest {
                assert_eq!(digest, crc_fast::crc32_iscsi(&pdu.data).to_le_bytes());
            }
            data.extend_from_slice(&pdu.data);
            let flags = pdu.header.flags;
            assert_eq!(flags.contains(PduFlags::LAST_PDU), data.len() == len as usize);
            if flags.contains(PduFlags::SUCCESS) {
                return (data, None);
            }
        }
    }

    /// A command that sends data when asked for it.
    pub fn store(&mut self, sqe: Sqe, data: &[u8]) -> Cqe {
        let cid = self.send_transport(sqe, data.len() as u32);
        loop {
            let pdu = self.pdu();
            if pdu.header.pdu_type != PduType::R2T {
                let cqe = pdu.cqe();
                assert_eq!(cqe.cid.get(), cid);
                return cqe;
            }
            let r2t = pdu.r2t();
            assert_eq!(r2t.cccid.get(), cid);
            let (start, len) = (r2t.r2to.get() as usize, r2t.r2tl.get() as usize);
            let most = self.ic.maxh2cdata.get() as usize;
            let mut at = start;
            while at < start + len {
                let end = (at + most).min(start + len);
                let last = end == start + len;
                self.send_h2c(cid, r2t.ttag.get(), at as u32, &data[at..end], last);
                at = end;
            }
        }
    }

    pub fn connect(&mut self, subnqn: &str, cntlid: u16, qid: u16, kato_ms: u32) -> Cqe {
        self.connect_with(subnqn, cntlid, qid, kato_ms, ConnectAttributes::empty())
    }

    pub fn connect_with(
        &mut self,
        subnqn: &str,
        cntlid: u16,
        qid: u16,
        kato_ms: u32,
        attributes: ConnectAttributes,
    ) -> Cqe {
        let data = connect_data(subnqn, cntlid);
        let sqsize = if qid == 0 { 31 } else { 127 };
        let cid =
            self.send_in_capsule(Sqe::connect(qid, sqsize, attributes, kato_ms), data.as_bytes());
        self.response(cid)
    }

    /// Waits until the target has closed the connection.
    pub fn expect_close(&mut self) {
        while self.recv().is_some() {}
    }
}

pub fn connect_data(subnqn: &str, cntlid: u16) -> ConnectData {
    ConnectData::new(Uuid([7; 16]), cntlid, &Nqn::new(subnqn).unwrap(), &Nqn::new(HOST).unwrap())
}

/// A TCP connection on which reads do not wait for ever.
pub fn raw(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&addr, LIMIT).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// An enabled controller: its admin queue.
pub struct Host {
    pub addr: SocketAddr,
    pub admin: Queue,
    pub cntlid: u16,
    pub digests: DigestFlags,
    pub subnqn: String,
}

impl Host {
    pub fn new(addr: SocketAddr) -> Self {
        Self::with(addr, NQN, DigestFlags::empty(), 0)
    }

    pub fn with(addr: SocketAddr, subnqn: &str, digests: DigestFlags, kato_ms: u32) -> Self {
        let mut admin = Queue::open(addr, digests);
        let cqe = admin.connect(subnqn, CNTLID_DYNAMIC, 0, kato_ms);
        assert!(cqe.status().is_success(), "{:?}", cqe.status());
        let cntlid = ConnectResponse::from_cqe(&cqe).cntlid;
        let cqe = admin.run(Sqe::property_set(property::CC, PropertySize::Four, CC_ENABLE));
        assert!(cqe.status().is_success());
        let csts = admin.run(Sqe::property_get(property::CSTS, PropertySize::Four));
        assert_eq!(csts.result(), 1, "ready");
        Self { addr, admin, cntlid, digests, subnqn: subnqn.to_owned() }
    }

    pub fn queue(&self, qid: u16) -> Queue {
        let mut queue = Queue::open(self.addr, self.digests);
        let cqe = queue.connect(&self.subnqn, self.cntlid, qid, 0);
        assert!(cqe.status().is_success(), "{:?}", cqe.status());
        queue
    }

    pub fn identify(&mut self, cns: u8, nsid: u32) -> Result<Vec<u8>, Status> {
        let (data, cqe) = self.admin.fetch(Sqe::identify(cns, nsid), 4096);
        let status = cqe.unwrap().status();
        if status.is_success() { Ok(data) } else { Err(status) }
    }

    pub fn log(&mut self, args: nvme_core::spec::command::GetLogPage) -> Result<Vec<u8>, Status> {
        let len = args.len as u32;
        let (data, cqe) = self.admin.fetch(args.to_sqe().unwrap(), len);
        let status = cqe.unwrap().status();
        if status.is_success() { Ok(data) } else { Err(status) }
    }
}

/// Polls until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "waited too long: {what}");
        std::thread::yield_now();
    }
}
