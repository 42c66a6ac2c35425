//! The host on Linux's own target.
use nvme_core::buffer::Buffer;
use nvme_core::nqn::Nqn;
use nvme_e2e::{LIMIT, host};
use nvme_mpath::{ChannelOptions, ControllerOptions};
use nvme_vm::Guest;

#[test]
fn reads_what_it_wrote() {
    let guest = Guest::shared().unwrap();
    let host = host();
    let nqn = Nqn::new(guest.subnqn()).unwrap();
    for port in [1, 2] {
        let url = format!("tcp://{}/{nqn}", guest.addr(port).unwrap());
        let c = host.connect(&url, ControllerOptions::default()).unwrap();
        c.wait_ready(LIMIT).unwrap();
        eprintln!("{c:?} {:?}", c.info());
    }
    let head = host.wait_head(&nqn, 1, LIMIT).unwrap();
    eprintln!("{:?} {:?} {:?}", head, head.geometry(), head.paths());
    let mut channel = host.channel(ChannelOptions::default()).unwrap();
    let data: Vec<u8> = (0..8192u32).map(|i| (i * 7 % 251) as u8).collect();
    let _ = channel.write(&head, 8, data.clone().into()).unwrap();
    let back = channel.read(&head, 8, Buffer::zeroed(8192)).unwrap();
    assert_eq!(back.as_slice(), &data[..]);
    channel.sync(&head).unwrap();
    drop(channel);
    host.shutdown().unwrap();
}
