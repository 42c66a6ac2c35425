//! What happened, line by line, for people.

use std::io::Stdout;
use std::time::{Duration, Instant};

use nvme_host_examples::narrate::{About, describe};
use nvme_host_examples::terminal::Screen;
use nvme_mpath::{Event, HeadState};

/// The time line: lasting lines with the time since the beginning, and a live line at the end.
#[derive(Debug)]
pub struct Timeline {
    begun: Instant,
    screen: Screen<Stdout>,
    /// Addresses of the paths; their letters are their places.
    paths: Vec<String>,
    /// Whole seconds of the last countdown that was printed as lasting lines.
    counted: Option<u64>,
}

impl Timeline {
    pub fn new() -> Self {
        let (begun, screen) = (Instant::now(), Screen::stdout());
        Self { begun, screen, paths: Vec::new(), counted: None }
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A text without a time.
    pub fn text(&mut self, text: &str) {
        self.screen.line(text);
    }

    /// What the program does.
    pub fn step(&mut self, text: &str) {
        self.say(">>", text);
    }

    /// What is the case, or happened.
    pub fn say(&mut self, who: &str, text: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        self.screen.line(&format!("{at:7.3} s  {who:<8} {text}"));
    }

    /// Gives the path at this address the next letter.
    pub fn name_path(&mut self, address: &str) {
        self.paths.push(address.to_owned());
    }

    fn path(&self, address: &str) -> String {
        match self.paths.iter().position(|a| a == address) {
            Some(at) if at < 26 => format!("path {}", char::from(b'A' + at as u8)),
            _ => address.to_owned(),
        }
    }

    /// Tells an event, if it is worth telling.
    pub fn tell(&mut self, event: &Event) {
        self.counted = None;
        let Some((about, text)) = describe(event) else { return };
        let who = match about {
            About::Path(address) => self.path(address),
            About::Head => "head".into(),
            About::Events => "events".into(),
        };
        self.say(&who, &text);
    }

    /// Shows how things stand: `work` is the workload's throughput, `pins` how many pins are out.
    pub fn now(&mut self, state: &HeadState, work: &str, parked: u64, pins: usize) {
        let HeadState::RemovalPending { remaining, .. } = state else {
            let at = self.begun.elapsed().as_secs_f64();
            self.screen.live(&format!("{at:7.3} s  {:<8} {work}", "work"));
            return;
        };
        let Some(left) = remaining else { return };
        let what =
            format!("{parked} requests wait, {pins} pin{}", if pins == 1 { "" } else { "s" });
        if self.screen.is_live() {
            let at = self.begun.elapsed().as_secs_f64();
            let left = left.as_secs_f64();
            self.screen.live(&format!("{at:7.3} s  {:<8} removal in {left:.1} s, {what}", "head"));
            return;
        }
        // Where nothing can be redrawn, one line for each second that begins.
        let whole = left.as_secs();
        if self.counted.is_some_and(|c| c > whole) {
            self.say("head", &format!("removal in {:.1} s, {what}", left.as_secs_f64()));
        }
        self.counted = Some(whole);
    }

    /// Takes the live line away.
    pub fn clear(&mut self) {
        self.screen.clear();
    }
}
