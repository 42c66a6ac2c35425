//! What a program executes, as callgrind counts it, and by whom.
//!
//! Counted are instructions, and *bus events*: atomic operations that read, change and write memory
//! in one step. Every lock is taken by one, contended or not, and every reference count changed by
//! one.

use std::collections::{BTreeMap, HashMap};
use std::ops::AddAssign;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Callers that are told apart; more than there are between a loop of I/O and what it ends in.
const CALLERS: u32 = 16;

/// Counts of one place.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Events {
    /// Instructions in user space.
    pub instructions: f64,
    /// Atomic read-modify-write operations.
    pub atomics: f64,
}

impl AddAssign for Events {
    fn add_assign(&mut self, other: Self) {
        self.instructions += other.instructions;
        self.atomics += other.atomics;
    }
}

impl Events {
    fn is_nothing(&self) -> bool {
        self.instructions.abs() < 1e-9 && self.atomics.abs() < 1e-9
    }
}

/// A function that was called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    /// Its name, without what it is generic over.
    pub name: String,
    /// The file that its code is from, as the compiler was given it; empty if nobody knows.
    pub file: String,
}

/// Where something was executed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Who called, the outermost first, and last the function itself.
    pub stack: Vec<Frame>,
    /// The file that the code is from: another one than the function's where a call was inlined.
    pub file: String,
}

/// Counts by place.
#[derive(Clone, Debug, Default)]
pub struct Profile(pub BTreeMap<Place, Events>);

impl Profile {
    /// The sum over all places.
    #[must_use]
    pub fn total(&self) -> Events {
        let mut sum = Events::default();
        self.0.values().for_each(|events| sum += *events);
        sum
    }

    /// What each of `count` requests more costs, where `self` did so many more than `other`.
    #[must_use]
    pub fn slope(&self, other: &Self, count: u64) -> Self {
        let mut by_place = self.0.clone();
        for (place, events) in &other.0 {
            let difference = by_place.entry(place.clone()).or_default();
            difference.instructions -= events.instructions;
            difference.atomics -= events.atomics;
        }
        for events in by_place.values_mut() {
            events.instructions /= count as f64;
            events.atomics /= count as f64;
        }
        by_place.retain(|_, events| !events.is_nothing());
        Self(by_place)
    }
}

/// Runs a program under callgrind, and counts what it does within functions whose symbol contains
/// one of `inside`, on whatever thread.
///
/// # Errors
/// When valgrind is not there, the program fails, or what callgrind wrote cannot be read.
pub fn run(program: &Path, arguments: &[&str], inside: &[&str]) -> Result<Profile, String> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let name = format!("callgrind-{}-{number}", std::process::id());
    let file = std::env::temp_dir().join(name);
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-bus=yes", "--demangle=no"]);
    command.arg(format!("--separate-callers={CALLERS}"));
    command.args(inside.iter().map(|name| format!("--toggle-collect=*{name}*")));
    command.arg(format!("--callgrind-out-file={}", file.display()));
    let output = command.arg(program).args(arguments).output();
    let text = std::fs::read(&file);
    let _ = std::fs::remove_file(&file);
    let output = output
        .map_err(|e| format!("running valgrind: {e} (the Debian package `valgrind` has it)"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} {arguments:?}: {}\n{told}", program.display(), output.status));
    }
    let text = text.map_err(|e| format!("{}: {e}", file.display()))?;
    parse(&String::from_utf8_lossy(&text))
}

/// Texts that are given a number where they first occur, and are told by it from then on.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn get(&mut self, text: &str) -> String {
        let Some((number, name)) = text.strip_prefix('(').and_then(|t| t.split_once(')')) else {
            return text.to_owned();
        };
        match name.trim() {
            "" => self.0.get(number).cloned().unwrap_or_default(),
            name => {
                self.0.insert(number.to_owned(), name.to_owned());
                name.to_owned()
            }
        }
    }
}

