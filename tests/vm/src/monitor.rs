//! QEMU's monitor (QMP): one JSON object a line, events between the answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// QEMU answers at once unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Monitor(Mutex<BufReader<UnixStream>>);

impl Monitor {
    pub(crate) fn new(socket: UnixStream) -> Result<Self> {
        socket.set_read_timeout(Some(LIMIT)).map_err(Error::io("setting the monitor's limit"))?;
        let monitor = Self(Mutex::new(BufReader::new(socket)));
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    pub(crate) fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        let what = || format!("telling QEMU {command}");
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let request = json!({ "execute": command, "arguments": arguments });
        socket.get_mut().write_all(format!("{request}\n").as_bytes()).map_err(Error::io(what()))?;
        loop {
            let mut line = String::new();
            let refused = |answer: &str| Error::Monitor {
                command: command.to_owned(),
                answer: answer.to_owned(),
            };
            if socket.read_line(&mut line).map_err(Error::io(what()))? == 0 {
                return Err(refused("QEMU has ended"));
            }
            let answer: Value =
                serde_json::from_str(&line).map_err(|error| refused(&error.to_string()))?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                return Err(refused(&error.to_string()));
            }
            // A greeting or an event.
        }
    }

    /// A command of the human monitor; its answer is text.
    pub(crate) fn human(&self, line: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// The host port QEMU chose for each forwarded guest port, as (guest, host).
    pub(crate) fn forwards(&self) -> Result<Vec<(u16, u16)>> {
        // Columns: protocol and state, descriptor, source address and port, destination address and
        // port, two queues.
        Ok(self
            .human("info usernet")?
            .lines()
            .filter(|line| line.contains("HOST_FORWARD"))
            .filter_map(|line| {
                let mut columns = line.split_ascii_whitespace().skip(3);
                let host = columns.next()?.parse().ok()?;
                let guest = columns.nth(1)?.parse().ok()?;
                Some((guest, host))
            })
            .collect())
    }
}
