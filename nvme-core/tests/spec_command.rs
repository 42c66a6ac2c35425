//! Commands and completions as bytes. Expected bytes are written out from the specification's figures.

use nvme_core::spec::command::{
    BlockOp, DsmAttributes, DsmRange, FeatureSelect, GetLogPage, Identify, IoFlags, Psdt,
    SUBTYPE_TRANSPORT, SglType,
};
use nvme_core::spec::opcode::{DataDirection, NvmOpcode};
use nvme_core::spec::{BlockCount, CommandError, Cqe, NSID_ALL, SglDescriptor, Sqe, Status};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

fn bytes(sqe: &Sqe) -> [u8; 64] {
    sqe.as_bytes().try_into().expect("64 bytes")
}

#[test]
fn a_read_is_laid_out_as_the_figures_say() {
    let blocks = BlockCount::new(8).expect("8 blocks");
    let mut sqe = Sqe::read(1, 0x1122_3344_5566_7788, blocks).with_cid(0xabcd);
    sqe.set_prp(0x1_0000, 0x2_0000);
    let mut expected = [0u8; 64];
    expected[0] = 0x02;
    expected[2..4].copy_from_slice(&[0xcd, 0xab]);
    expected[4] = 1;
    expected[26] = 0x01; // PRP1 = 10000h, from byte 24
    expected[34] = 0x02; // PRP2 = 20000h, from byte 32
    expected[40..48].copy_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    expected[48] = 7; // 0's based
    assert_eq!(bytes(&sqe), expected);
    assert_eq!(sqe.psdt(), Psdt::Prp);
    assert_eq!(sqe.prp(), (0x1_0000, 0x2_0000));
    // The same in one go.
    let read = BlockOp::new(NvmOpcode::READ, 1, blocks, IoFlags::empty());
    let words = read.words(0x1122_3344_5566_7788, 0xabcd, [0x1_0000, 0x2_0000]);
    assert_eq!(words.as_bytes(), expected);
    let force = BlockOp::new(NvmOpcode::WRITE, 0x0102_0304, blocks, IoFlags::FORCE_UNIT_ACCESS);
    let sqe = force.at(5);
    assert_eq!((sqe.opcode, sqe.nsid.get(), sqe.slba()), (1, 0x0102_0304, 5));
    assert_eq!((sqe.cdw12.get(), sqe.prp(), sqe.cid.get()), (1 << 30 | 7, (0, 0), 0));
}

#[test]
fn sgl_descriptors_have_the_types_that_tcp_wants() {
    let mut sqe = Sqe::write(7, 0, BlockCount::ONE);
    sqe.set_sgl(SglDescriptor::transport(4096));
    assert_eq!(sqe.flags, 0x40);
    assert_eq!(sqe.psdt(), Psdt::Sgl);
    let expected = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x5a];
    assert_eq!(sqe.dptr, expected);
    assert_eq!(sqe.sgl().sgl_type(), SglType::TRANSPORT_DATA_BLOCK);
    assert_eq!(sqe.sgl().subtype(), SUBTYPE_TRANSPORT);

    sqe.set_sgl(SglDescriptor::in_capsule(0, 512));
    assert_eq!(sqe.dptr[8..], [0, 2, 0, 0, 0, 0, 0, 0x01]);
    sqe.set_prp(0, 0);
    assert_eq!(sqe.flags, 0);
}

#[test]
fn block_counts_end_at_65536() {
    assert_eq!(BlockCount::new(0), None);
    assert_eq!(BlockCount::new(65537), None);
    assert_eq!(BlockCount::new(65536), Some(BlockCount::MAX));
    assert_eq!(BlockCount::MAX.nlb(), 0xffff);
    assert_eq!(BlockCount::MAX.get(), 65536);
    assert_eq!(BlockCount::new(1), Some(BlockCount::ONE));
}

