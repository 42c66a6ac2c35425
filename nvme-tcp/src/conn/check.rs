//! What must hold for a PDU header, before anything is done with it.

use nvme_core::spec::tcp::{
    CommonHeader, DIGEST_LEN, DataHeader, DigestFlags, IcResp, MAXH2CDATA_MIN, PDA_MAX, PFV_1_0,
    PduFlags, PduType, R2t, TERM_REQ_MAX_LEN,
};
use zerocopy::FromBytes;

use super::digest::crc32c;
use super::error::ProtocolError;

/// What was agreed when the connection was set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Headers carry a digest.
    pub(crate) header_digest: bool,
    /// Data carries a digest.
    pub(crate) data_digest: bool,
    /// Alignment of data that the host sends, in bytes.
    pub(crate) send_align: usize,
    /// Alignment of data that the host receives, in bytes.
    pub(crate) receive_align: usize,
    /// Most data in one H2CData PDU, in bytes.
    pub(crate) max_h2c_data: u32,
}

impl Agreed {
    /// Bytes of digest after a header.
    pub(crate) const fn header_digest_len(&self) -> usize {
        if self.header_digest { DIGEST_LEN } else { 0 }
    }

    /// Bytes of digest after data.
    pub(crate) const fn data_digest_len(&self) -> usize {
        if self.data_digest { DIGEST_LEN } else { 0 }
    }
}

/// Bytes that must be present before a PDU can be looked at whole: for a PDU with data everything
/// before the data, for the others the whole PDU.
///
/// Checks the common header: type, header length, digest flags, data offset, the fixed lengths.
pub(crate) fn frame(header: &CommonHeader, agreed: &Agreed) -> Result<usize, ProtocolError> {
    let pdu = header.pdu_type;
    let plen = header.plen.get();
    match pdu {
        PduType::CAPSULE_RESP | PduType::R2T => {
            header_len(header)?;
            digest_flag(header, PduFlags::HDGSTF, agreed.header_digest)?;
            let want = usize::from(header.hlen) + agreed.header_digest_len();
            if plen as usize != want {
                return Err(plen_error(header, "must be the header and its digest"));
            }
            Ok(want)
        }
        PduType::C2H_DATA => {
            header_len(header)?;
            digest_flag(header, PduFlags::HDGSTF, agreed.header_digest)?;
            digest_flag(header, PduFlags::DDGSTF, agreed.data_digest)?;
            let pdo = usize::from(header.pdo);
            let least = usize::from(header.hlen) + agreed.header_digest_len();
            if pdo < least || pdo % agreed.receive_align != 0 {
                return Err(ProtocolError::Field {
                    pdu,
                    field: "PDO",
                    offset: 3,
                    value: header.pdo.into(),
                    rule: "must lie behind the header and have the alignment that HPDA asked for",
                });
            }
            Ok(pdo)
        }
        PduType::C2H_TERM_REQ => term_req(header),
        PduType::IC_RESP => {
            Err(ProtocolError::UnexpectedPdu { pdu, state: "the connection is already set up" })
        }
        _ => Err(ProtocolError::UnknownPdu(pdu)),
    }
}

/// [`frame`] for the time before the connection is set up.
pub(crate) fn frame_in_setup(header: &CommonHeader) -> Result<usize, ProtocolError> {
    match header.pdu_type {
        PduType::IC_RESP => {
            header_len(header)?;
            no_digest(header)?;
            if header.plen.get() != u32::from(header.hlen) {
                return Err(plen_error(header, "must be 128"));
            }
            Ok(usize::from(header.hlen))
        }
        PduType::C2H_TERM_REQ => term_req(header),
        pdu @ (PduType::CAPSULE_RESP | PduType::R2T | PduType::C2H_DATA) => {
            Err(ProtocolError::UnexpectedPdu { pdu, state: "waiting for ICResp" })
        }
        pdu => Err(ProtocolError::UnknownPdu(pdu)),
    }
}

fn term_req(header: &CommonHeader) -> Result<usize, ProtocolError> {
    header_len(header)?;
    no_digest(header)?;
    let plen = header.plen.get() as usize;
    if plen < usize::from(header.hlen) || plen > TERM_REQ_MAX_LEN {
        return Err(plen_error(header, "must be 24 to 152"));
    }
    Ok(plen)
}

fn header_len(header: &CommonHeader) -> Result<(), ProtocolError> {
    if header.pdu_type.header_len() == Some(header.hlen) {
        return Ok(());
    }
    Err(ProtocolError::Field {
        pdu: header.pdu_type,
        field: "HLEN",
        offset: 2,
        value: header.hlen.into(),
        rule: "must be the length of this type's header",
    })
}

fn digest_flag(header: &CommonHeader, bit: PduFlags, agreed: bool) -> Result<(), ProtocolError> {
    if header.flags.contains(bit) == agreed {
        return Ok(());
    }
    Err(ProtocolError::Field {
        pdu: header.pdu_type,
        field: if bit == PduFlags::HDGSTF { "FLAGS.HDGSTF" } else { "FLAGS.DDGSTF" },
        offset: 1,
        value: header.flags.bits().into(),
        rule: "must agree with the digests negotiated",
    })
}

