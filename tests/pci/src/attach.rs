//! Namespaces that are attached to a controller and detached from it by admin command.

use nvme_core::buffer::Buffer;
use nvme_core::nqn::Nqn;
use nvme_core::spec::Sqe;
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::transport::Data;
use nvme_e2e::{ChannelExt, LIMIT, Pattern, persistent, wait_until};
use nvme_mpath::{ChannelOptions, Controller, HeadState};

use crate::io::{head, host};

/// Namespace Attachment's SEL (NVMe 2.1 §5.1.20).
const ATTACH: u32 = 0;
const DETACH: u32 = 1;

/// With namespace `known` in use, has namespace `nsid` attached and detached, twice. Its head comes
/// and goes with it, by the controller's event alone.
///
/// # Panics
/// If anything is wrong.
pub fn attach(url: &str, nqn: &str, known: u32, nsid: u32) {
    let host = host();
    let first = head(&host, url, nqn, known, persistent());
    let controllers = host.controllers();
    let [controller] = controllers.as_slice() else { panic!("one controller: {controllers:?}") };
    let nqn = Nqn::new(nqn).expect("a name");
    let mut channel = host.channel(ChannelOptions::default()).expect("a channel");
    let mut pattern = Pattern { salt: 11, version: 0 };
    for _ in 0..2 {
        assert!(host.head(&nqn, nsid).is_none(), "namespace {nsid} is there already");
        send(controller, nsid, ATTACH);
        let head = host.wait_head(&nqn, nsid, LIMIT).expect("a head");
        pattern.version += 1;
        channel.put(&head, 3, 8192, pattern);
        channel.check(&head, 3, 8192, pattern);
        send(controller, nsid, DETACH);
        wait_until("the head's end", || matches!(head.state(), HeadState::Gone(_)));
        // The other one has seen nothing of it.
        channel.put(&first, 3, 8192, pattern);
        channel.check(&first, 3, 8192, pattern);
    }
    assert_eq!(controller.reconnects(), 0, "the controller was reset");
    drop((channel, first));
    host.shutdown_forced(LIMIT).expect("an end");
}

fn send(controller: &Controller, nsid: u32, select: u32) {
    let cntlid = controller.info().expect("a live controller").cntlid;
    // A controller list: how many, and which (NVMe 2.1 figure 137).
    let mut list = vec![0; 4096];
    list[..2].copy_from_slice(&1u16.to_le_bytes());
    list[2..4].copy_from_slice(&cntlid.to_le_bytes());
    let mut sqe = Sqe::new(AdminOpcode::NAMESPACE_ATTACHMENT.0, nsid);
    sqe.cdw10 = select.into();
    let result = controller.admin(sqe, Data::Write(Buffer::from(list)), LIMIT).expect("an answer");
    assert!(result.cqe.status().is_success(), "{select} of {nsid}: {:?}", result.cqe);
}
