//! A path is cut under load: how long until a read has gone the other way.

use std::time::{Duration, Instant};

use nvme_core::buffer::Buffer;
use nvme_host_benches::{Rig, SUBNQN, target};
use nvme_mpath::{IoCompletion, IoOp, IoRequest, PathPolicy};

use crate::{Result, options};

/// Reads under way.
const DEPTH: usize = 128;

/// What one cut did, from the beginning of the poll that met the socket's error.
struct Cut {
    /// To the first read completed.
    first: Duration,
    /// To the last one of those that were under way.
    last: Duration,
    /// From the target's cut to that poll.
    noticed: Duration,
}

/// `runs` times: all reads go one of two paths; that one is cut.
pub fn run(runs: usize) -> Result {
    let mut cuts = (0..runs).map(|_| one()).collect::<Result<Vec<Cut>>>()?;
    println!("| {DEPTH} reads of 4 KiB under way, {runs} cuts | least | median | most |");
    println!("| --- | --- | --- | --- |");
    type Row = (&'static str, fn(&Cut) -> Duration);
    let rows: [Row; 3] = [
        ("cut to socket error", |c| c.noticed),
        ("socket error to first read", |c| c.first),
        ("socket error to last read that was under way", |c| c.last),
    ];
    for (what, of) in rows {
        cuts.sort_by_key(of);
        let at = |n: usize| cuts.get(n).map_or(0.0, |c| of(c).as_secs_f64() * 1e3);
        println!("| {what} | {:.3} ms | {:.3} ms | {:.3} ms |", at(0), at(runs / 2), at(runs - 1));
    }
    Ok(())
}

fn one() -> Result<Cut> {
    let target = target(2);
    let url = |n| -> Result<String> { Ok(format!("tcp://{}/{SUBNQN}", target.addr(n)?)) };
    let mut rig = Rig::with(options(), &[url(0)?, url(1)?], SUBNQN);
    rig.head.set_policy(Some(PathPolicy::ActivePassive));
    rig.run(IoOp::Read, 4096, DEPTH, 20_000);
    let mut done: Vec<IoCompletion> = Vec::with_capacity(DEPTH);
    let mut spare: Vec<Buffer> = (0..DEPTH).map(|_| Buffer::zeroed(4096)).collect();
    let (mut sent, mut cut_at, mut met) = (0_u64, None, None);
    let mut first = None;
    // Reads up to this one were under way when the error was met; how many of them have not ended.
    let (mut newest, mut left) = (0, usize::MAX);
    while left > 0 {
        while let Some(buffer) = spare.pop() {
            rig.channel.submit(&rig.head, IoRequest::read(sent % 1000, buffer, sent))?;
            sent += 1;
        }
        if sent > 5_000 && cut_at.is_none() {
            cut_at = Some(Instant::now());
            // By a thread of its own: the target does it when it has time for it.
            target.kill_connections(0)?;
        }
        let before = Instant::now();
        rig.channel.poll(&mut done);
        let failed_over = rig.head.stats().failovers > 0;
        if failed_over && met.is_none() {
            (met, newest) = (Some(before), sent);
            left = rig.channel.in_flight();
        } else if met.is_some() && !done.is_empty() {
            let now = Instant::now();
            first.get_or_insert(now);
            left -= done.iter().filter(|c| c.user_data < newest).count();
        }
        for completion in done.drain(..) {
            completion.result?;
            spare.push(completion.buffer);
        }
    }
    let (Some(cut_at), Some(met), Some(first)) = (cut_at, met, first) else {
        return Err("the cut was not noticed".into());
    };
    let cut = Cut { first: first - met, last: met.elapsed(), noticed: met - cut_at };
    drop(rig.channel);
    Ok(cut)
}
