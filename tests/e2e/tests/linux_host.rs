//! Linux's own host in the guest and this one, side by side on the same target: what one writes,
//! the other reads.
use std::sync::Arc;

use nvme_core::ana::AnaState;
use nvme_core::buffer::Buffer;
use nvme_e2e::{Bed, Load, Nvmet, PORTS, Pattern, Session, Software, persistent};
use nvme_mpath::Head;
use nvme_vm::Guest;

const LEN: usize = 1 << 20;

/// Each host reads what the other one wrote, on a namespace.
fn exchange(guest: &Guest, session: &Session, head: &Arc<Head>, device: &str) {
    let block_size = u64::from(head.geometry().block_size);
    let mut channel = session.channel();
    let (ours, theirs) = (Pattern { salt: 21, version: 1 }, Pattern { salt: 22, version: 1 });
    let (here, there) = (4 << 20, 6 << 20);

    let half = LEN / 2;
    let data = ours.bytes(here, LEN);
    let _ = channel.write(head, here / block_size, data[..half].to_vec().into()).expect("a write");
    let slba = (here + half as u64) / block_size;
    let _ = channel.write(head, slba, data[half..].to_vec().into()).expect("a write");
    guest.upload("/tmp/expected", &data).expect("an upload");
    let read = format!(
        "dd if={device} of=/tmp/found bs=64k skip={} count={} iflag=direct && \
         cmp /tmp/expected /tmp/found && rm /tmp/expected /tmp/found",
        here / (64 << 10),
        LEN / (64 << 10)
    );
    let _ = guest.sh(&read).expect("Linux reads what this host wrote");

    guest.upload("/tmp/written", &theirs.bytes(there, LEN)).expect("an upload");
    let write = format!(
        "dd if=/tmp/written of={device} bs=64k seek={} oflag=direct && rm /tmp/written",
        there / (64 << 10)
    );
    let _ = guest.sh(&write).expect("Linux writes");
    for at in [0, half as u64] {
        let slba = (there + at) / block_size;
        let data = channel.read(head, slba, Buffer::zeroed(half)).expect("a read");
        assert_eq!(theirs.difference(there + at, data.as_slice()), None, "what Linux wrote");
    }
}

/// On the software target, with Linux on one port and this host on both.
#[test]
fn the_hosts_share_the_software_target() {
    let guest = Guest::shared().expect("the guest");
    let bed = Software::new();
    let session = Session::new(&bed);
    session.connect_all(&bed, &persistent());
    let port = bed.target.addr(0).expect("a listener").port();
    for options in ["nr_io_queues=2", "hdr_digest,data_digest"] {
        let linux = guest.linux_connect_with(port, bed.subnqn().as_str(), options);
        let linux = linux.unwrap_or_else(|e| panic!("{e}\n{}", guest.dmesg().unwrap_or_default()));
        for nsid in [1, 2] {
            let head = session.head(nsid);
            let device = guest.linux_device(&linux, nsid).expect("a device");
            exchange(&guest, &session, &head, &device);
            // Side by side: Linux in the first blocks, this host further on.
            let load = Load::start_at(session.channel(), &head, 8, 16 << 10, 64 << 20);
            guest.linux_verify(&device, 2 << 20).expect("Linux finds its data");
            load.stop().assert_clean();
        }
        guest.linux_disconnect(&linux).expect("Linux disconnects");
    }
    assert_eq!(bed.target.stats().terminated, 0, "nobody did what the target objects to");
    session.shutdown();
}

/// Both see the same ANA states, and I/O of both goes on through what is left.
#[test]
fn the_hosts_see_the_same_ana_states() {
    let guest = Guest::shared().expect("the guest");
    let bed = Software::new();
    let session = Session::new(&bed);
    session.connect_all(&bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let mut linux = Vec::new();
    for port in PORTS {
        let port = bed.target.addr(Software::listener(port)).expect("a listener").port();
        let nqn = bed.subnqn();
        linux.push(guest.linux_connect_with(port, nqn.as_str(), "nr_io_queues=1").expect("Linux"));
    }
    let device = guest.linux_device(&linux[0], 1).expect("a device");
    for state in [AnaState::Inaccessible, AnaState::NonOptimized, AnaState::Optimized] {
        bed.set_ana(1, 1, state);
        let script = format!(
            "for p in /sys/class/nvme/{name}/nvme*c*n*; do [ \"$(cat $p/nsid)\" = 1 ] && \
             [ \"$(cat $p/ana_state)\" = {state} ] && exit 0; done; exit 1",
            name = linux[0].name
        );
        let _ = guest.wait_for(&script, nvme_e2e::LIMIT).expect("Linux sees the state");
        let address = format!("tcp://{}", bed.address(1));
        nvme_e2e::wait_until("this host to see the state", || {
            head.paths().iter().any(|p| *p.address == *address && p.ana == state)
        });
        exchange(&guest, &session, &head, &device);
    }
    session.shutdown();
}

/// On Linux's target, with Linux's host in the same guest.
#[test]
fn the_hosts_share_nvmet() {
    let bed = Nvmet::new();
    let session = Session::new(&bed);
    session.connect_all(&bed, &persistent());
    let service = bed.guest.guest_addr(1).expect("a port").port();
    let nqn = bed.subnqn();
    let linux = bed.guest.linux_connect_to("127.0.0.1", service, nqn.as_str(), "");
    let linux = linux.expect("Linux connects to itself");
    for nsid in [1, 2] {
        let device = bed.guest.linux_device(&linux, nsid).expect("a device");
        exchange(&bed.guest, &session, &session.head(nsid), &device);
    }
    bed.guest.linux_disconnect(&linux).expect("Linux disconnects");
    session.shutdown();
}
