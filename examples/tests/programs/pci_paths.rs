//! The quickstart on two controllers of QEMU's with one namespace, inside the guest.

use std::time::{Duration, Instant};

use nvme_vm::{Config, Disks, Guest};
use serde_json::Value;

use crate::common::quickstart;

const PROGRAM: &str = "/run/quickstart";
const FIRST: &str = "0000:01:00.0";
const SECOND: &str = "0000:02:00.0";
const LIMIT: Duration = Duration::from_secs(150);

/// What the program tells, line by line.
struct Story<'a> {
    guest: &'a Guest,
    /// Lines that were waited for already.
    read: usize,
}

impl Story<'_> {
    /// Waits for a line with all of these words. (By reading the file again and again: the guest tells
    /// of nothing that it was not asked for.)
    fn until(&mut self, words: &[&str]) {
        let end = Instant::now() + LIMIT;
        loop {
            let log = self.guest.sh("cat /run/log").unwrap();
            let mut lines = log.lines().enumerate().skip(self.read);
            if let Some((at, _)) = lines.find(|(_, l)| words.iter().all(|w| l.contains(w))) {
                self.read = at + 1;
                return;
            }
            let ended = log.lines().any(|line| line.starts_with("status "));
            assert!(!ended && Instant::now() < end, "no {words:?} in {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the disk has written much more, over whichever path. (By asking again and again: QEMU
    /// has the count, and no event for it.)
    fn until_work_goes_on(&self) {
        let begun = written(self.guest);
        let end = Instant::now() + LIMIT;
        while written(self.guest) < begun + 500 {
            assert!(Instant::now() < end, "the work does not go on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Writes that the disk of namespace 1 has carried out.
fn written(guest: &Guest) -> u64 {
    let all = guest.monitor("query-blockstats", &serde_json::json!({})).unwrap();
    let disk = all.as_array().unwrap().iter().find(|d| d["device"] == "disk0").expect("a disk");
    disk["stats"]["wr_operations"].as_u64().expect("a count")
}

#[test]
fn quickstart_follows_controllers_that_are_unplugged_and_plugged_in() {
    let disks = Disks::new("quickstart", 2).unwrap();
    let guest = Guest::boot(Config::for_two_controllers(&disks)).unwrap();
    guest.prepare_for_drivers().unwrap();
    guest.upload_program(PROGRAM, &quickstart()).unwrap();
    guest.bind_function(FIRST, "vfio-pci").unwrap();
    guest.bind_function(SECOND, "vfio-pci").unwrap();
    let options = "--manual --json --window 15";
    let urls = format!("--connect vfio://{FIRST} --connect vfio://{SECOND}");
    let run = format!("({PROGRAM} {options} {urls}; echo status $?) > /run/log 2>&1 < /dev/null &");
    guest.sh(&run).unwrap();

    let mut story = Story { guest: &guest, read: 0 };
    story.until(&["path B", "up"]);
    story.until(&["work"]);
    story.until_work_goes_on();
    // One goes: the other goes on.
    guest.unplug("first").unwrap();
    story.until(&["path A", "down"]);
    story.until_work_goes_on();
    // Both are gone: the window opens. One comes back within it.
    guest.unplug("second").unwrap();
    story.until(&["path B", "down"]);
    story.until(&["removal in"]);
    guest.plug_second("vfio-pci").unwrap();
    story.until(&["removal cancelled"]);
    story.until(&["path B", "up"]);
    story.until_work_goes_on();
    // It goes for good.
    guest.unplug("second").unwrap();
    story.until(&["path B", "down"]);
    story.until(&["head", "removed"]);
    story.until(&["status 0"]);

    let log = guest.sh("cat /run/log").unwrap();
    let json = log.lines().rfind(|line| line.starts_with('{')).expect(&log);
    let json: Value = serde_json::from_str(json).unwrap();
    let number = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("{key}: {log}"));
    for key in ["lost", "duplicated", "stale", "torn"] {
        assert_eq!(number(key), 0, "{key}: {log}");
    }
    // (Whether something is in flight on a function that goes is QEMU's affair: it may answer all.)
    assert!(number("judged_blocks") > 0, "{log}");
    // What waited for a path went on with it, and what waited in vain failed with the head.
    assert!(number("waited") > 0 && number("failed_after_removal") > 0, "{log}");
    assert_eq!(number("failed"), number("failed_after_removal"), "{log}");
    let told = ["removals_scheduled", "removals_cancelled", "removals_fired"].map(number);
    assert_eq!(told, [2, 1, 1], "{log}");
    assert_eq!(number("pins_after"), number("pins_before"), "{log}");
}
