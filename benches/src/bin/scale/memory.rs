//! Bytes on the heap.

use nvme_host_benches::footprint;

use crate::Result;

pub fn run() -> Result {
    println!("| what | bytes on the heap |\n| --- | --- |");
    let queues = footprint::queues()?;
    println!("| an idle TCP queue of 128 entries | {} |", queues.queue);
    println!("| an idle TCP queue of 32 entries | {} |", queues.small);
    println!("| what the TCP queues of one thread share | {} |", queues.shared);
    let heads = footprint::heads(1000)?;
    let each = |bytes: i64| bytes / i64::from(heads.count);
    println!("| a channel of depth 256 | {} |", heads.channel.bytes);
    println!("| a head with 1 path, of {} | {} |", heads.count, each(heads.first.bytes));
    println!("| a further path of it | {} |", each(heads.second.bytes));
    println!("| what a channel remembers of it | {} |", each(heads.used.bytes));
    Ok(())
}
