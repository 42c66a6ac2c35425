//! Runs programs of the host and reports their failures in words.

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