/// Set-up and termination PDUs never carry digests (TCP 1.1 §3.3.1.1).
fn no_digest(header: &CommonHeader) -> Result<(), ProtocolError> {
    digest_flag(header, PduFlags::HDGSTF, false)?;
    digest_flag(header, PduFlags::DDGSTF, false)
}

fn plen_error(header: &CommonHeader, rule: &'static str) -> ProtocolError {
    ProtocolError::Field {
        pdu: header.pdu_type,
        field: "PLEN",
        offset: 4,
        value: header.plen.get(),
        rule,
    }
}

/// Compares the digest behind a header; `unit` begins with the header and reaches past the digest.
pub(crate) fn header_digest(
    header: &CommonHeader,
    unit: &[u8],
    agreed: &Agreed,
) -> Result<(), ProtocolError> {
    if !agreed.header_digest || header.pdu_type == PduType::C2H_TERM_REQ {
        return Ok(());
    }
    let Some((bytes, rest)) = unit.split_at_checked(usize::from(header.hlen)) else {
        return Ok(());
    };
    let Some(received) = rest.first_chunk().map(|b| u32::from_le_bytes(*b)) else {
        return Ok(());
    };
    let computed = crc32c(bytes);
    if received == computed {
        return Ok(());
    }
    Err(ProtocolError::HeaderDigest { pdu: header.pdu_type, received, computed })
}

/// What a well-formed ICResp grants, given what was asked for (TCP 1.1 §3.6.2.3).
pub(crate) fn ic_resp(
    unit: &[u8],
    asked: DigestFlags,
    receive_align: usize,
) -> Result<Agreed, ProtocolError> {
    let parameter =
        |field, offset, value, rule| Err(ProtocolError::Parameter { field, offset, value, rule });
    let Ok((resp, _)) = IcResp::read_from_prefix(unit) else {
        return parameter("PLEN", 4, unit.len() as u32, "must be 128");
    };
    if resp.pfv.get() != PFV_1_0 {
        return parameter("PFV", 8, resp.pfv.get().into(), "only version 0 exists");
    }
    if resp.cpda > PDA_MAX {
        return parameter("CPDA", 10, resp.cpda.into(), "must be 0 to 31");
    }
    let known = DigestFlags::HEADER | DigestFlags::DATA;
    if resp.dgst & known != asked {
        return parameter(
            "DGST",
            11,
            resp.dgst.bits().into(),
            "must grant exactly the digests that were asked for",
        );
    }
    let max = resp.maxh2cdata.get();
    if max < MAXH2CDATA_MIN || max % 4 != 0 {
        return parameter("MAXH2CDATA", 12, max, "must be a multiple of 4, at least 4096");
    }
    Ok(Agreed {
        header_digest: asked.contains(DigestFlags::HEADER),
        data_digest: asked.contains(DigestFlags::DATA),
        send_align: alignment(resp.cpda),
        receive_align,
        max_h2c_data: max,
    })
}

/// An alignment field, dwords less one, in bytes.
pub(crate) const fn alignment(dwords_less_one: u8) -> usize {
    (dwords_less_one as usize + 1) * 4
}

/// The header of C2HData: lengths that must agree with each other, and the SUCCESS rule.
pub(crate) fn c2h_data(data: &DataHeader, agreed: &Agreed) -> Result<(), ProtocolError> {
    let field = |field, offset, value, rule| {
        Err(ProtocolError::Field { pdu: PduType::C2H_DATA, field, offset, value, rule })
    };
    let header = &data.header;
    let len = data.datal.get();
    if len == 0 {
        return field("DATAL", 16, 0, "must not be zero");
    }
    let want = u64::from(header.pdo) + u64::from(len) + agreed.data_digest_len() as u64;
    if u64::from(header.plen.get()) != want {
        return field("PLEN", 4, header.plen.get(), "must be PDO, DATAL and data digest together");
    }
    if header.flags.contains(PduFlags::SUCCESS) && !header.flags.contains(PduFlags::LAST_PDU) {
        return field(
            "FLAGS.SUCCESS",
            1,
            header.flags.bits().into(),
            "must not be set without LAST_PDU",
        );
    }
    Ok(())
}

/// An R2T against the length of its command's data and what was asked for before.
pub(crate) fn r2t(r2t: &R2t, limit: u32, requested: u32) -> Result<(), ProtocolError> {
    let (pdu, cid) = (PduType::R2T, r2t.cccid.get());
    let (offset, len) = (r2t.r2to.get(), r2t.r2tl.get());
    if len == 0 {
        return Err(ProtocolError::Field {
            pdu,
            field: "R2TL",
            offset: 16,
            value: 0,
            rule: "must not be zero",
        });
    }
    if u64::from(offset) + u64::from(len) > u64::from(limit) {
        return Err(ProtocolError::OutOfRange { pdu, cid, offset, len, limit });
    }
    if offset < requested {
        return Err(ProtocolError::OutOfOrder { pdu, cid, offset, expected: requested });
    }
    Ok(())
}
