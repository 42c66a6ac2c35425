//! What `nvmeh io` and `nvmeh perf` are both asked to do, and the head that they do it on.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use nvme_core::nqn::Nqn;
use nvme_host_examples::size;
use nvme_host_examples::workload::Pattern;
use nvme_mpath::{ControllerId, Head, Host, PathPolicy};

use crate::{Failure, controller_options};

/// The work, whoever does it.
#[derive(Debug, clap::Args)]
pub struct Work {
    /// What to do
    #[arg(long, value_enum, default_value = "randread")]
    pub rw: ReadWrite,

    /// Bytes of a request, such as 512, 4k or 1M
    #[arg(long, value_parser = size::parse, default_value = "4k")]
    pub bs: u64,

    /// Requests under way at once, on each channel
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=8192))]
    pub qd: u16,

    /// Stamp every block that is written, check every block that is read, and read everything back
    /// at the end. With a pattern that only reads, everything is written first
    #[arg(long)]
    pub verify: bool,

    /// I/O may destroy what is on the namespace
    #[arg(long)]
    pub write_ok: bool,

    /// Channels, each with a thread and a part of the region of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub channels: u16,

    /// The namespace; the first one unless given
    #[arg(long, value_name = "ID")]
    pub nsid: Option<u32>,

    /// Use so many bytes of the namespace; all of it unless given, but at most 256M with --verify
    #[arg(long, value_parser = size::parse)]
    pub size: Option<u64>,

    /// Leave out so many bytes at the beginning of the namespace
    #[arg(long, value_parser = size::parse, default_value = "0")]
    pub offset: u64,

    /// How to choose among the paths: round-robin, numa, queue-depth, active-passive, service-time
    #[arg(long, default_value = "round-robin")]
    pub policy: PathPolicy,
}

impl Work {
    /// Refuses to overwrite what may be dear to somebody.
    pub fn check(&self) -> Result<(), Failure> {
        let writes = self.rw.pattern().writes();
        if (writes || self.verify) && !self.write_ok {
            let what = if writes { "this --rw" } else { "--verify" };
            let why = format!(
                "{what} overwrites what is on the namespace; say --write-ok if that is meant"
            );
            return Err(Failure::Usage(why));
        }
        Ok(())
    }

    /// The pattern's name.
    pub fn name(&self) -> String {
        format!("{:?}", self.rw).to_ascii_lowercase()
    }
}

/// Names of patterns, as fio has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum ReadWrite {
    Read,
    Write,
    RandRead,
    RandWrite,
    RandRw,
}

impl ReadWrite {
    pub const fn pattern(self) -> Pattern {
        match self {
            Self::Read => Pattern::Read,
            Self::Write => Pattern::Write,
            Self::RandRead => Pattern::RandRead,
            Self::RandWrite => Pattern::RandWrite,
            Self::RandRw => Pattern::RandRw,
        }
    }
}

/// Connects to all URLs, those with a place in `marginal` (from 0) as marginal paths, and finds the
/// head. Returns the controllers in the order of the URLs.
pub fn connect(
    host: &Host,
    urls: &[String],
    work: &Work,
    limit: Duration,
    marginal: &[usize],
) -> Result<(Arc<Head>, Vec<ControllerId>), Failure> {
    let mut options = controller_options(limit);
    options.max_io_queues = work.channels;
    // A queue holds one command fewer than it has entries.
    options.io_entries = options.io_entries.max(work.qd + 1).min(1024);
    let mut nqn: Option<Nqn> = None;
    let mut controllers = Vec::new();
    for (place, url) in urls.iter().enumerate() {
        options.marginal = marginal.contains(&place);
        let controller = host.connect(url, options.clone())?;
        controllers.push(controller.id());
        controller.wait_ready(limit)?;
        let Some(info) = controller.info() else { continue };
        let known = nqn.get_or_insert_with(|| info.subnqn.clone());
        if *known != info.subnqn {
            let why = format!("{} and {known} are two subsystems, not two paths", info.subnqn);
            return Err(Failure::Usage(why));
        }
    }
    let mut heads = host.heads();
    heads.sort_by_key(|h| h.nsid());
    let found = heads.iter().find(|h| work.nsid.is_none_or(|nsid| h.nsid() == nsid));
    let Some(head) = found.cloned() else {
        let there: Vec<_> = heads.iter().map(|h| h.nsid().to_string()).collect();
        let there = if there.is_empty() { "none".into() } else { there.join(", ") };
        let what = work.nsid.map_or("no namespace".into(), |n| format!("no namespace {n}"));
        return Err(Failure::Failed(format!("{what} (there are: {there})")));
    };
    head.set_policy(Some(work.policy));
    Ok((head, controllers))
}
