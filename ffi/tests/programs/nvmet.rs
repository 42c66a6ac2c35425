//! nbdkit and fio on Linux's own target, in the guest; and Linux's own host on it, beside.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nvme_vm::{Config, Guest, Namespace};

use crate::fio::{AGAIN, assert_clean, job_text, verify_with_a_cut};
use crate::nbd::{copy, patterns};
use crate::programs::{Ports, cut_while, made, until};

/// Bytes that a port of the guest has moved when there is I/O: more than any bring-up moves.
const SOME: u64 = 1 << 20;

/// The guest of these tests, which takes one at a time.
struct Nvmet(MutexGuard<'static, Option<Guest>>);

impl Nvmet {
    /// The guest, in its first state: namespace 1 has 256 MiB in blocks of 4096 bytes.
    fn get() -> Self {
        static ONE: Mutex<Option<Guest>> = Mutex::new(None);
        let mut one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guest) = &*one {
            guest.reset().expect("a target in its first state");
        } else {
            // One processor that is busy with I/O has little time for the harness's scripts.
            let mut config = Config { memory_mib: 1024, processors: 2, ..Config::default() };
            config.namespaces.retain(|namespace| namespace.nsid == 1);
            for Namespace { block_size, blocks, .. } in &mut config.namespaces {
                (*block_size, *blocks) = (4096, 256 << 8);
            }
            *one = Some(Guest::boot(config).expect("a guest"));
        }
        Self(one)
    }

    fn guest(&self) -> &Guest {
        self.0.as_ref().expect("a guest since `get`")
    }
}

impl Ports for Nvmet {
    fn urls(&self) -> [String; 2] {
        let guest = self.guest();
        [1, 2].map(|at| format!("tcp://{}/{}", guest.addr(at).expect("a port"), guest.subnqn()))
    }

    fn cut(&self) {
        self.guest().disable_port(1).expect("disabling");
    }

    fn restore(&self) {
        self.guest().enable_port(1).expect("enabling");
    }

    fn some_io(&self, first_port: bool, running: &dyn Fn() -> bool) -> bool {
        let port = if first_port { 1 } else { 2 };
        let moved = || self.guest().moved(port).expect("a port");
        let before = moved();
        until("I/O", running, || moved() - before > SOME)
    }
}

#[test]
fn an_image_is_copied_in_and_out_while_a_path_goes_and_comes() {
    copy(&Nvmet::get(), "image-nvmet", 256);
}

#[test]
fn patterns_and_load_by_qemu() {
    patterns(&mut Command::new("nbdkit"), made(), &Nvmet::get(), "nbd-nvmet");
}

/// Longest run of fio in the guest.
const LIMIT: Duration = Duration::from_secs(240);

/// What fio says of its speed.
fn speeds(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    lines.filter(|l| l.contains("IOPS=")).collect::<Vec<_>>().join("; ")
}

const MORE: &str = "time_based=1\nruntime=20";

/// The same target as Linux's own host in the guest sees it, by the loopback interface.
struct Inside<'a>(&'a Nvmet);

impl Inside<'_> {
    /// Connects at both ports; gives the block device over both paths.
    fn connect(&self) -> String {
        let guest = self.0.guest();
        let connect = |port: u16| {
            let service = guest.guest_addr(port).expect("a port").port();
            let more = "reconnect_delay=1,ctrl_loss_tmo=600";
            let connected = guest.linux_connect_to("127.0.0.1", service, guest.subnqn(), more);
            connected.expect("a controller of Linux's host")
        };
        let [first, _] = [1, 2].map(connect);
        let two = "[ $(ls -d /sys/block/nvme*c*n1 | wc -l) = 2 ]";
        guest.wait_for(two, Duration::from_secs(60)).expect("two paths");
        guest.linux_device(&first, 1).expect("a device over two paths")
    }
}

impl Ports for Inside<'_> {
    fn urls(&self) -> [String; 2] {
        self.0.urls()
    }

    fn cut(&self) {
        self.0.cut();
    }

    fn restore(&self) {
        self.0.restore();
    }

    fn some_io(&self, first_port: bool, running: &dyn Fn() -> bool) -> bool {
        // Field 9 of a path's statistics is what is in flight, 1 and 5 are what has ended.
        let service = self.0.guest().guest_addr(1 + u16::from(!first_port)).expect("a port").port();
        let ended = || -> u64 {
            let script = format!(
                "for c in /sys/class/nvme/nvme*; do
                    grep -q trsvcid={service} $c/address && cat $c/nvme*c*n1/stat
                 done"
            );
            let text = self.0.guest().run(&script).expect("statistics").text;
            let fields: Vec<u64> =
                text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            [0, 4].iter().filter_map(|at| fields.get(*at)).sum()
        };
        let before = ended();
        until("I/O", running, || ended() > before)
    }
}

#[test]
fn data_are_verified_while_a_path_goes_and_comes() {
    let nvmet = Nvmet::get();
    let text = verify_with_a_cut(&nvmet, "fio-nvmet", MORE);
    println!("libnvmehost: {}", speeds(&text));

    // The same job by Linux's own host in the guest, over the same target.
    let guest = nvmet.guest();
    guest.reset().expect("a target in its first state");
    let inside = Inside(&nvmet);
    let engine = format!("ioengine=libaio\ndirect=1\nfilename={}", inside.connect());
    guest.upload("/tmp/job", job_text(&engine, MORE).as_bytes()).expect("room for the job file");
    guest.upload_program("/bin/fio", "/usr/bin/fio".as_ref()).expect("room for fio");
    // Linux's host sends in the name of the process that submits, and does not ask for no signal: one that
    // meets the cut in that moment gets SIGPIPE from a device, and fio ends by it without a word.
    let script = format!("trap '' PIPE; cd /tmp; BACK=/tmp/back; set -- job; {AGAIN}");
    let run = || guest.run_with(&script, &[], LIMIT).expect("an end");
    let back = || drop(guest.sh("touch /tmp/back").expect("a file"));
    let (seen, output) = cut_while(&inside, run, back);
    assert!(output.success() && seen, "path back: {seen}; fio: {}: {}", output.code, output.text);
    assert_clean(&output.text);
    println!("Linux: {}", speeds(&output.text));
}
