//! Linux's own host in the guest reaches a target on the machine that runs the test.
//!
//! The target here is the guest's own, by the port QEMU forwards to it: from the guest out to the
//! host's loopback address and back in.
use nvme_vm::{Backing, Error, Guest, Result};

#[test]
fn linux_connects_to_the_host_machine_and_its_data_are_right() -> Result<()> {
    let guest = Guest::shared()?;
    let controller = guest.linux_connect(guest.addr(1)?.port(), guest.subnqn())?;
    assert_eq!(guest.linux_state(&controller)?, "live");
    for nsid in [1, 2] {
        let device = guest.linux_device(&controller, nsid)?;
        guest.linux_verify(&device, 1 << 20)?;
        let block =
            guest.sh(&format!("cat /sys/block/{}/queue/logical_block_size", &device[5..]))?;
        assert_eq!(block, format!("{}\n", guest.namespace(nsid)?.block_size));
    }
    assert_ne!(guest.peek(1, 0, 64)?, [0; 64]);
    guest.linux_disconnect(&controller)?;
    guest.linux_disconnect(&controller)?;
    Ok(())
}

#[test]
fn digests_are_an_option() -> Result<()> {
    let guest = Guest::shared()?;
    let options = "hdr_digest,data_digest,nr_io_queues=1";
    let controller = guest.linux_connect_with(guest.addr(2)?.port(), guest.subnqn(), options)?;
    let device = guest.linux_device(&controller, 2)?;
    guest.linux_verify(&device, 1 << 20)
}

#[test]
fn a_wrong_name_is_refused_with_the_kernels_words() -> Result<()> {
    let guest = Guest::shared()?;
    match guest.linux_connect(guest.addr(1)?.port(), "nqn.2014-08.com.example:nobody") {
        Err(Error::Script { output, .. }) => assert!(output.contains("nvme"), "{output}"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn failed_writes_and_wrong_data_are_found() -> Result<()> {
    let guest = Guest::shared()?;
    let controller = guest.linux_connect(guest.addr(1)?.port(), guest.subnqn())?;
    let device = guest.linux_device(&controller, 2)?;
    guest.set_namespace_backing(2, Backing::Errors)?;
    assert!(guest.linux_verify(&device, 1 << 20).is_err());
    guest.set_namespace_backing(2, Backing::Memory)?;
    // A device that forgets: reads give zeros whatever is written.
    guest.sh("dmsetup reload ns2 --table '0 262144 zero' && dmsetup resume ns2")?;
    match guest.linux_verify(&device, 1 << 20) {
        Err(Error::Script { output, .. }) => assert!(output.contains("differ"), "{output}"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn a_target_that_falls_silent_does_not_hold_the_next_test() -> Result<()> {
    let guest = Guest::shared()?;
    let controller = guest.linux_connect(guest.addr(1)?.port(), guest.subnqn())?;
    guest.linux_device(&controller, 1)?;
    guest.drop_traffic(1)?;
    guest.stall_namespace(2)?;
    guest.refuse_connections(2)?;
    guest.freeze()?;
    guest.reset()?;
    assert_eq!(guest.sh("ls /sys/class/nvme")?, "");
    guest.linux_connect(guest.addr(2)?.port(), guest.subnqn()).map(drop)
}
