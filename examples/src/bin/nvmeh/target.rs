//! `nvmeh target`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nvme_host_examples::size;
use nvme_target::{NamespaceConfig, PciConfig, PciDevice, SubsystemConfig, Target, VfioUserServer};
use serde_json::json;

use crate::{Failure, interruption, print_json};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address to listen on, such as 127.0.0.1:4420; port 0 takes a free one; one for each path
    #[arg(long, required_unless_present = "vfio_user", num_args = 1.., value_name = "ADDR:PORT")]
    listen: Vec<String>,

    /// Socket to be made, on which a PCI function is offered to other programs of this machine; one
    /// for each path
    #[arg(long, num_args = 1.., value_name = "PATH")]
    vfio_user: Vec<PathBuf>,

    /// Name of the subsystem
    #[arg(long, default_value = "nqn.2026-01.org.example:nvmeh")]
    nqn: String,

    /// Namespaces: a size (such as 1G) for one in memory, or a file or block device that exists
    #[arg(long, required = true, num_args = 1.., value_name = "SIZE|FILE")]
    ns: Vec<String>,

    /// Bytes in a block: 512 or 4096
    #[arg(long, default_value_t = 4096)]
    block_size: u32,

    /// Threads that serve connections
    #[arg(long, default_value_t = 1)]
    threads: usize,

    /// Microseconds for which a thread goes on looking for commands after the last one before it sleeps; meanwhile
    /// it uses a whole processor
    #[arg(long, default_value_t = 0, value_name = "MICROS")]
    busy_poll: u64,

    /// Read faults from standard input, one a line: `down N` takes the Nth --listen away and cuts its
    /// connections, `up N` brings it back
    #[arg(long)]
    faults: bool,

    /// Print a JSON object when the target is ready
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let interrupted = interruption()?;
    let mut subsystem =
        SubsystemConfig::new(&arguments.nqn).map_err(|e| Failure::Usage(e.to_string()))?;
    let mut namespaces = Vec::new();
    for (spec, nsid) in arguments.ns.iter().zip(1u32..) {
        let (namespace, bytes) = namespace(nsid, spec)?;
        subsystem = subsystem.namespace(namespace.block_size(arguments.block_size));
        namespaces.push(json!({ "nsid": nsid, "bytes": bytes, "what": spec }));
    }
    let mut builder = Target::builder().subsystem(subsystem).threads(arguments.threads);
    builder = builder.busy_poll(Duration::from_micros(arguments.busy_poll));
    for address in &arguments.listen {
        builder = builder.listen(address);
    }
    let target = builder.start()?;
    let mut urls = Vec::new();
    for listener in 0..arguments.listen.len() {
        urls.push(format!("tcp://{}/{}", target.addr(listener)?, arguments.nqn));
    }
    let mut servers = Vec::new();
    for path in &arguments.vfio_user {
        servers.push(offer(&target, &arguments.nqn, path)?);
        // An absolute path, so that it is found from wherever it is used.
        let path = std::path::absolute(path)?;
        urls.push(format!("vfio-user://{}", path.display()));
    }
    if arguments.json {
        print_json(&json!({
            "nqn": arguments.nqn,
            "urls": urls,
            "block_size": arguments.block_size,
            "namespaces": namespaces,
        }));
    } else {
        urls.iter().for_each(|url| println!("{url}"));
        eprintln!("{} namespace(s), ready; stop with Ctrl-C", namespaces.len());
    }
    let target = Arc::new(target);
    if arguments.faults {
        let target = Arc::clone(&target);
        // It ends with the input, or with the program.
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if let Err(why) = fault(&target, &line) {
                    eprintln!("nvmeh: {line}: {why}");
                }
            }
        });
    }
    while !interrupted.load(Ordering::Acquire) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    Ok(())
}

/// Does what a line asks for.
fn fault(target: &Target, line: &str) -> Result<(), String> {
    let usage = || "not `down N` or `up N`".to_owned();
    let (what, number) = line.trim().split_once(' ').ok_or_else(usage)?;
    let number: usize = number.trim().parse().map_err(|_| usage())?;
    let listener = number.checked_sub(1).ok_or_else(usage)?;
    let listener = target.listener(listener).map_err(|e| e.to_string())?;
    let done = match what {
        "down" => listener.disable(),
        "up" => listener.enable(),
        _ => return Err(usage()),
    };
    done.map_err(|e| e.to_string())
}

/// Offers a controller of the subsystem as a PCI function.
fn offer(target: &Target, nqn: &str, path: &Path) -> Result<VfioUserServer, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Failed(format!("{}: {e}", path.display()));
    let device = PciDevice::new(target, nqn, PciConfig::new()).map_err(|e| failed(&e))?;
    VfioUserServer::bind(path, &device).map_err(|e| failed(&e))
}

/// A namespace as it was asked for, and its size in bytes.
fn namespace(nsid: u32, spec: &str) -> Result<(NamespaceConfig, u64), Failure> {
    match size::parse(spec) {
        Ok(0) => Err(Failure::Usage(format!("namespace {nsid}: of size zero"))),
        Ok(bytes) => Ok((NamespaceConfig::memory(nsid, bytes), bytes)),
        // It begins like a size, and no such file exists: meant as a size.
        Err(why) if spec.starts_with(|c: char| c.is_ascii_digit()) && !Path::new(spec).exists() => {
            Err(Failure::Usage(format!("namespace {nsid}: {why}")))
        }
        Err(_) => {
            let failed = |e: std::io::Error| Failure::Failed(format!("{spec}: {e}"));
            // Opened here so that a file that is missing is not made, and a block device has a size.
            let mut file = std::fs::File::open(spec).map_err(failed)?;
            let bytes =
                std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(failed)?;
            let namespace = NamespaceConfig::file(nsid, spec, Some(bytes)).map_err(failed)?;
            Ok((namespace, bytes))
        }
    }
}
