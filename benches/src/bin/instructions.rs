//! Counts instructions per I/O under callgrind and compares them with those on record.
//!
//! `instructions` fails if one has grown by more than the tolerance; `instructions --record` writes
//! them down (`benches/instructions.txt`). Counts do not depend on what else the machine does; a new
//! compiler changes them a little.
//!
//! What is counted is a loop in the process, run by this program itself as `instructions loop NAME
//! COUNT`: the slope between two counts, so that nothing else is in it.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;

use nvme_host_benches::bare::BareQueue;
use nvme_host_benches::{loops, target};
use nvme_mpath::{IoOp, PathPolicy};

/// How much more than on record is no failure, in percent.
const TOLERANCE: f64 = 5.0;
/// Requests of the shorter run and of the longer one.
const COUNTS: [u64; 2] = [2_000, 52_000];
const BYTES: usize = 4096;

/// The loops, by name.
fn names() -> Vec<String> {
    let mut names = vec!["bare".to_owned()];
    for policy in PathPolicy::ALL {
        names.extend([1, 2, 8].map(|paths| format!("head {policy} {paths}")));
    }
    names.push("head round-robin 1 together".to_owned());
    // A queue of 128 entries holds one fewer.
    names.extend([1, 127].map(|depth| format!("pci bare {depth}")));
    names.extend([1, 32, 128].map(|depth| format!("pci read {depth}")));
    names.extend(["pci read 128 together", "pci write 128"].map(str::to_owned));
    names
}

/// Runs the loop of a name.
fn run(name: &str, count: u64) -> Option<()> {
    let words: Vec<&str> = name.split(' ').collect();
    match words.as_slice() {
        ["bare"] => loops::bare(BYTES, 32, count),
        ["head", policy, paths, how @ ..] => {
            let (paths, policy) = (paths.parse().ok()?, policy.parse().ok()?);
            loops::head(BYTES, 32, count, paths, policy, how == ["together"]);
        }
        ["pci", "bare", depth] => {
            let mut queue = BareQueue::new(&target(0)).ok()?;
            queue.run(BYTES, depth.parse().ok()?, count).ok()?;
        }
        ["pci", op, depth, how @ ..] => {
            let op = if *op == "write" { IoOp::Write } else { IoOp::Read };
            loops::ring(op, BYTES, depth.parse().ok()?, count, how == ["together"]);
        }
        _ => return None,
    }
    Some(())
}

/// Instructions of one run of a loop.
fn total(name: &str, count: u64) -> Result<f64, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["loop", name, &count.to_string()])
        .output()
        .map_err(|e| format!("running valgrind: {e} (the Debian package `valgrind` has it)"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    let refs = told.lines().find_map(|line| line.split_once("Collected :"));
    match refs.and_then(|(_, number)| number.trim().parse().ok()) {
        Some(total) if output.status.success() => Ok(total),
        _ => Err(format!("{name}: {}\n{told}", output.status)),
    }
}

/// Instructions per request of a loop, by the least of two runs of each length: what goes on before the
/// first request takes more or fewer polls.
fn measure(name: &str) -> Result<f64, String> {
    let least = |count| Ok::<_, String>(total(name, count)?.min(total(name, count)?));
    let [short, long] = COUNTS;
    Ok((least(long)? - least(short)?) / (long - short) as f64)
}

fn measure_all() -> Result<BTreeMap<String, f64>, String> {
    let (todo, done) = (Mutex::new(names()), Mutex::new(Ok(BTreeMap::new())));
    let worker = || {
        while let Some(name) = todo.lock().ok().and_then(|mut names| names.pop()) {
            let measured = measure(&name);
            let Ok(mut done) = done.lock() else { return };
            match (measured, &mut *done) {
                (Ok(cost), Ok(map)) => drop(map.insert(name, cost)),
                (Err(error), all) => *all = Err(error),
                (Ok(_), Err(_)) => return,
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..workers {
            scope.spawn(worker);
        }
    });
    done.into_inner().unwrap_or_else(|_| Err("a worker panicked".into()))
}

fn record_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

/// What is on record: a line for each loop, its name and its count.
fn recorded() -> Result<BTreeMap<String, f64>, String> {
    let path = record_path();
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let entry = line.rsplit_once(' ').and_then(|(name, count)| {
                count.parse().ok().map(|count| (name.trim_end().to_owned(), count))
            });
            entry.ok_or_else(|| format!("{}: {line:?} is no name and count", path.display()))
        })
        .collect()
}

/// Whether all is as it was, or better.
fn compare(measured: &BTreeMap<String, f64>) -> Result<bool, String> {
    let recorded = recorded()?;
    let mut good = true;
    for name in names() {
        let now = measured.get(&name).copied().unwrap_or_default();
        let Some(before) = recorded.get(&name) else {
            return Err(format!("{name}: not on record; `instructions --record` writes it down"));
        };
        let change = (now / before - 1.0) * 100.0;
        let verdict = if change > TOLERANCE { "GROWN" } else { "" };
        println!("{name:28} {now:7.1}  on record {before:7.1}  {change:+5.1} % {verdict}");
        good &= change <= TOLERANCE;
    }
    Ok(good)
}

fn record(measured: &BTreeMap<String, f64>) -> Result<bool, String> {
    let mut text =
        "# User-space instructions per I/O of 4 KiB, loop and device included; written by \
                    `instructions --record`.\n"
            .to_owned();
    for name in names() {
        let count = measured.get(&name).copied().unwrap_or_default();
        let _ = writeln!(text, "{name:28} {count:.1}");
    }
    print!("{text}");
    let path = record_path();
    std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(true)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["loop", name, count] => {
            let ran = count.parse().ok().and_then(|count| run(name, count));
            ran.map(|()| true).ok_or_else(|| format!("no loop {name} {count}"))
        }
        [] => measure_all().and_then(|measured| compare(&measured)),
        ["--record"] => measure_all().and_then(|measured| record(&measured)),
        _ => Err("instructions [--record]".to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
