//! Fabrics commands, NVMe/TCP headers and controller properties as bytes.

use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::spec::fabrics::{
    ConnectAttributes, ConnectCommand, ConnectData, ConnectInvalidParameter, ConnectResponse,
    PropertyCommand, PropertySize, property,
};
use nvme_core::spec::feature::{HostBehavior, NumberOfQueues};
use nvme_core::spec::opcode::FabricsType;
use nvme_core::spec::registers::{Aqa, Cap, Cc, CmbSz, Csts};
use nvme_core::spec::tcp::{
    CapsuleCmd, CapsuleResp, CommonHeader, DataHeader, DigestFlags, FatalError, IcReq, IcResp,
    PduFlags, PduType, R2t, TermReq,
};
use nvme_core::spec::{Cqe, Sqe, Status};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

#[test]
fn connect_is_laid_out_as_the_figures_say() {
    let sqe = Sqe::connect(1, 127, ConnectAttributes::DISABLE_SQ_FLOW_CONTROL, 5000).with_cid(3);
    let mut expected = [0u8; 64];
    expected[0] = 0x7f;
    expected[2] = 3;
    expected[4] = 0x01;
    expected[42] = 1;
    expected[44] = 127;
    expected[46] = 0x04;
    expected[48..50].copy_from_slice(&[0x88, 0x13]);
    assert_eq!(sqe.as_bytes(), expected);
    assert_eq!(sqe.fabrics_type(), Some(FabricsType::CONNECT));
    assert_eq!(Sqe::flush(1).fabrics_type(), None);

    let back = ConnectCommand::from(sqe);
    assert_eq!((back.qid.get(), back.sqsize.get(), back.kato.get()), (1, 127, 5000));
}

#[test]
fn connect_data_places_names() {
    let host: Nqn = "nqn.2014-08.org.example:host".parse().expect("legal");
    let sub: Nqn = "nqn.2014-08.org.example:sub".parse().expect("legal");
    let data = ConnectData::new(Uuid([7; 16]), 0xffff, &sub, &host);
    let bytes = data.as_bytes();
    assert_eq!(bytes[..18], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0xff, 0xff]);
    assert_eq!(&bytes[256..283], b"nqn.2014-08.org.example:sub");
    assert_eq!(&bytes[512..540], b"nqn.2014-08.org.example:host");
    assert_eq!((bytes[283], bytes[540]), (0, 0));
    assert!(format!("{data:?}").contains("org.example:sub"));
}

#[test]
fn property_commands_carry_size_offset_and_value() {
    let set = Sqe::property_set(property::CC, PropertySize::Four, 0x0046_0001);
    let bytes = set.as_bytes();
    assert_eq!((bytes[4], bytes[40], bytes[44]), (0x00, 0, 0x14));
    assert_eq!(bytes[48..56], [1, 0, 0x46, 0, 0, 0, 0, 0]);
    let get = Sqe::property_get(property::CAP, PropertySize::Eight);
    assert_eq!((get.as_bytes()[4], get.as_bytes()[40]), (0x04, 1));
    assert_eq!(PropertyCommand::from(get).size(), Some(PropertySize::Eight));
    assert_eq!(Sqe::disconnect().as_bytes()[4], 0x08);
}

#[test]
fn connect_results_read_back() {
    let response = ConnectResponse {
        cntlid: 5,
        secure_channel_required: false,
        authentication_required: true,
    };
    let cqe = Cqe::new(0, Status::SUCCESS, response.to_result());
    assert_eq!(cqe.dw0.get(), 0x0002_0005);
    assert_eq!(ConnectResponse::from_cqe(&cqe), response);
    let bad = ConnectInvalidParameter { offset: 256, in_data: true };
    let cqe = Cqe::new(0, Status::CONNECT_INVALID_PARAMETERS, bad.to_result());
    assert_eq!(cqe.dw0.get(), 0x0001_0100);
    assert_eq!(ConnectInvalidParameter::from_cqe(&cqe), bad);
}

