//! The controller's PDUs as bytes.

use nvme_core::spec::tcp::{
    CapsuleResp, CommonHeader, DataHeader, DigestFlags, FatalError, IcResp, PduFlags, PduType, R2t,
    TermReq,
};
use nvme_core::spec::{Cqe, Status};
use zerocopy::{FromBytes, IntoBytes};

/// CRC32C bit by bit: slow, short, and not the library under test.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for b in bytes {
        crc ^= u32::from(*b);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

/// Digests and alignment of what the controller sends.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    pub header_digest: bool,
    pub data_digest: bool,
    pub align: usize,
}

impl Format {
    pub fn plain() -> Self {
        Self { header_digest: false, data_digest: false, align: 4 }
    }

    pub fn digests(&self) -> DigestFlags {
        let mut flags = DigestFlags::empty();
        flags.set(DigestFlags::HEADER, self.header_digest);
        flags.set(DigestFlags::DATA, self.data_digest);
        flags
    }

    /// A PDU from its header, with digests, padding, PDO and PLEN made to fit.
    pub fn pdu(&self, header: &[u8], data: &[u8]) -> Vec<u8> {
        let mut out = header.to_vec();
        let mut common = CommonHeader::read_from_prefix(header).unwrap().0;
        let mut head = out.len() + if self.header_digest { 4 } else { 0 };
        let mut tail = 0;
        common.flags.set(PduFlags::HDGSTF, self.header_digest);
        if !data.is_empty() {
            head = head.next_multiple_of(self.align);
            tail = if self.data_digest { 4 } else { 0 };
            common.pdo = head as u8;
            common.flags.set(PduFlags::DDGSTF, self.data_digest);
        }
        common.plen = ((head + data.len() + tail) as u32).into();
        out[..8].copy_from_slice(common.as_bytes());
        if self.header_digest {
            out.extend(crc32c(&out).to_le_bytes());
        }
        out.resize(head, 0xee);
        out.extend(data);
        if tail > 0 {
            out.extend(crc32c(data).to_le_bytes());
        }
        out
    }

    /// Puts right digest and lengths again after `change` of a header's bytes only.
    pub fn changed(&self, pdu: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut out = pdu.to_vec();
        let hlen = PduType(pdu[0]).header_len().map_or(8, usize::from);
        change(&mut out[..hlen]);
        if self.header_digest {
            let crc = crc32c(&out[..hlen]).to_le_bytes();
            out[hlen..hlen + 4].copy_from_slice(&crc);
        }
        out
    }

    pub fn ic_resp(&self, cpda: u8, max_h2c_data: u32) -> Vec<u8> {
        IcResp::new(cpda, self.digests(), max_h2c_data).as_bytes().to_vec()
    }

    pub fn resp(&self, cid: u16, status: Status) -> Vec<u8> {
        self.pdu(CapsuleResp::new(Cqe::new(cid, status, 0)).as_bytes(), &[])
    }

    pub fn ok(&self, cid: u16) -> Vec<u8> {
        self.resp(cid, Status::SUCCESS)
    }

    pub fn c2h(&self, cid: u16, offset: u32, data: &[u8], flags: PduFlags) -> Vec<u8> {
        let mut header = DataHeader::c2h(cid, offset, data.len() as u32);
        header.header.flags = flags;
        self.pdu(header.as_bytes(), data)
    }

    /// The whole data in one PDU that completes the command.
    pub fn c2h_success(&self, cid: u16, data: &[u8]) -> Vec<u8> {
        self.c2h(cid, 0, data, PduFlags::LAST_PDU | PduFlags::SUCCESS)
    }

    pub fn r2t(&self, cid: u16, ttag: u16, offset: u32, len: u32) -> Vec<u8> {
        self.pdu(R2t::new(cid, ttag, offset, len).as_bytes(), &[])
    }

    pub fn term(&self, fes: FatalError, fei: u32) -> Vec<u8> {
        TermReq::new(PduType::C2H_TERM_REQ, fes, fei, 0).as_bytes().to_vec()
    }
}