/// Reads what callgrind writes (Valgrind manual, *Callgrind Format Specification*): lines that say
/// where, and lines of a position and counts.
fn parse(text: &str) -> Result<Profile, String> {
    let (mut files, mut functions) = (Names::default(), Names::default());
    let mut columns: Vec<&str> = Vec::new();
    let mut homes: HashMap<String, String> = HashMap::new();
    let mut raw: HashMap<(String, String), Events> = HashMap::new();
    let (mut file, mut function) = (String::new(), String::new());
    let mut of_a_call = false;
    for line in text.lines() {
        if let Some(names) = line.strip_prefix("events:") {
            columns = names.split_whitespace().collect();
        } else if line.starts_with(['+', '-', '*'])
            || line.starts_with(|c: char| c.is_ascii_digit())
        {
            // What was executed in a function that was called is told there, too.
            if std::mem::take(&mut of_a_call) {
                continue;
            }
            let bad = || format!("callgrind wrote `{line}`");
            let counts = line.split_whitespace().skip(1).map(str::parse::<f64>);
            let counts = counts.collect::<Result<Vec<_>, _>>().map_err(|_| bad())?;
            let count = |name| {
                let at = columns.iter().position(|column| *column == name);
                at.and_then(|at| counts.get(at)).copied().unwrap_or_default()
            };
            let events = Events { instructions: count("Ir"), atomics: count("Ge") };
            *raw.entry((function.clone(), file.clone())).or_default() += events;
        } else if let Some((key, value)) = line.split_once('=') {
            match key {
                "fl" | "fi" | "fe" => file = files.get(value),
                "fn" => {
                    function = functions.get(value);
                    let first = function.split('\'').next().unwrap_or_default();
                    homes.entry(first.to_owned()).or_insert_with(|| file.clone());
                }
                // They may be the first to use a number.
                "cfi" | "cfl" => drop(files.get(value)),
                "cfn" => drop(functions.get(value)),
                "calls" => of_a_call = true,
                _ => {}
            }
        }
    }
    if columns.is_empty() {
        return Err("callgrind wrote nothing".into());
    }
    let mut profile = Profile::default();
    for ((function, file), events) in raw {
        // `function'caller'its caller`, and a number where it calls itself.
        let symbols = function.split('\'').filter(|s| !s.bytes().all(|b| b.is_ascii_digit()));
        let frame = |symbol: &str| Frame {
            name: short(&format!("{:#}", rustc_demangle::demangle(symbol))),
            file: homes.get(symbol).cloned().unwrap_or_default(),
        };
        let mut stack: Vec<Frame> = symbols.map(frame).collect();
        stack.reverse();
        *profile.0.entry(Place { stack, file }).or_default() += events;
    }
    Ok(profile)
}

/// `Type::function` of a path, without modules and type arguments.
fn short(name: &str) -> String {
    // <Type as Trait>::function
    let (owner, rest) = match name.strip_prefix('<').and_then(closed) {
        Some((owner, rest)) => (owner.split(" as ").next().unwrap_or(owner), rest),
        None => ("", name),
    };
    let plain = |text: &str| {
        let mut depth = 0_u32;
        let mut kept = String::new();
        for c in text.chars() {
            match c {
                '<' => depth += 1,
                '>' => depth = depth.saturating_sub(1),
                c if depth == 0 => kept.push(c),
                _ => {}
            }
        }
        kept.replace("::::", "::")
    };
    let (owner, rest) = (plain(owner), plain(rest));
    let parts: Vec<&str> =
        owner.split("::").chain(rest.split("::")).filter(|part| !part.is_empty()).collect();
    let closures = parts.iter().rev().take_while(|part| part.starts_with("{closure")).count();
    parts[parts.len().saturating_sub(2 + closures)..].join("::")
}

/// What is before the `>` that belongs to a `<` already read, and what is behind it.
fn closed(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1_u32;
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short() {
        for (name, want) in [
            ("memcpy", "memcpy"),
            ("nvme_mpath::channel::Channel::submit", "Channel::submit"),
            (
                "<nvme_tcp::queue::TcpQueue<a::S> as nvme_core::transport::Queue>::poll",
                "TcpQueue::poll",
            ),
            ("nvme_tcp::queue::TcpQueue<S>::write::<3>", "TcpQueue::write"),
            ("a::b::c::{closure#0}", "b::c::{closure#0}"),
        ] {
            assert_eq!(short(name), want);
        }
    }

    #[test]
    fn counts_are_found_where_they_belong() {
        let text = "events: Ir Ge\n\nfl=(1) a.rs\nfn=(1) inner'outer\n3 10 1\nfi=(2) b.rs\n+2 5\n\
                    fe=(1)\n* 2\n\nfn=(2) outer\n1 7\ncfn=(1)\ncalls=4 3\n+1 17 1\n";
        let profile = parse(text).unwrap();
        let frame = |name: &str| Frame { name: name.into(), file: "a.rs".into() };
        let inner = vec![frame("outer"), frame("inner")];
        let events = |instructions, atomics| Events { instructions, atomics };
        let want = [
            (Place { stack: vec![frame("outer")], file: "a.rs".into() }, events(7.0, 0.0)),
            (Place { stack: inner.clone(), file: "a.rs".into() }, events(12.0, 1.0)),
            (Place { stack: inner, file: "b.rs".into() }, events(5.0, 0.0)),
        ];
        assert_eq!(profile.0, want.into());
        assert_eq!(profile.total(), events(24.0, 1.0));
        let slope = profile.slope(&profile, 3);
        assert!(slope.0.is_empty(), "{slope:?}");
        assert!(parse("").is_err());
    }
}
