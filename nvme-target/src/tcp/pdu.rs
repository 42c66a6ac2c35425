//! What a host's PDUs must look like, checked field by field before anything acts on them.

use crc_fast::{CrcAlgorithm, Digest};
use nvme_core::spec::tcp::{
    CommonHeader, DIGEST_LEN, DataHeader, DigestFlags, FatalError, IcReq, PDA_MAX, PFV_1_0,
    PduFlags, PduType, TermReq,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::backing::ZEROES;

/// Bytes of an offending header that go back with a termination request at most (TCP 1.1 §3.6.2.5).
const TERM_COPY_MAX: usize = 128;

/// A fatal transport error: what goes into the C2HTermReq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fatal {
    pub fes: FatalError,
    pub fei: u32,
}

impl Fatal {
    /// The header field at this offset holds what it must not.
    pub const fn field(offset: usize) -> Self {
        Self { fes: FatalError::INVALID_HEADER_FIELD, fei: offset as u32 }
    }

    /// A PDU that may not come now.
    pub const SEQUENCE: Self = Self { fes: FatalError::PDU_SEQUENCE, fei: 0 };
    /// Data outside of what was asked for.
    pub const OUT_OF_RANGE: Self = Self { fes: FatalError::DATA_OUT_OF_RANGE, fei: 0 };
    /// More data in one PDU than MAXH2CDATA.
    pub const LIMIT: Self = Self { fes: FatalError::LIMIT_EXCEEDED, fei: 0 };

    /// The termination request, with a copy of the header that caused it.
    pub fn term_req(self, header: &[u8]) -> Vec<u8> {
        let copy = &header[..header.len().min(TERM_COPY_MAX)];
        let req = TermReq::new(PduType::C2H_TERM_REQ, self.fes, self.fei, copy.len() as u8);
        let mut pdu = req.as_bytes().to_vec();
        pdu.extend_from_slice(copy);
        pdu
    }
}

/// Offsets of the common header's fields, for error reports.
mod at {
    pub const TYPE: usize = 0;
    pub const FLAGS: usize = 1;
    pub const HLEN: usize = 2;
    pub const PDO: usize = 3;
    pub const PLEN: usize = 4;
    pub const IC_PFV: usize = 8;
    pub const IC_HPDA: usize = 10;
    pub const DATA_LENGTH: usize = 16;
}

/// What a connection has agreed on and set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreement {
    pub header_digest: bool,
    pub data_digest: bool,
    /// Alignment of the data in the host's PDUs, in bytes.
    pub host_align: usize,
    /// Alignment of the data in our PDUs, in bytes.
    pub our_align: usize,
    pub max_h2c_data: u32,
    /// R2Ts that the host takes at once for one command.
    pub max_r2t: u32,
}

impl Agreement {
    pub const fn header_digest_len(&self) -> usize {
        if self.header_digest { DIGEST_LEN } else { 0 }
    }

    pub const fn data_digest_len(&self) -> usize {
        if self.data_digest { DIGEST_LEN } else { 0 }
    }
}

/// Where the parts of a checked PDU lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub pdu_type: PduType,
    /// Header without digest.
    pub hlen: usize,
    /// Offset of the data; the end of header and digest if there is none.
    pub pdo: usize,
    /// Bytes of data.
    pub data: usize,
    pub plen: usize,
}

