//! The guest boots, runs scripts and ends with its handle.
use std::net::TcpStream;
use std::time::Duration;

use nvme_vm::{Config, Error, Guest, Result};

#[test]
fn the_exit_status_and_both_outputs_come_back() -> Result<()> {
    let guest = Guest::shared()?;
    let output = guest.run("echo out; echo err >&2; exit 7")?;
    assert_eq!((output.code, output.text.as_str()), (7, "out\nerr\n"));
    assert_eq!(guest.run("kill -TERM $$")?.code, 128 + 15);
    assert!(guest.sh("uname -r")?.starts_with("6.12."));
    match guest.sh("echo why; false") {
        Err(Error::Script { code: 1, output, .. }) => assert_eq!(output, "why\n"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn a_script_that_runs_too_long_is_killed_with_its_children() -> Result<()> {
    let guest = Guest::shared()?;
    let script = "echo begun; sleep 1234 & sleep 1234; echo never";
    let output = guest.run_with(script, &[], Duration::from_millis(500))?;
    assert!(output.timed_out(), "{output:?}");
    assert_eq!(output.text, "begun\n");
    guest.wait_for("! pgrep -f 'sleep 1234' | grep -v $$", Duration::from_secs(20))?;
    Ok(())
}

#[test]
fn a_background_job_does_not_hold_the_reply() -> Result<()> {
    let guest = Guest::shared()?;
    assert_eq!(guest.sh("sleep 1000 & echo gone on")?, "gone on\n");
    guest.sh("kill $(pidof sleep)").map(drop)
}

#[test]
fn scripts_run_side_by_side() -> Result<()> {
    let guest = Guest::shared()?;
    std::thread::scope(|scope| {
        let waits =
            scope.spawn(|| guest.sh("until [ -e /tmp/go ]; do sleep 0.02; done; echo went"));
        guest.sh("touch /tmp/go")?;
        let waited = waits.join().expect("the waiting thread");
        assert_eq!(waited?, "went\n");
        guest.sh("rm /tmp/go").map(drop)
    })
}

#[test]
fn files_arrive_whole() -> Result<()> {
    let guest = Guest::shared()?;
    let bytes: Vec<u8> =
        (0..300_000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_be_bytes()).collect();
    guest.upload("/tmp/dir/file", &bytes)?;
    assert_eq!(guest.sh("stat -c '%s %a' /tmp/dir/file")?, "1200000 755\n");
    let odd = guest.run_with("cmp - /tmp/dir/file", &bytes, Duration::from_secs(60))?;
    assert!(odd.success(), "{odd:?}");
    guest.sh("rm -r /tmp/dir").map(drop)
}

#[test]
fn a_guest_of_ones_own_has_what_was_asked_for_and_ends_when_dropped() -> Result<()> {
    let config = Config {
        ports: 3,
        groups: 1,
        namespaces: Vec::new(),
        kernel_parameters: "nvme_vm.mark=1".to_owned(),
        ..Config::default()
    };
    let guest = Guest::boot(config)?;
    assert!(guest.is_running());
    assert!(guest.sh("cat /proc/cmdline")?.contains("nvme_vm.mark=1"));
    assert_eq!(guest.sh("ls /sys/kernel/config/nvmet/ports")?, "1\n2\n3\n");
    let address = guest.addr(3)?;
    assert!(matches!(guest.addr(4), Err(Error::Unknown { number: 4, .. })));
    drop(guest);
    TcpStream::connect(address).expect_err("QEMU listens no more");
    Ok(())
}

#[test]
fn a_panic_of_the_guest_is_told_with_its_console() -> Result<()> {
    let guest = Guest::boot(Config { ports: 1, namespaces: Vec::new(), ..Config::default() })?;
    match guest.run("echo c > /proc/sysrq-trigger") {
        Err(Error::Guest { console, .. }) => {
            assert!(console.contains("sysrq triggered crash"), "{console}")
        }
        other => panic!("{other:?}"),
    }
    assert!(guest.run("true").is_err());
    Ok(())
}
