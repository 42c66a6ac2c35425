//! Many controllers brought up on the thread that counts.

use std::error::Error;
use std::time::{Duration, Instant};

use nvme_mpath::{Controller, ControllerOptions, Event, Events, Host, HostOptions};
use nvme_tcp::TcpTransport;

use crate::IDENTITY;

/// Longest wait for all paths.
const LIMIT: Duration = Duration::from_secs(120);

/// Options of a host over TCP that runs on the thread that drives it.
#[must_use]
pub fn driven() -> HostOptions {
    let mut options = HostOptions::new(IDENTITY).transport(TcpTransport::default());
    options.control_thread = false;
    options
}

/// Controllers on their way, on a host that this thread drives.
pub struct Connecting<'a> {
    host: &'a Host,
    events: Events,
    controllers: Vec<Controller>,
    options: ControllerOptions,
    missing: usize,
}

impl<'a> Connecting<'a> {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(host: &'a Host) -> Self {
        let mut options = ControllerOptions::default();
        options.keep_alive = Duration::ZERO;
        let events = host.events(65_536);
        Self { host, events, controllers: Vec::new(), options, missing: 0 }
    }

    /// Begins to connect to a controller that has `paths` namespaces, without keep-alive.
    ///
    /// # Errors
    /// A URL that cannot be used.
    pub fn connect(&mut self, url: &str, paths: usize) -> Result<(), Box<dyn Error>> {
        self.controllers.push(self.host.connect(url, self.options.clone())?);
        self.missing += paths;
        Ok(())
    }

    /// Drives the host until every path can be used.
    ///
    /// # Errors
    /// When a controller fails, or that takes more than two minutes.
    pub fn finish(&mut self) -> Result<(), Box<dyn Error>> {
        let until = Instant::now() + LIMIT;
        while self.missing > 0 {
            self.host.drive(Duration::from_millis(100));
            while let Some(event) = self.events.try_next() {
                match event.event {
                    Event::PathUp { .. } => self.missing -= 1,
                    Event::PathDown { .. } | Event::ControllerFailed { .. } | Event::Lagged(_) => {
                        return Err(format!("on the way: {:?}", event.event).into());
                    }
                    _ => {}
                }
            }
            if Instant::now() > until {
                return Err(format!("{} paths missing after {LIMIT:?}", self.missing).into());
            }
        }
        Ok(())
    }
}
