//! Loops of I/O in a process of their own, to count what each request more executes.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use nvme_mpath::{HedgeOptions, HostOptions, IoOp, PathPolicy};

use crate::callgrind::{self, Profile};
use crate::elsewhere::{self, Elsewhere, subnqn};
use crate::instant::InstantTransport;
use crate::{IDENTITY, Rig, SUBNQN, target};

/// The function that is the loop; only what is done in it is counted.
pub const LOOP: &str = "Rig::run";

/// Its symbol, as the compiler makes names of paths, and that of what is left out of it.
pub const SYMBOLS: [&str; 2] = ["3Rig3run", "3Rig5pause"];

/// Time for answers to come over TCP.
const PAUSE: Duration = Duration::from_micros(300);

/// Time for queues and views to come to the channel.
const SETTLE: Duration = Duration::from_millis(100);

/// What is read from or written to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Peer {
    /// A TCP target in another process, and parameters for its URL.
    Tcp { query: String },
    /// A PCI device in the process that answers within the doorbell.
    Pci,
    /// Queues that answer at once, behind a head.
    Head { policy: PathPolicy, paths: usize, hedged: bool },
}

/// One loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    peer: Peer,
    write: bool,
    bytes: usize,
    depth: usize,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, write, bytes, depth } = self;
        match peer {
            Peer::Tcp { query } if query.is_empty() => write!(f, "TCP")?,
            Peer::Tcp { query } => write!(f, "TCP {query}")?,
            Peer::Pci => write!(f, "PCI")?,
            Peer::Head { policy, paths, hedged } => {
                write!(f, "head of {paths} by {policy}{}", if *hedged { ", hedged" } else { "" })?;
            }
        }
        let op = if *write { "write" } else { "read" };
        write!(f, ", {op} of {} KiB, {depth} at once", bytes >> 10)
    }
}

impl Work {
    /// `tcp|pci read|write BYTES DEPTH [QUERY]`, or `head POLICY PATHS[+hedged] BYTES DEPTH`.
    #[must_use]
    pub fn parse(words: &[&str]) -> Option<Self> {
        let number = |text: &str| text.parse::<usize>().ok().filter(|n| *n > 0);
        let (peer, op, bytes, depth) = match *words {
            ["tcp", op, bytes, depth] => (Peer::Tcp { query: String::new() }, op, bytes, depth),
            ["tcp", op, bytes, depth, query] => {
                (Peer::Tcp { query: query.to_owned() }, op, bytes, depth)
            }
            ["pci", op, bytes, depth] => (Peer::Pci, op, bytes, depth),
            ["head", policy, paths, bytes, depth] => {
                let (paths, hedged) = match paths.strip_suffix("+hedged") {
                    Some(paths) => (paths, true),
                    None => (paths, false),
                };
                let (policy, paths) = (policy.parse().ok()?, number(paths)?);
                (Peer::Head { policy, paths, hedged }, "read", bytes, depth)
            }
            _ => return None,
        };
        let write = match op {
            "read" => false,
            "write" => true,
            _ => return None,
        };
        Some(Self { peer, write, bytes: number(bytes)?, depth: number(depth)? })
    }

    fn words(&self) -> Vec<String> {
        let sizes = [self.bytes.to_string(), self.depth.to_string()];
        let op = if self.write { "write" } else { "read" };
        let first = match &self.peer {
            Peer::Tcp { .. } => vec!["tcp".to_owned(), op.to_owned()],
            Peer::Pci => vec!["pci".to_owned(), op.to_owned()],
            Peer::Head { policy, paths, hedged } => {
                let hedged = if *hedged { "+hedged" } else { "" };
                vec!["head".to_owned(), policy.to_string(), format!("{paths}{hedged}")]
            }
        };
        first.into_iter().chain(sizes).collect()
    }

    /// Does it, `count` times, in this process; over TCP with the target at `url`.
    fn run(&self, url: Option<&str>, count: u64) -> Result<(), String> {
        // One in this process lives until the loop is over.
        let target = match &self.peer {
            Peer::Tcp { .. } => None,
            Peer::Pci => Some(target(0)),
            Peer::Head { paths, .. } => Some(target(*paths)),
        };
        let mut rig = match (&self.peer, &target, url) {
            (Peer::Head { policy, paths, hedged }, Some(target), _) => {
                let url = |i| format!("tcp://{}/{SUBNQN}", target.addr(i).expect("an address"));
                let urls: Vec<String> = (0..*paths).map(url).collect();
                let options = HostOptions::new(IDENTITY).transport(InstantTransport::default());
                let rig = Rig::with(options, &urls, SUBNQN);
                rig.head.set_policy(Some(*policy));
                rig.head.set_hedged_reads(hedged.then(HedgeOptions::default));
                rig
            }
            (_, Some(target), _) => Rig::ring(target),
            (_, None, Some(url)) => Rig::connect(&[url.to_owned()], &subnqn(0)),
            (_, None, None) => return Err("no URL".into()),
        };
        rig.idle(SETTLE);
        if matches!(self.peer, Peer::Tcp { .. }) {
            rig.set_pause(PAUSE);
        }
        let op = if self.write { IoOp::Write } else { IoOp::Read };
        rig.run(op, self.bytes, self.depth, count);
        Ok(())
    }
}

/// What a program that counts itself does when it was started for that: `target …` serves, `loop
/// WORK… COUNT [URL]` does the work. `None` for other words.
#[must_use]
pub fn serve_or_run(words: &[&str]) -> Option<Result<(), String>> {
    let told = |what: &str| format!("not understood: {what}");
    match *words {
        ["target", subsystems, namespaces, listeners] => {
            let serve = || {
                let number = |text: &str| text.parse::<usize>().map_err(|_| told(text));
                let (subsystems, listeners) = (number(subsystems)?, number(listeners)?);
                let namespaces = u32::try_from(number(namespaces)?).map_err(|e| e.to_string())?;
                elsewhere::serve(subsystems, namespaces, listeners).map_err(|e| e.to_string())
            };
            Some(serve())
        }
        ["loop", count, url, ref work @ ..] => {
            let run = || {
                let count = count.parse().map_err(|_| told(count))?;
                let work = Work::parse(work).ok_or_else(|| told(&work.join(" ")))?;
                work.run(Some(url).filter(|url| !url.is_empty()), count)
            };
            Some(run())
        }
        _ => None,
    }
}

/// What each request more executes in the loop, with `program` as the one that
/// [does the work](serve_or_run) under callgrind. Over TCP answers are given time to come, so that polls
/// that find nothing, of which there would be more or fewer each time, are not in it.
///
/// # Errors
/// What [`callgrind::run`] meets, or starting the target.
pub fn slope(program: &Path, work: &Work, counts: [u64; 2]) -> Result<Profile, String> {
    let target = match &work.peer {
        Peer::Tcp { query } => {
            let target = Elsewhere::of(program, 1, 1, 1).map_err(|e| format!("the target: {e}"))?;
            let url = target.url(0, 0) + query;
            Some((target, url))
        }
        _ => None,
    };
    let url = target.as_ref().map_or("", |(_, url)| url);
    let words = work.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = |count: u64| {
        let count = count.to_string();
        callgrind::run(program, &[&["loop", &count, url][..], &words].concat(), &SYMBOLS)
    };
    let [few, many] = counts;
    let (short, long) = (run(few)?, run(many)?);
    if short.0.is_empty() {
        return Err(format!("callgrind met no function {LOOP}"));
    }
    Ok(long.slope(&short, many - few))
}
