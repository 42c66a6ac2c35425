//! The driver by every backend: verified I/O, and paths that are unplugged and plugged in.

use nvme_vm::{Config, Disks, Guest, Result, SHARED_NQN as NQN};

use crate::common::{LIMIT, PROGRAM, boot_with, run};

/// Where the controllers are.
const FIRST: &str = "0000:01:00.0";
const SECOND: &str = "0000:02:00.0";

/// A guest with two controllers of one subsystem.
fn boot_shared(disks: &Disks) -> Result<Guest> {
    boot_with(Config::for_two_controllers(disks))
}

/// What the program says that it counted under this name.
fn counted(output: &str, name: &str) -> u64 {
    let digits = output.rsplit(&format!("{name}: ")).next().unwrap_or_default();
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no {name} in {output}"))
}

/// Runs the program, which must succeed.
fn succeeds(guest: &Guest, arguments: &str) -> Result<String> {
    let output = run(guest, arguments)?;
    assert!(output.success(), "{arguments}: {}", output.text);
    Ok(output.text)
}

#[test]
fn io_is_verified_on_every_backend() -> Result<()> {
    let disks = Disks::new("io", 2)?;
    let mut config = Config::for_two_controllers(&disks);
    let trace = ["-trace".to_owned(), "pci_nvme_dbbuf_config".to_owned()];
    config.qemu_arguments.extend(trace);
    // As with machines before QEMU 7.1.
    let numbered = ["-global", "nvme-ns.eui64-default=on"].map(str::to_owned);
    config.qemu_arguments.extend(numbered);
    let guest = boot_with(config)?;
    let configured = || guest.console().matches("pci_nvme_dbbuf_config").count();
    let io = |url: &str, nsid: u32, queues: u32| -> Result<String> {
        succeeds(&guest, &format!("io '{url}' {NQN} {nsid} {queues}"))
    };
    guest.bind_function(FIRST, "vfio-pci")?;
    guest.bind_function(SECOND, "uio_pci_generic")?;
    let vfio = format!("vfio://{FIRST}");
    let uio = format!("uio://{SECOND}");
    // By looking and by interrupt, with SGLs and without, with doorbells in memory and without. QEMU
    // can do all of these, so that they must be used when they may.
    for (url, parameters, nsid, queues) in [
        (&vfio, "poll=1", 1, 1),
        (&vfio, "irq=1", 1, 4),
        (&vfio, "irq=1&sgl=0&shadow=0", 2, 1),
        (&vfio, "poll=1&sgl=4096", 2, 4),
        (&uio, "poll=1", 1, 1),
        (&uio, "sgl=0", 2, 4),
    ] {
        let before = configured();
        let more = format!("max_transfer=4194304&{parameters}");
        let told = io(&format!("{url}?{more}"), nsid, queues)?;
        // Told to the controller when it is enabled, and once more after the reset. It asks for a
        // write to the register whenever it has caught up, so that few are saved, if any.
        let times = if parameters.contains("shadow=0") { 0 } else { 2 };
        assert_eq!(configured() - before, times, "{parameters}: {}", guest.console());
        let used = counted(&told, " sgl") > 0;
        assert_eq!(used, !parameters.contains("sgl=0"), "{parameters}: {told}");
    }
    // QEMU's controller is known by its identifiers, and that its namespaces' EUI-64s are no good; the
    // URL may say otherwise.
    for url in [&vfio, &uio] {
        let told = succeeds(&guest, &format!("identity '{url}' {NQN} 1"))?;
        assert!(told.contains("device 1b36:0010:1af4:1100, quirks bogus-ids, no ident"), "{told}");
        let told = succeeds(&guest, &format!("identity '{url}?quirks=-bogus-ids,no-sgl' {NQN} 1"))?;
        assert!(told.contains("quirks no-sgl, eui64 "), "{told}");
    }
    // A function without interrupts says so.
    let output = run(&guest, &format!("io '{uio}?irq=1' {NQN} 1 1"))?;
    assert!(!output.success() && output.text.contains("interrupt"), "{}", output.text);
    // Data at every place of a page: in place where PRPs can name it, by way of a copy elsewhere.
    for (url, nsid) in [(&vfio, 1), (&vfio, 2), (&uio, 1)] {
        let told = succeeds(&guest, &format!("places '{url}?poll=1&sgl=0' {NQN} {nsid}"))?;
        assert!(counted(&told, "direct") >= 2 * 1024, "{told}");
        assert!(counted(&told, "bounced") >= 2 * 8, "{told}");
    }
    Ok(())
}

#[test]
fn a_load_survives_both_controllers_being_unplugged() -> Result<()> {
    let disks = Disks::new("failover", 2)?;
    let guest = boot_shared(&disks)?;
    guest.bind_function(FIRST, "vfio-pci")?;
    guest.bind_function(SECOND, "vfio-pci")?;
    guest.sh(&format!(
        "({PROGRAM} failover {NQN} 1 vfio://{FIRST} vfio://{SECOND} /run/stop; echo status $?) \
         > /run/log 2>&1 < /dev/null &"
    ))?;
    // The last line of the log, or the end of the program, which then says why.
    let last = |line: &str| -> Result<()> {
        guest
            .wait_for(&format!("tail -n 1 /run/log | grep -qx -e '{line}' -e 'status.*'"), LIMIT)?;
        let log = guest.sh("cat /run/log")?;
        assert_eq!(log.lines().last(), Some(line), "{log}");
        Ok(())
    };
    last("paths 2")?;
    // One path is taken away and comes back.
    guest.unplug("second")?;
    last("paths 1")?;
    guest.plug_second("vfio-pci")?;
    last("paths 2")?;
    // Both are taken away: the window opens. One comes back: it closes.
    guest.unplug("first")?;
    last("paths 1")?;
    guest.unplug("second")?;
    last("pending")?;
    guest.plug_second("vfio-pci")?;
    last("paths 1")?;
    guest.sh("touch /run/stop")?;
    last("clean")?;
    // Nothing comes back: the head is removed.
    guest.unplug("second")?;
    guest.wait_for("grep -q status /run/log", LIMIT)?;
    let log = guest.sh("cat /run/log")?;
    let end: Vec<&str> = log.lines().skip_while(|line| *line != "gone").collect();
    let story = [
        "gone",
        "scheduled LinkLost",
        "cancelled",
        "scheduled LinkLost",
        "removed delayed=true",
        "status 0",
    ];
    assert_eq!(end, story, "{log}");
    Ok(())
}