/// Checks the common header of a PDU against what is agreed on; `None` is the state before ICReq.
pub(crate) fn shape(header: &CommonHeader, agreed: Option<&Agreement>) -> Result<Shape, Fatal> {
    let pdu_type = header.pdu_type;
    let Some(hlen) = pdu_type.header_len() else { return Err(Fatal::field(at::TYPE)) };
    match pdu_type {
        PduType::IC_REQ if agreed.is_some() => return Err(Fatal::SEQUENCE),
        PduType::CAPSULE_CMD | PduType::H2C_DATA if agreed.is_none() => {
            return Err(Fatal::SEQUENCE);
        }
        PduType::IC_REQ | PduType::H2C_TERM_REQ | PduType::CAPSULE_CMD | PduType::H2C_DATA => {}
        // the rest is ours to send
        _ => return Err(Fatal::field(at::TYPE)),
    }
    if header.hlen != hlen {
        return Err(Fatal::field(at::HLEN));
    }
    let hlen = usize::from(hlen);
    let plen = header.plen.get() as usize;
    let plain = match pdu_type {
        PduType::IC_REQ => plen == hlen,
        PduType::H2C_TERM_REQ => (hlen..=hlen + TERM_COPY_MAX).contains(&plen),
        _ => false,
    };
    let (PduType::CAPSULE_CMD | PduType::H2C_DATA, Some(agreed)) = (pdu_type, agreed) else {
        return if plain {
            Ok(Shape { pdu_type, hlen, pdo: hlen, data: plen - hlen, plen })
        } else {
            Err(Fatal::field(at::PLEN))
        };
    };
    if header.flags.contains(PduFlags::HDGSTF) != agreed.header_digest {
        return Err(Fatal::field(at::FLAGS));
    }
    let head = hlen + agreed.header_digest_len();
    if plen < head {
        return Err(Fatal::field(at::PLEN));
    }
    if plen == head {
        return if pdu_type == PduType::H2C_DATA {
            Err(Fatal::field(at::PLEN))
        } else {
            Ok(Shape { pdu_type, hlen, pdo: head, data: 0, plen })
        };
    }
    if header.flags.contains(PduFlags::DDGSTF) != agreed.data_digest {
        return Err(Fatal::field(at::FLAGS));
    }
    let pdo = usize::from(header.pdo);
    if pdo < head || !pdo.is_multiple_of(agreed.host_align) || pdo > plen {
        return Err(Fatal::field(at::PDO));
    }
    match plen.checked_sub(pdo + agreed.data_digest_len()) {
        None | Some(0) => Err(Fatal::field(at::PLEN)),
        Some(data) => Ok(Shape { pdu_type, hlen, pdo, data, plen }),
    }
}

/// Checks an ICReq beyond its common header.
pub(crate) fn ic_req(bytes: &[u8]) -> Result<IcReq, Fatal> {
    let Ok(req) = IcReq::read_from_bytes(bytes) else { return Err(Fatal::field(at::PLEN)) };
    if req.pfv.get() != PFV_1_0 {
        return Err(Fatal { fes: FatalError::UNSUPPORTED_PARAMETER, fei: at::IC_PFV as u32 });
    }
    if req.hpda > PDA_MAX {
        return Err(Fatal::field(at::IC_HPDA));
    }
    if !req.header.flags.is_empty() {
        return Err(Fatal::field(at::FLAGS));
    }
    Ok(req)
}

/// Checks an H2CData header beyond its common header.
pub(crate) fn h2c_data(
    bytes: &[u8],
    shape: &Shape,
    agreed: &Agreement,
) -> Result<DataHeader, Fatal> {
    let Ok(header) = DataHeader::read_from_bytes(bytes) else { return Err(Fatal::field(at::PLEN)) };
    if header.datal.get() as usize != shape.data {
        return Err(Fatal::field(at::DATA_LENGTH));
    }
    if header.datal.get() > agreed.max_h2c_data {
        return Err(Fatal::LIMIT);
    }
    Ok(header)
}

/// The digests that a host asked for and that the target grants.
pub(crate) fn granted(asked: DigestFlags, allow_header: bool, allow_data: bool) -> DigestFlags {
    let mut granted = DigestFlags::empty();
    granted.set(DigestFlags::HEADER, allow_header && asked.contains(DigestFlags::HEADER));
    granted.set(DigestFlags::DATA, allow_data && asked.contains(DigestFlags::DATA));
    granted
}

/// CRC32C of a whole piece (TCP 1.1 §3.3.1.1), as it travels.
pub(crate) fn digest(bytes: &[u8]) -> [u8; DIGEST_LEN] {
    crc_fast::crc32_iscsi(bytes).to_le_bytes()
}