#[test]
fn tcp_headers_are_laid_out_as_the_figures_say() {
    let req = IcReq::new(0, DigestFlags::HEADER | DigestFlags::DATA, 0x11);
    assert_eq!(req.as_bytes()[..16], [0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 3, 0x11, 0, 0, 0]);
    let resp = IcResp::new(3, DigestFlags::HEADER, 0x0002_0000);
    assert_eq!(resp.as_bytes()[..16], [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 3, 1, 0, 0, 2, 0]);
    let cmd = CapsuleCmd::new(Sqe::flush(1).with_cid(2));
    assert_eq!(cmd.as_bytes()[..16], [4, 0, 72, 0, 72, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0]);
    let resp = CapsuleResp::new(Cqe::new(2, Status::SUCCESS, 0));
    assert_eq!(resp.as_bytes()[..8], [5, 0, 24, 0, 24, 0, 0, 0]);
    assert_eq!(resp.as_bytes()[20], 2);
    let mut data = DataHeader::h2c(1, 2, 3, 4);
    data.header.flags = PduFlags::LAST_PDU | PduFlags::DDGSTF;
    let expected = [6, 6, 24, 0, 24, 0, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(data.as_bytes(), expected);
    assert_eq!(DataHeader::c2h(1, 3, 4).as_bytes()[..12], [7, 0, 24, 0, 24, 0, 0, 0, 1, 0, 0, 0]);
    let r2t = R2t::new(1, 2, 3, 4);
    assert_eq!(
        r2t.as_bytes()[..20],
        [9, 0, 24, 0, 24, 0, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0]
    );
    let term = TermReq::new(PduType::H2C_TERM_REQ, FatalError::HEADER_DIGEST, 0x0102_0304, 24);
    assert_eq!(term.as_bytes()[..14], [2, 0, 24, 0, 48, 0, 0, 0, 3, 0, 4, 3, 2, 1]);
    assert_eq!(term.fatal_error(), FatalError::HEADER_DIGEST);
}

#[test]
fn every_pdu_type_knows_its_header_length() {
    for (raw, len) in
        [(0, 128), (1, 128), (2, 24), (3, 24), (4, 72), (5, 24), (6, 24), (7, 24), (9, 24)]
    {
        assert_eq!(PduType(raw).header_len(), Some(len), "type {raw:#x}");
    }
    for raw in [8, 10, 255] {
        assert_eq!(PduType(raw).header_len(), None, "type {raw:#x}");
    }
}

#[test]
fn capabilities_of_a_real_controller() {
    // QEMU's controller: 2048 entries, contiguous queues, 7.5 s, NVM and multiple command sets, 4 KiB to 64 KiB pages.
    let cap = Cap(0x0040_0020_0f01_07ff | 1 << 43);
    assert_eq!(cap.max_queue_entries(), 2048);
    assert_eq!((cap.cqr(), cap.timeout_ms(), cap.doorbell_stride()), (1, 7500, 4));
    assert_eq!((cap.min_page_size(), cap.max_page_size()), (4096, 65536));
    assert_eq!(cap.css(), Cap::CSS_NVM | Cap::CSS_IOCS);
    assert_eq!((cap.sq_doorbell(0), cap.cq_doorbell(0)), (0x1000, 0x1004));
    assert_eq!((cap.sq_doorbell(3), cap.cq_doorbell(3)), (0x1018, 0x101c));
    let wide = Cap::default().with_dstrd(4);
    assert_eq!(wide.cq_doorbell(1), 0x1000 + 3 * 64);
}

#[test]
fn configuration_status_and_queue_attributes() {
    assert_eq!(Cc::enabled(0).0, 0x0046_0001);
    assert_eq!(Cc::enabled(4).with_shn(Cc::SHN_NORMAL).0, 0x0046_4201);
    assert_eq!(Cc::enabled(0).with_en(0).0, 0x0046_0000);
    assert!(Csts(1).is_ready() && Csts(3).is_fatal() && !Csts(1).is_absent());
    assert!(Csts(u32::MAX).is_absent());
    assert_eq!(Csts(0b1000).shst(), Csts::SHST_COMPLETE);
    assert_eq!(Aqa::default().with_asqs(31).with_acqs(63).0, 0x003f_001f);
    // 16 MiB in units of 1 MiB.
    assert_eq!(CmbSz(16 << 12 | 2 << 8).bytes(), Some(16 << 20));
    assert_eq!(CmbSz(1 << 12 | 7 << 8).bytes(), None, "reserved unit");
}

#[test]
fn feature_values() {
    assert_eq!(NumberOfQueues::pairs(4).to_dword(), 0x0003_0003);
    assert_eq!(NumberOfQueues::pairs(0).to_dword(), 0);
    assert_eq!(NumberOfQueues::pairs(70_000).to_dword(), 0xfffe_fffe);
    let granted = NumberOfQueues::from_dword(0x0007_0003);
    assert_eq!((granted.submission, granted.completion, granted.queue_pairs()), (4, 8, 4));
    assert_eq!(HostBehavior::with_command_retry().as_bytes()[..4], [1, 0, 0, 0]);
}

proptest! {
    #[test]
    fn any_bytes_are_a_header(bytes in prop::array::uniform24(any::<u8>())) {
        let data = DataHeader::read_from_bytes(&bytes).expect("24 bytes");
        prop_assert_eq!(data.as_bytes(), bytes);
        let header = CommonHeader::read_from_bytes(&bytes[..8]).expect("8 bytes");
        prop_assert_eq!(header.flags.bits(), bytes[1], "unknown flags are kept");
        let text = format!("{data:?}");
        prop_assert!(text.contains("cccid"));
    }

    #[test]
    fn registers_keep_other_fields(raw: u64, mqes in 0u64..1 << 16, to in 0u64..1 << 8) {
        let cap = Cap(raw).with_mqes(mqes).with_to(to);
        prop_assert_eq!((cap.mqes(), cap.to()), (mqes, to));
        prop_assert_eq!(cap.0 & !0xff00_ffff, raw & !0xff00_ffff);
    }
}
