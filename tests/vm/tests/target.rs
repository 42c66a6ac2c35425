//! The guest's target answers, can be changed, and is as before after a reset.
mod common;

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use common::{initialize, wait_closed, wait_initialize};
use nvme_vm::{AnaState, Backing, Error, Guest, Namespace, Result};

const NVMET: &str = "/sys/kernel/config/nvmet";

/// Everything a test can change, as text.
fn state(guest: &Guest) -> Result<String> {
    guest.sh(&format!(
        "cd {NVMET} && ls -1 ports/*/subsystems hosts
         cd subsystems/{}/namespaces
         for n in *; do echo $n $(cat $n/enable $n/device_uuid $n/ana_grpid $n/device_path); done
         for n in *; do blockdev --getsize64 $(cat $n/device_path); done
         cd {NVMET}; grep . ports/*/ana_groups/*/ana_state
         nft list ruleset; dmsetup table; grep . /sys/block/dm-*/dm/suspended; ls /sys/class/nvme",
        guest.subnqn()
    ))
}

#[test]
fn both_ports_answer_an_initialize_request() -> Result<()> {
    let guest = Guest::shared()?;
    for port in [1, 2] {
        initialize(guest.addr(port)?).unwrap_or_else(|error| panic!("port {port}: {error}"));
    }
    assert_ne!(guest.addr(1)?, guest.addr(2)?);
    Ok(())
}

#[test]
fn discovery_answers_at_both_ports() -> Result<()> {
    let guest = Guest::shared()?;
    for port in [1, 2] {
        let address = guest.guest_addr(port)?;
        let (ip, service) = (address.ip(), address.port());
        let log = guest.sh(&format!(
            "modprobe nvme-tcp && nvme discover -t tcp -a {ip} -s {service} -o json"
        ))?;
        for word in [guest.subnqn(), &ip.to_string(), &service.to_string()] {
            assert!(log.contains(&format!("\"{word}\"")), "{word} in {log}");
        }
    }
    Ok(())
}

#[test]
fn an_ana_state_is_of_one_port_and_one_group() -> Result<()> {
    let guest = Guest::shared()?;
    for state in AnaState::ALL {
        guest.set_ana(1, 2, state)?;
        let seen = guest.sh(&format!("cd {NVMET}/ports && cat */ana_groups/*/ana_state"))?;
        assert_eq!(seen, format!("optimized\n{state}\noptimized\noptimized\n"));
    }
    assert!(matches!(guest.set_ana(3, 1, AnaState::Change), Err(Error::Unknown { number: 3, .. })));
    assert!(matches!(guest.set_ana(1, 3, AnaState::Change), Err(Error::Unknown { number: 3, .. })));
    Ok(())
}

#[test]
fn disabling_a_port_ends_its_connections_only() -> Result<()> {
    let guest = Guest::shared()?;
    let mut first = initialize(guest.addr(1)?).expect("port 1");
    let second = initialize(guest.addr(2)?).expect("port 2");
    guest.disable_port(1)?;
    wait_closed(&mut first);
    initialize(guest.addr(1)?).expect_err("a disabled port");
    second.set_nonblocking(true).expect("a socket's mode");
    let idle = (&second).read(&mut [0; 1]).expect_err("port 2 has nothing to say");
    assert_eq!(idle.kind(), io::ErrorKind::WouldBlock);
    guest.enable_port(1)?;
    wait_initialize(guest.addr(1)?);
    Ok(())
}

#[test]
fn cut_connections_end_and_new_ones_are_accepted() -> Result<()> {
    let guest = Guest::shared()?;
    let mut stream = initialize(guest.addr(2)?).expect("port 2");
    guest.cut_connections(2)?;
    wait_closed(&mut stream);
    initialize(guest.addr(2)?).expect("port 2 again");
    Ok(())
}

#[test]
fn dropped_traffic_is_silence_until_restored() -> Result<()> {
    let guest = Guest::shared()?;
    guest.drop_traffic(1)?;
    let mut stream = std::net::TcpStream::connect(guest.addr(1)?).expect("QEMU accepts");
    let mut request = [0; 128];
    (request[2], request[4]) = (128, 128);
    stream.write_all(&request).expect("QEMU's buffer");
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a limit");
    let error = stream.read(&mut [0; 1]).expect_err("nothing comes");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    initialize(guest.addr(2)?).expect("the other port");
    guest.restore_traffic(1)?;
    wait_initialize(guest.addr(1)?);
    Ok(())
}

