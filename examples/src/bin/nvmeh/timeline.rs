//! `nvmeh timeline`.

use std::io::Read;
use std::path::{Path, PathBuf};

use nvme_host_examples::timeline::{Run, picture};
use serde::Deserialize;

use crate::Failure;

/// Longest record that is read.
const LONGEST: u64 = 256 << 20;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What the run has printed: its last line counts; `-` for standard input
    #[arg(value_name = "RUN.JSON")]
    run: PathBuf,

    /// Where the picture goes
    #[arg(long, value_name = "FILE")]
    svg: PathBuf,
}

/// What of the result of a run is needed.
#[derive(Debug, Deserialize)]
struct Recorded {
    timeline: Run,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let name = arguments.run.display();
    let failed = |e: std::io::Error| Failure::Failed(format!("{name}: {e}"));
    let text = read(&arguments.run).map_err(failed)?;
    // Other lines may be above it, for people.
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let recorded: Recorded = serde_json::from_str(line).map_err(|e| {
        Failure::Failed(format!("{name}: its last line is not the result of a run: {e}"))
    })?;
    let svg = picture(&recorded.timeline);
    std::fs::write(&arguments.svg, svg)
        .map_err(|e| Failure::Failed(format!("{}: {e}", arguments.svg.display())))
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().take(LONGEST).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    }
    Ok(text)
}
