//! What the host costs when there is much of everything, or nothing to do. `benches/README.md` has
//! the figures.
//!
//! - `scale memory`: bytes on the heap per queue, head, path, controller and channel.
//! - `scale resident PROGRAM ARGUMENT…`: the most memory that a program had resident.
//! - `scale namespaces N…`: one controller with N namespaces, from connect to the last usable path.
//! - `scale controllers N…`: N controllers, two to each subsystem, 10,000 heads in all; or as many
//!   as `HEADS=` in the environment says.
//! - `scale idle CONTROLLERS HEADS SECONDS`: processor time and wake-ups without I/O.
//! - `scale failover RUNS`: from the socket error to the first read on the other path.
//! - `scale channels RUNS`: two channels on two threads against one.
//!
//! The target is this program in another process, except where that says nothing.

mod channels;
mod connect;
mod failover;
mod idle;
mod memory;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use nvme_core::nqn::Uuid;
use nvme_host_benches::{elsewhere, heap, usage};
use nvme_mpath::HostOptions;
use nvme_tcp::TcpTransport;

#[global_allocator]
static ALLOCATOR: heap::Counting = heap::Counting;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["memory"] => memory::run(),
        ["resident", program, args @ ..] => resident(program, args),
        ["namespaces", counts @ ..] => {
            counts.iter().try_for_each(|n| connect::namespaces(n.parse()?))
        }
        ["controllers", counts @ ..] => {
            counts.iter().try_for_each(|n| connect::controllers(n.parse()?))
        }
        ["idle", controllers, heads, seconds] => numbers(&[controllers, heads, seconds])
            .and_then(|n| idle::run(n[0], n[1], Duration::from_secs(n[2] as u64))),
        ["failover", runs] => numbers(&[runs]).and_then(|n| failover::run(n[0])),
        ["channels", runs] => numbers(&[runs]).and_then(|n| channels::run(n[0])),
        ["target", subsystems, namespaces, listeners] => {
            numbers(&[subsystems, namespaces, listeners])
                .and_then(|n| Ok(elsewhere::serve(n[0], n[1] as u32, n[2])?))
        }
        _ => Err("what? see the first lines of the program".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn numbers(words: &[&&str]) -> Result<Vec<usize>> {
    words.iter().map(|word| Ok(word.parse()?)).collect()
}

fn options() -> HostOptions {
    HostOptions::new(Uuid(*b"nvme-host-bench!")).transport(TcpTransport::default())
}

/// Runs a program to its end, and looks at it meanwhile.
fn resident(program: &str, args: &[&str]) -> Result {
    let mut child = std::process::Command::new(program).args(args).spawn()?;
    let (mut most, mut file) = (0, 0);
    while child.try_wait()?.is_none() {
        if let Ok(peak) = usage::kibibytes(child.id(), "VmHWM") {
            most = peak.max(most);
            file = usage::kibibytes(child.id(), "RssFile").unwrap_or(0).max(file);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!(
        "resident at most {most} KiB, of which {file} KiB are the program's file and libraries"
    );
    Ok(())
}