/// CRC32C of zeroes, as many as there were last, so that a steady load computes it once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DigestOfZeroes {
    len: usize,
    // That of nothing is 0.
    value: [u8; DIGEST_LEN],
}

impl DigestOfZeroes {
    /// The digest of `len` zeroes.
    pub fn of(&mut self, len: usize) -> [u8; DIGEST_LEN] {
        if self.len != len {
            *self = Self { len, value: digest_of_zeroes(len) };
        }
        self.value
    }
}

/// CRC32C of `len` zeroes.
fn digest_of_zeroes(len: usize) -> [u8; DIGEST_LEN] {
    if let Some(zeroes) = ZEROES.get(..len) {
        return digest(zeroes);
    }
    let mut running = RunningDigest::new();
    let mut left = len;
    while left > 0 {
        let n = left.min(ZEROES.len());
        running.update(&ZEROES[..n]);
        left -= n;
    }
    running.value()
}

/// CRC32C of data that comes in pieces.
pub(crate) struct RunningDigest(Digest);

impl RunningDigest {
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn value(&self) -> [u8; DIGEST_LEN] {
        (self.0.finalize() as u32).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Agreement = Agreement {
        header_digest: false,
        data_digest: false,
        host_align: 4,
        our_align: 4,
        max_h2c_data: 4096,
        max_r2t: 1,
    };

    fn capsule() -> CommonHeader {
        CommonHeader::new(PduType::CAPSULE_CMD)
    }

    #[test]
    fn digests_are_crc32c() {
        // the check value that the polynomial's catalogue gives
        assert_eq!(digest(b"123456789"), 0xe306_9283_u32.to_le_bytes());
        let mut running = RunningDigest::new();
        running.update(b"1234");
        running.update(b"56789");
        assert_eq!(running.value(), digest(b"123456789"));
        let mut of_zeroes = DigestOfZeroes::default();
        for len in [0, 1, 4096, 4096, ZEROES.len(), 3 * ZEROES.len() + 512, 4096, 0] {
            assert_eq!(of_zeroes.of(len), digest(&vec![0; len]), "{len}");
        }
    }

    #[test]
    fn every_field_of_a_capsule_header_is_checked() {
        assert!(shape(&capsule(), Some(&PLAIN)).is_ok());
        assert_eq!(shape(&capsule(), None), Err(Fatal::SEQUENCE));
        let with = |change: fn(&mut CommonHeader)| {
            let mut header = capsule();
            header.pdo = 72;
            header.plen = (72 + 512).into();
            change(&mut header);
            shape(&header, Some(&PLAIN))
        };
        assert_eq!(with(|_| ()).map(|s| s.data), Ok(512));
        assert_eq!(with(|h| h.pdu_type = PduType(0x08)), Err(Fatal::field(0)));
        assert_eq!(with(|h| h.pdu_type = PduType::R2T), Err(Fatal::field(0)));
        assert_eq!(with(|h| h.pdu_type = PduType::IC_REQ), Err(Fatal::SEQUENCE));
        assert_eq!(with(|h| h.flags |= PduFlags::HDGSTF), Err(Fatal::field(1)));
        assert_eq!(with(|h| h.flags |= PduFlags::DDGSTF), Err(Fatal::field(1)));
        assert_eq!(with(|h| h.hlen = 71), Err(Fatal::field(2)));
        assert_eq!(with(|h| h.pdo = 68), Err(Fatal::field(3)));
        assert_eq!(with(|h| h.pdo = 74), Err(Fatal::field(3)));
        assert_eq!(with(|h| h.plen = 71.into()), Err(Fatal::field(4)));
        assert_eq!(
            with(|h| {
                h.pdo = 76;
                h.plen = 76.into();
            }),
            Err(Fatal::field(4))
        );
    }

    #[test]
    fn a_termination_request_copies_no_more_than_128_bytes() {
        let pdu = Fatal::field(2).term_req(&[9; 200]);
        assert_eq!(pdu.len(), 152);
        assert_eq!(pdu[4], 152);
        assert_eq!(pdu[24..], [9; 128]);
    }
}
