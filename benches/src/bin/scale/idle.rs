//! What a host without I/O uses.

use std::time::{Duration, Instant};

use nvme_host_benches::elsewhere::Elsewhere;
use nvme_host_benches::usage;
use nvme_mpath::{ChannelOptions, ControllerOptions, Host};

use crate::{LIMIT, Result, options};

/// `controllers`, two to a subsystem, with `heads` in all, for `time` without and with keep-alive. One
/// channel waits meanwhile.
pub fn run(controllers: usize, heads: usize, time: Duration) -> Result {
    let subsystems = (controllers / 2).max(1);
    let each = heads.div_ceil(subsystems);
    let target = Elsewhere::start(subsystems, each as u32, 2)?;
    for keep_alive in [Duration::ZERO, Duration::from_secs(5)] {
        let host = Host::new(options())?;
        let mut channel = host.channel(ChannelOptions::default())?;
        let mut settings = ControllerOptions::default();
        settings.keep_alive = keep_alive;
        let url = |n: usize| target.url(n % subsystems, n / subsystems);
        let paths = (0..controllers).map(|n| host.connect(&url(n), settings.clone()));
        let paths = paths.collect::<std::result::Result<Vec<_>, _>>()?;
        for path in &paths {
            path.wait_ready(LIMIT)?;
        }
        let until = Instant::now() + LIMIT;
        while host.heads().iter().map(|h| h.paths().len()).sum::<usize>() < controllers * each {
            if Instant::now() > until {
                return Err("paths are missing".into());
            }
            channel.wait(Duration::from_millis(100));
            channel.poll(&mut Vec::new());
        }
        // What came with the last change is taken before.
        for _ in 0..5 {
            channel.wait(Duration::from_millis(100));
            channel.poll(&mut Vec::new());
        }
        let (before, begin) = (usage::process()?, Instant::now());
        while let Some(left) = time.checked_sub(begin.elapsed()) {
            channel.wait(left);
            channel.poll(&mut Vec::new());
        }
        let (after, seconds) = (usage::process()?, begin.elapsed().as_secs_f64());
        println!(
            "{controllers} controllers, {} heads, keep-alive {keep_alive:?}: {:.3} % of a processor, \
             {:.1} wake-ups a second",
            subsystems * each,
            (after.cpu - before.cpu).as_secs_f64() / seconds * 100.0,
            (after.wake_ups - before.wake_ups) as f64 / seconds,
        );
        drop(channel);
        host.shutdown()?;
    }
    Ok(())
}
