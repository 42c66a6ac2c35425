//! One namespace, two TCP paths, and a head that outlives both of them.
//!
//! ```sh
//! cargo run --release --example quickstart
//! ```
//!
//! starts a software target with two ports in this process, connects to both, and takes the ports
//! away and brings them back while a workload reads and writes and checks every block: [`story`].
//!
//! ```sh
//! cargo run --release --example quickstart -- --manual --connect URL --connect URL
//! ```
//!
//! does the same with a target of yours, and leaves the faults to you: [`follow`]. It writes to the
//! first 16 MiB of the namespace.
//!
//! Either way it exits with 0 only if nothing was lost, stale, torn or duplicated, and everything
//! that was pinned was given back.

#![forbid(unsafe_code)]

mod follow;
mod stage;
mod story;
mod timeline;
mod verdict;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// One namespace, two TCP paths, and a head that outlives both of them.
#[derive(Debug, Parser)]
#[command(name = "quickstart", version)]
struct Arguments {
    /// Seconds that the head is kept without any path.
    #[arg(long, value_name = "SECS", default_value = "3", value_parser = window)]
    window: Duration,

    /// Use the controller at this URL instead of a target of our own, such as
    /// tcp://192.0.2.7:4420/nqn.2026-01.org.example:sub; one for each path. DESTROYS DATA: the
    /// first 16 MiB of the namespace are written to.
    #[arg(long, value_name = "URL", requires = "manual")]
    connect: Vec<String>,

    /// Cause no faults; follow what happens to the paths until the head is removed.
    #[arg(long, requires = "connect")]
    manual: bool,

    /// The namespace to use.
    #[arg(long, value_name = "ID", default_value_t = 1, requires = "manual")]
    nsid: u32,

    /// End after so many seconds, if the head is still there.
    #[arg(long, value_name = "SECS", requires = "manual", value_parser = seconds)]
    seconds: Option<Duration>,

    /// Print the result as a JSON object on the last line.
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|e| e.to_string())
}

/// The story needs some time inside the window, to bring a path back.
fn window(text: &str) -> Result<Duration, String> {
    let window = seconds(text)?;
    let possible = Duration::from_secs(1)..=Duration::from_secs(3600);
    possible.contains(&window).then_some(window).ok_or_else(|| "must be 1 to 3600".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result =
        if arguments.manual { follow::run(&arguments) } else { story::run(arguments.window) };
    let summary = match result {
        Ok(summary) => summary,
        Err(error) => {
            eprintln!("quickstart: {error}");
            return ExitCode::FAILURE;
        }
    };
    summary.print(arguments.json);
    if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
