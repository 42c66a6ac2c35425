//! A peer hangs up at each boundary of its PDUs, and within them, from the first byte of bring-up
//! into I/O. The host comes back by itself, and what it was doing is done.
use nvme_core::controller::State;
use nvme_core::spec::tcp::PduType;
use nvme_e2e::{Bed, LIMIT, Load, Session, Software, persistent, wait_until};
use nvme_target::{FaultAction, FaultRule, Transport};

use crate::proxy::{Cut, Proxy, Way};

/// A target whose reads and writes take several PDUs each.
fn bed() -> Software {
    let namespace = nvme_target::NamespaceConfig::memory(1, 64 << 20).block_size(512);
    let transport = Transport::new().r2t_bytes(4096).c2h_bytes(4096).max_h2c_data(4096);
    Software::start(
        |s| s.namespace(namespace).in_capsule(4096),
        |target| target.transport(transport),
    )
}

fn survives(bed: &Software, cut: Cut) {
    let proxy = Proxy::new(bed.target.addr(0).expect("a listener"), cut);
    let session = Session::new(bed);
    let url = format!("tcp://{}/{}", proxy.address(), bed.subnqn());
    let controller = session.host.connect(&url, persistent()).expect("a URL");
    // Bring-up may be what is cut; then it is tried again.
    let head = session.head(1);
    session.wait_usable(&head, 1);
    let load = Load::start(session.channel(), &head, 4, 16 << 10);
    wait_until(&format!("the peer to hang up at {cut:?}"), || proxy.has_cut());
    load.wait_more(20);
    load.stop().assert_clean();
    assert_eq!(controller.state(), State::Live);
    session.shutdown();
}

#[test]
fn a_peer_closes_at_each_pdu_boundary_of_its_own() {
    let bed = bed();
    for after in 0..70 {
        survives(&bed, Cut { way: Way::Down, after, bytes: 0 });
    }
}

#[test]
fn a_peer_closes_at_each_pdu_boundary_of_the_host() {
    let bed = bed();
    for after in 0..70 {
        survives(&bed, Cut { way: Way::Up, after, bytes: 0 });
    }
}

#[test]
fn a_peer_closes_within_pdus() {
    let bed = bed();
    for (i, bytes) in [1, 7, 8, 9, 23, 24, 25, 63, 127].into_iter().enumerate() {
        for after in [0, 1, 6, 12, 18, 30, 45] {
            survives(&bed, Cut { way: Way::Down, after: after + i as u64, bytes });
        }
    }
}

/// The same by the target's own doing, for each type of PDU that it sends.
#[test]
fn a_target_truncates_each_type_of_pdu() {
    let bed = bed();
    let session = Session::new(&bed);
    let controllers = session.connect_all(&bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 8, 16 << 10);
    for pdu in [PduType::CAPSULE_RESP, PduType::C2H_DATA, PduType::R2T, PduType::IC_RESP] {
        for bytes in [0, 1, 8, 16, 23, 24, 25, 100] {
            let rule = FaultRule::new(FaultAction::TruncateAt { pdu, bytes }).listener(0);
            let fault = bed.target.add_fault(rule.times(1));
            if pdu == PduType::IC_RESP {
                controllers[0].reset("to make it connect anew");
            }
            wait_until(&format!("{pdu:?} to be cut after {bytes} bytes"), || {
                bed.target.fault_hits(fault) == Some(1)
            });
            load.wait_more(10);
            let _ = bed.target.remove_fault(fault);
            session.wait_usable(&head, 2);
        }
    }
    load.stop().assert_clean();
    controllers[0].wait_ready(LIMIT).ok();
    session.shutdown();
}
