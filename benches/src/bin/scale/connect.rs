//! Many namespaces, many controllers: how long it takes until all paths can be used.

use std::time::Instant;

use nvme_host_benches::connecting::{Connecting, driven};
use nvme_host_benches::elsewhere::Elsewhere;
use nvme_host_benches::{heap, usage};
use nvme_mpath::{ChannelOptions, Host};

use crate::Result;

/// One controller with `count` namespaces.
pub fn namespaces(count: u32) -> Result {
    let target = Elsewhere::start(1, count, 1)?;
    measure(&[target.url(0, 0)], count as usize, &format!("1 controller, {count} heads"))
}

/// `count` controllers, two to a subsystem.
pub fn controllers(count: usize) -> Result {
    let heads = std::env::var("HEADS").map_or(Ok(10_000), |text| text.parse::<usize>())?;
    let subsystems = (count / 2).max(1);
    let each = heads.div_ceil(subsystems);
    let target = Elsewhere::start(subsystems, each as u32, 2)?;
    let url = |n: usize| target.url(n % subsystems, n / subsystems);
    let urls: Vec<String> = (0..count).map(url).collect();
    let what = format!("{count} controllers, {} heads", subsystems * each);
    measure(&urls, each, &what)
}

fn measure(urls: &[String], each: usize, what: &str) -> Result {
    let host = Host::new(driven())?;
    let channel = host.channel(ChannelOptions::default())?;
    let mut connecting = Connecting::new(&host);
    let (begin, cpu, allocations) = (Instant::now(), usage::thread_cpu()?, heap::allocations());
    for url in urls {
        connecting.connect(url, each)?;
    }
    connecting.finish()?;
    let (took, cpu) = (begin.elapsed(), usage::thread_cpu()? - cpu);
    let allocations = heap::allocations() - allocations;
    let paths = urls.len() * each;
    println!(
        "{what}, {paths} paths: {:.0} ms, of which {:.0} ms on the processor; for each path {:.1} \u{b5}s \
         and {:.1} allocations",
        took.as_secs_f64() * 1e3,
        cpu.as_secs_f64() * 1e3,
        cpu.as_secs_f64() * 1e6 / paths as f64,
        allocations as f64 / paths as f64,
    );
    drop(channel);
    Ok(())
}
