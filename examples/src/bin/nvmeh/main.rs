//! `nvmeh`: looks at NVMe subsystems over TCP and PCIe, does verified or measured I/O on them, or is
//! one.

#![forbid(unsafe_code)]

mod bind;
mod discover;
mod io;
mod list;
mod measured;
mod perf;
mod plan;
mod report;
mod status;
mod target;
mod timeline;
mod watch;
mod work;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Parser, Subcommand};
use nvme_mpath::ControllerOptions;

/// NVMe from user space: discover, list, verified I/O, a software target, and the drivers of
/// controllers.
///
/// A URL is `tcp://HOST[:PORT]/NQN`, with parameters such as ?hdgst=1&ddgst=1; without an NQN it means
/// the discovery subsystem; or `vfio://0000:01:00.0`, or `uio://0000:01:00.0`, for a controller on the
/// PCI bus that is bound to such a driver; or `vfio-user:///run/socket` for one that another program
/// offers.
///
/// Exit status: 0 good, 1 something failed or was found to be wrong, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "nvmeh", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask a discovery controller which subsystems there are
    Discover(discover::Arguments),
    /// Show the subsystems, namespaces and paths behind some URLs
    List(list::Arguments),
    /// Read and write a namespace, over one path or several
    Io(io::Arguments),
    /// Measure I/O: rates, latencies, and what they cost
    Perf(perf::Arguments),
    /// Look at heads and paths live, on a terminal
    Watch(watch::Arguments),
    /// Draw a run that `quickstart --json` or `nvmeh io --json` has recorded
    Timeline(timeline::Arguments),
    /// Be a software target
    Target(target::Arguments),
    /// Show the NVMe controllers on this machine's PCI bus, and who has them
    Status(status::Arguments),
    /// Give controllers on the PCI bus to programs; refused while the kernel uses them
    Bind(bind::Arguments),
    /// Give controllers back to the drivers that they had before `bind`
    Unbind(bind::UnbindArguments),
}

/// Why a command did not do what it was to do.
#[derive(Debug)]
enum Failure {
    /// It was asked for something that makes no sense.
    Usage(String),
    /// It failed.
    Failed(String),
    /// It failed, and said so.
    Told,
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Discover(arguments) => discover::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Io(arguments) => io::run(&arguments),
        Command::Perf(arguments) => perf::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Timeline(arguments) => timeline::run(&arguments),
        Command::Target(arguments) => target::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Bind(arguments) => bind::run(&arguments),
        Command::Unbind(arguments) => bind::unbind(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Failed(why)) => {
            eprintln!("nvmeh: {why}");
            ExitCode::FAILURE
        }
        Err(Failure::Usage(why)) => {
            eprintln!("nvmeh: {why}");
            ExitCode::from(2)
        }
    }
}

/// For a tool that somebody waits for: one attempt, and nothing is waited for longer than `limit`.
fn controller_options(limit: Duration) -> ControllerOptions {
    let mut options = ControllerOptions::default();
    options.connect_timeout = limit;
    options.admin_timeout = limit;
    options
}

/// Parses a time in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let text = text.strip_suffix('s').unwrap_or(text);
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|e| e.to_string())
}

/// Set by Ctrl-C. The second one ends the program at once.
fn interruption() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::AcqRel) {
            // What a shell expects of a program that was interrupted.
            std::process::exit(130);
        }
    })?;
    Ok(flag)
}

/// Prints a JSON value on one line.
fn print_json(value: &serde_json::Value) {
    println!("{value}");
}
