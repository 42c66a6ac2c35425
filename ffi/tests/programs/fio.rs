//! `examples/c/fio-nvmehost.c`: fio's own verification.

use std::path::Path;
use std::process::Command;

use crate::bench::{Checked, finish, run, tmp, with_asan};
use crate::programs::{Ports, all, made, make, run_with_a_cut, target};

/// The job file; what differs is the engine.
pub fn job_text(engine: &str, more: &str) -> String {
    format!(
        "[global]\n{engine}\nthread=1\nrw=randrw\nverify=crc32c\nverify_fatal=1\nverify_state_save=0\niodepth=64\n\
         iodepth_batch=16\niodepth_batch_complete_min=1\nbs=4k\nsize=16m\noffset_increment=16m\n\
         numjobs=2\nrandrepeat=1\n{more}\n[job]\n"
    )
}

/// Runs a job, again and again until `$BACK` is there: once, unless the machine is slow.
pub const AGAIN: &str = r#"
    until [ -e "$BACK" ]; do
        fio "$1" || { echo "fio's own status: $?"; exit 1; }
    done"#;

fn job(name: &str, engine: &str, more: &str) -> String {
    let path = tmp().join(name);
    std::fs::write(&path, job_text(engine, more)).expect("room");
    path.display().to_string()
}

pub fn engine(engines: &Path, ports: &dyn Ports) -> String {
    format!(
        "ioengine=external:{}\nurl={}\nnvmeh_options=reconnect_delay_ms=100",
        engines.join("fio-nvmehost.so").display(),
        ports.urls().join(" ")
    )
}

pub fn assert_clean(text: &str) {
    assert!(text.contains("err= 0"), "{text}");
    for word in ["verify:", "nvmehost:", "AddressSanitizer", "err=1", "err= 5"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

/// Reads and writes by the engine, verified, while a path goes and comes. What fio said.
pub fn verify_with_a_cut(ports: &dyn Ports, name: &str, more: &str) -> String {
    let job = job(name, &engine(made(), ports), more);
    let text = run_with_a_cut(ports, Command::new("sh").args(["-c", AGAIN, "sh", &job]));
    assert_clean(&text);
    text
}

#[test]
fn data_are_verified_while_a_path_goes_and_comes() {
    // Again and again, for as long as it takes.
    verify_with_a_cut(&target(), "fio-software", "time_based=1\nruntime=6");
}

/// Trims, flushes, and blocks that differ in size.
const OTHERS: &str = "rw=randtrimwrite\nverify=0\nbs=4k-64k\nfsync=32\nsize=4m\nnumber_ios=400\n";

fn others(program: &mut Command, engines: &Path, name: &str) {
    let target = target();
    let trims = job(&format!("{name}-trims"), &engine(engines, &target), OTHERS);
    let verify = job(&format!("{name}-verify"), &engine(engines, &target), "size=2m");
    // Two job files make two groups of one process; the second gets its own host.
    let text = run(program.arg(trims).arg(verify));
    assert_clean(&text);
    assert!(text.contains("trim:"), "{text}");
}

#[test]
fn trims_and_flushes() {
    others(&mut Command::new("fio"), made(), "fio-plain");
}

/// Leaks are valgrind's: fio's own cannot be told from others by the sanitizer, which does not see past
/// fio's code.
#[test]
fn no_error_by_address_sanitizer() {
    let mut fio = with_asan("fio", &["ASAN_OPTIONS=detect_leaks=0"]);
    others(&mut fio, &make("gcc", "address"), "fio-asan");
}

#[test]
fn no_error_and_no_leak_by_valgrind() {
    let (checked, mut fio) = Checked::new("fio", "fio.supp", "fio");
    others(&mut fio, made(), "fio-valgrind");
    checked.assert_clean();
}

#[test]
fn what_cannot_be_is_said() {
    let target = target();
    let [url, _] = target.urls();
    let library = made().join("fio-nvmehost.so").display().to_string();
    let engine = format!("ioengine=external:{library}");
    for (at, (more, text)) in [
        (String::new(), "url= is missing"),
        (format!("url={url}\nnsid=9\nconnect_timeout=1"), "no namespace 9 within 1 s"),
        (format!("url={url}\nnvmeh_options=colour=red"), "does not exist"),
        (format!("url={url}\nnvmeh_options=depth"), "is not NAME=VALUE"),
        ("url=ftp://127.0.0.1/x".to_owned(), "ftp"),
        (format!("url={url}\nbs=512"), "no multiple of the block size"),
    ]
    .into_iter()
    .enumerate()
    {
        let job = job(&format!("fio-wrong{at}"), &engine, &more);
        let output = finish(Command::new("fio").arg(job));
        let said = all(&output);
        assert!(!output.status.success() && said.contains(text), "{more}: {said}");
    }
}