#[test]
fn opcodes_tell_the_direction_of_data() {
    assert_eq!(Sqe::flush(1).data_direction(), DataDirection::None);
    assert_eq!(Sqe::write(1, 0, BlockCount::ONE).data_direction(), DataDirection::HostToController);
    assert_eq!(
        Sqe::compare(1, 0, BlockCount::ONE).data_direction(),
        DataDirection::HostToController
    );
    assert_eq!(Sqe::read(1, 0, BlockCount::ONE).data_direction(), DataDirection::ControllerToHost);
    assert_eq!(Sqe::write_zeroes(1, 0, BlockCount::ONE).data_direction(), DataDirection::None);
    assert_eq!(Sqe::identify(1, 0).data_direction(), DataDirection::ControllerToHost);
    // A fabrics command has its direction in the type, not in opcode 7Fh.
    let connect = Sqe::connect(0, 31, Default::default(), 0);
    assert_eq!(connect.data_direction(), DataDirection::HostToController);
    assert_eq!(
        Sqe::property_get(0, nvme_core::spec::fabrics::PropertySize::Eight).data_direction(),
        DataDirection::None
    );
}

#[test]
fn flags_and_ranges_of_block_commands() {
    let sqe = Sqe::write(1, 5, BlockCount::ONE).with_io_flags(IoFlags::FORCE_UNIT_ACCESS);
    assert_eq!(sqe.cdw12.get(), 0x4000_0000);
    assert_eq!(sqe.io_flags(), IoFlags::FORCE_UNIT_ACCESS);
    assert_eq!(sqe.block_count(), BlockCount::ONE);

    let dsm = Sqe::dataset_management(1, 256, DsmAttributes::DEALLOCATE).expect("256 ranges");
    assert_eq!((dsm.opcode, dsm.cdw10.get(), dsm.cdw11.get()), (0x09, 255, 4));
    for ranges in [0, 257] {
        let refused = Sqe::dataset_management(1, ranges, DsmAttributes::empty());
        assert_eq!(refused, Err(CommandError::DsmRanges(ranges)));
    }
    let range = DsmRange::new(0x10, 0x20);
    assert_eq!(range.as_bytes(), [0, 0, 0, 0, 0x20, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn admin_commands_fill_their_dwords() {
    let abort = Sqe::abort(3, 0x1234);
    assert_eq!((abort.opcode, abort.cdw10.get()), (0x08, 0x1234_0003));
    let get = Sqe::get_features(0x0b, FeatureSelect::Saved, 0, 0);
    assert_eq!((get.opcode, get.cdw10.get()), (0x0a, 0x0000_020b));
    let set = Sqe::set_features(0x07, true, 0, 0x0003_0003);
    assert_eq!((set.opcode, set.cdw10.get(), set.cdw11.get()), (0x09, 0x8000_0007, 0x0003_0003));

    let cq = Sqe::create_io_cq(2, 1024, 0xdead_0000, Some(5)).expect("legal size");
    assert_eq!((cq.opcode, cq.cdw10.get(), cq.cdw11.get()), (0x05, 0x03ff_0002, 0x0005_0003));
    assert_eq!(cq.prp(), (0xdead_0000, 0));
    let polled = Sqe::create_io_cq(2, 2, 0, None).expect("legal size");
    assert_eq!(polled.cdw11.get(), 1);
    let sq = Sqe::create_io_sq(2, 65536, 0, 9).expect("legal size");
    assert_eq!((sq.opcode, sq.cdw10.get(), sq.cdw11.get()), (0x01, 0xffff_0002, 0x0009_0001));
    assert_eq!(Sqe::create_io_sq(2, 1, 0, 9), Err(CommandError::QueueSize(1)));
    assert_eq!(Sqe::create_io_cq(2, 65537, 0, None), Err(CommandError::QueueSize(65537)));
    assert_eq!(Sqe::delete_io_sq(4).opcode, 0x00);
    assert_eq!(Sqe::delete_io_cq(4).opcode, 0x04);
    assert_eq!(Sqe::keep_alive().opcode, 0x18);
    assert_eq!(Sqe::async_event_request().opcode, 0x0c);

    let reset = Sqe::cross_controller_reset(0x0102, 0x03, 0x1122_3344_5566_7788);
    assert_eq!((reset.opcode, reset.cdw10.get()), (0x38, 0x0003_0102));
    assert_eq!((reset.cdw12.get(), reset.cdw13.get()), (0x5566_7788, 0x1122_3344));
}

#[test]
fn log_page_reads_count_dwords() {
    let args =
        GetLogPage { rae: true, lsp: 1, offset: 0x1_0000_0004, ..GetLogPage::new(0x0c, 4 << 17) };
    let sqe = args.to_sqe().expect("whole dwords");
    // 131072 dwords less one: FFFFh low, 1 high.
    assert_eq!(sqe.cdw10.get(), 0xffff_810c);
    assert_eq!(sqe.cdw11.get(), 0x0000_0001);
    assert_eq!((sqe.cdw12.get(), sqe.cdw13.get()), (4, 1));
    assert_eq!(sqe.nsid.get(), NSID_ALL);

    for len in [0, 2, 7, (1 << 34) + 4] {
        let refused = GetLogPage::new(0x02, len).to_sqe();
        assert_eq!(refused, Err(CommandError::LogLength { lid: 0x02, len }));
    }
    let refused = GetLogPage { offset: 6, ..GetLogPage::new(0x02, 512) }.to_sqe();
    assert_eq!(refused, Err(CommandError::LogOffset { lid: 0x02, offset: 6 }));
}

#[test]
fn a_completion_keeps_phase_and_status_apart() {
    let raw = [0x78, 0x56, 0x34, 0x12, 0xef, 0, 0, 0, 9, 0, 1, 0, 0x34, 0x12, 0x05, 0x86];
    let cqe = Cqe::read_from_bytes(&raw).expect("16 bytes");
    assert_eq!(cqe.result(), 0xef_1234_5678);
    assert_eq!((cqe.sqhd.get(), cqe.sqid.get(), cqe.cid.get()), (9, 1, 0x1234));
    assert!(cqe.phase());
    // 8605h: phase 1; status field 4302h: DNR, type 3, code 2.
    assert!(cqe.status().is(Status::ANA_INACCESSIBLE));
    assert!(cqe.status().dnr());
}

proptest! {
    #[test]
    fn log_page_arguments_survive(
        nsid: u32, lid: u8, lsp in 0u8..128, lsi: u16, rae: bool, dwords in 1u64..=1 << 32, offset in 0..u64::MAX / 4,
        csi: u8, uuid_index in 0u8..128,
    ) {
        let args = GetLogPage { nsid, lid, lsp, lsi, rae, len: dwords * 4, offset: offset * 4, csi, uuid_index };
        let sqe = args.to_sqe().expect("whole dwords");
        prop_assert_eq!(GetLogPage::from_sqe(&sqe), args);
    }

    #[test]
    fn identify_arguments_survive(nsid: u32, cns: u8, cntid: u16, cnssid: u16, csi: u8, uuid_index in 0u8..128) {
        let args = Identify { nsid, cns, cntid, cnssid, csi, uuid_index };
        prop_assert_eq!(Identify::from_sqe(&args.into()), args);
    }

    #[test]
    fn block_commands_survive(nsid: u32, slba: u64, blocks in 1u32..=65536) {
        let count = BlockCount::new(blocks).expect("in range");
        let sqe = Sqe::read(nsid, slba, count);
        let back = Sqe::read_from_bytes(sqe.as_bytes()).expect("64 bytes");
        prop_assert_eq!((back.slba(), back.block_count().get(), back.nsid.get()), (slba, blocks, nsid));
    }

    #[test]
    fn completions_survive(cid: u16, raw_status in 0u16..0x8000, result: u64, phase: bool) {
        let mut cqe = Cqe::new(cid, Status::from_raw(raw_status), result);
        cqe.set_status(Status::from_raw(raw_status), phase);
        prop_assert_eq!((cqe.result(), cqe.status().raw(), cqe.phase()), (result, raw_status, phase));
    }
}