#[test]
fn a_delayed_port_answers_late_and_the_other_does_not() -> Result<()> {
    let guest = Guest::shared()?;
    let delay = Duration::from_secs(2);
    let late = |port| -> Result<bool> {
        let begun = Instant::now();
        initialize(guest.addr(port)?).unwrap_or_else(|error| panic!("port {port}: {error}"));
        Ok(begun.elapsed() >= delay)
    };
    // A loaded machine may be slow once, but not always.
    let prompt = |port| (0..10).any(|_| matches!(late(port), Ok(false)));
    guest.delay_traffic(2, delay)?;
    assert!(late(2)? && prompt(1));
    guest.delay_traffic(1, delay)?;
    assert!(late(1)?);
    guest.restore_traffic(2)?;
    assert!(late(1)? && prompt(2));
    guest.reset()?;
    assert!(prompt(1));
    Ok(())
}

#[test]
fn reset_and_refused_traffic_come_back() -> Result<()> {
    let guest = Guest::shared()?;
    let mut stream = initialize(guest.addr(1)?).expect("port 1");
    guest.reset_traffic(1)?;
    // The reset comes in answer to what is sent: a header nobody sends is an error anyway.
    let _ = stream.write_all(&[0xff; 8]);
    wait_closed(&mut stream);
    guest.restore_traffic(1)?;
    wait_initialize(guest.addr(1)?);

    guest.refuse_connections(1)?;
    let refused = std::net::TcpStream::connect(guest.addr(1)?).expect_err("no listener");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    guest.accept_connections(1)?;
    wait_initialize(guest.addr(1)?);
    Ok(())
}

#[test]
fn a_reset_brings_everything_back() -> Result<()> {
    let guest = Guest::shared()?;
    let pristine = state(&guest)?;
    // Stays connected, silent, over all that follows.
    guest.linux_connect_to("127.0.0.1", 4420, guest.subnqn(), "")?;
    guest.set_ana(1, 1, AnaState::Inaccessible)?;
    guest.set_ana(2, 2, AnaState::PersistentLoss)?;
    guest.disable_port(2)?;
    guest.drop_traffic(1)?;
    guest.disable_namespace(2)?;
    guest.set_namespace_uuid(2, [0x5a; 16])?;
    guest.set_namespace_group(1, 2)?;
    guest.resize_namespace(1, 4096)?;
    let more = Namespace { nsid: 7, block_size: 4096, blocks: 256, group: 2, uuid: [7; 16] };
    guest.add_namespace(&more)?;
    guest.sh("echo dirty | dd of=/dev/mapper/ns1 conv=notrunc,fsync")?;
    guest.stall_namespace(7)?;
    guest.sh(&format!("mkdir {NVMET}/hosts/someone {NVMET}/ports/9"))?;
    let changed = state(&guest)?;
    for line in ["5a5a5a5a-5a5a", "persistent-loss", "dport 4420 drop", "nvme0", "someone", "ns7"] {
        assert!(changed.contains(line), "{line} in {changed}");
    }
    guest.reset()?;
    assert_eq!(state(&guest)?, pristine);
    assert_eq!(guest.peek(1, 0, 512)?, [0; 512]);
    initialize(guest.addr(1)?).expect("port 1");
    initialize(guest.addr(2)?).expect("port 2");
    Ok(())
}

#[test]
fn a_namespace_grows_and_shrinks_with_its_contents() -> Result<()> {
    let guest = Guest::shared()?;
    let size = || guest.sh("blockdev --getsize64 /dev/mapper/ns2");
    guest.sh("echo kept | dd of=/dev/mapper/ns2 conv=notrunc,fsync")?;
    for blocks in [40_000, 1000, 1 << 20] {
        guest.resize_namespace(2, blocks)?;
        assert_eq!(size()?, format!("{}\n", blocks * 4096));
    }
    assert_eq!(guest.peek(2, 0, 5)?, b"kept\n");
    guest.set_namespace_backing(2, Backing::Errors)?;
    assert!(guest.peek(2, 0, 5).is_err());
    guest.set_namespace_backing(2, Backing::Memory)?;
    assert_eq!(guest.peek(2, 0, 5)?, b"kept\n");
    assert_eq!(size()?, format!("{}\n", 4096_u64 << 20));
    guest.remove_namespace(2)?;
    assert!(size().is_err());
    Ok(())
}
