//! Runs programs of the host and reports their failures in words.

use std::path::Path;
use std::process::{Command, Output};

use crate::error::{Error, Result};
use crate::prereq;

/// A command for `program`, found in the administrators' directories too. Its messages are in
/// English.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(prereq::find(program).unwrap_or_else(|| program.into()));
    command.env("LC_ALL", "C");
    command
}

/// Runs `command` to its end and returns its standard output.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<Vec<u8>> {
    let output = output(what, command)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Error::Tool {
        what: what.to_owned(),
        detail: format!("{} ({command:?}): {}", output.status, stderr.trim()),
    })
}

/// Runs `command` to its end, whatever that is.
pub(crate) fn output(what: &str, command: &mut Command) -> Result<Output> {
    command.output().map_err(|source| Error::Io { what: format!("{what} ({command:?})"), source })
}

/// The shared libraries that a program is linked to, and their loader, as absolute paths.
pub(crate) fn libraries(program: &Path) -> Result<Vec<String>> {
    // Lines read `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
    let listing = run("listing libraries", command("ldd").arg(program))?;
    let words = String::from_utf8_lossy(&listing);
    let paths = words.split_ascii_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(str::to_owned).collect())
}
