//! Who executes the instructions of an I/O: by layer, by function, and as a flame graph.
//!
//! `profile tcp|pci read|write BYTES DEPTH [QUERY] [--svg FILE] [--folded FILE]`, where QUERY is
//! what a URL may have, such as `?hdgst=1&ddgst=1`. It runs itself under callgrind, with few requests and
//! with many, and shows the difference, so that neither connecting nor the loop's own beginning is
//! in it. Over TCP the target is in another process, and answers are given time to come, so that nothing
//! is executed in vain.
//!
//! The flame graph has the loop at the top, and below each function what it called. Where the compiler
//! put the code of one file into a function of another, that part is a box named by the file. Folded
//! stacks are what other programs draw flame graphs from.

#![forbid(unsafe_code)]

mod flame;
mod layer;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use nvme_host_benches::callgrind::{Events, Place, Profile};
use nvme_host_benches::counted::{self, Work};

/// Requests of the shorter run and of the longer one.
const COUNTS: [u64; 2] = [2_000, 12_000];
/// Functions with less than so many instructions per request are not told.
const LEAST: f64 = 2.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Some(result) = counted::serve_or_run(&words) {
        return told(result);
    }
    told(profile(&words))
}

fn told(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("profile: {why}");
            ExitCode::FAILURE
        }
    }
}

fn profile(words: &[&str]) -> Result<(), String> {
    let (mut work, mut svg, mut folded) = (Vec::new(), None, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--svg" => svg = words.next(),
            "--folded" => folded = words.next(),
            word => work.push(word),
        }
    }
    let usage = "profile tcp|pci read|write BYTES DEPTH [QUERY] [--svg FILE] [--folded FILE]";
    let work = Work::parse(&work).ok_or(usage)?;
    let this = std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?;
    let profile = counted::slope(&this, &work, COUNTS)?;
    let profile = from_the_loop(profile);
    let total = profile.total();
    let title = format!("{work}: {:.0} instructions per request", total.instructions);
    println!("{title}, {:.2} atomic operations\n", total.atomics);
    print!("{}", layers(&profile));
    println!();
    print!("{}", functions(&profile));
    for (path, text) in [(svg, flame::draw(&title, &profile)), (folded, fold(&profile))] {
        if let Some(path) = path {
            std::fs::write(path, text).map_err(|e| format!("{path}: {e}"))?;
        }
    }
    Ok(())
}

/// Forgets who called the loop.
fn from_the_loop(profile: Profile) -> Profile {
    let mut trimmed = Profile::default();
    for (Place { mut stack, file }, events) in profile.0 {
        if let Some(at) = stack.iter().rposition(|frame| frame.name == counted::LOOP) {
            stack.drain(..at);
        }
        *trimmed.0.entry(Place { stack, file }).or_default() += events;
    }
    trimmed
}

/// A table of what each layer executes.
fn layers(profile: &Profile) -> String {
    let mut sums: BTreeMap<layer::Layer, Events> = BTreeMap::new();
    for (place, events) in &profile.0 {
        *sums.entry(layer::of(place)).or_default() += *events;
    }
    let mut text = "| layer | instructions |\n| --- | --- |\n".to_owned();
    for (layer, events) in sums.iter().filter(|(_, e)| e.instructions >= 0.5) {
        let _ = writeln!(text, "| {} | {:.0} |", layer.name(), events.instructions);
    }
    text
}

/// A table of functions, by what they execute themselves, and with what they call.
fn functions(profile: &Profile) -> String {
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (place, events) in &profile.0 {
        let Some(last) = place.stack.last() else { continue };
        sums.entry(&last.name).or_default().0 += events.instructions;
        let mut names: Vec<&str> = place.stack.iter().map(|frame| frame.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.iter().for_each(|name| sums.entry(name).or_default().1 += events.instructions);
    }
    let mut sums: Vec<_> = sums.into_iter().filter(|(_, (own, _))| *own >= LEAST).collect();
    sums.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    let mut text = "| function | its own | with what it calls |\n| --- | --- | --- |\n".to_owned();
    for (name, (own, all)) in sums {
        let _ = writeln!(text, "| `{name}` | {own:.0} | {all:.0} |");
    }
    text
}

/// A line for each stack, its frames and its count; thousandths of instructions, for they are whole
/// numbers.
fn fold(profile: &Profile) -> String {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for (place, events) in &profile.0 {
        let mut names: Vec<&str> = place.stack.iter().map(|frame| frame.name.as_str()).collect();
        names.extend(layer::inlined(place));
        *sums.entry(names.join(";")).or_default() += events.instructions * 1e3;
    }
    let mut text = String::new();
    for (stack, count) in sums.into_iter().filter(|(_, count)| *count >= 0.5) {
        let _ = writeln!(text, "{stack} {count:.0}");
    }
    text
}
