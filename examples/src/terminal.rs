//! Lines on a terminal: lasting ones, and one at the bottom that is redrawn.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Writes lasting lines, and keeps a live line below them if the stream is a terminal.
///
/// Text is plain, and on anything but a terminal there is no control sequence.
#[derive(Debug)]
pub struct Screen<W: Write> {
    out: W,
    live: bool,
    shown: bool,
}

impl Screen<io::Stderr> {
    /// On standard error.
    #[must_use]
    pub fn stderr() -> Self {
        let live = io::stderr().is_terminal();
        Self { out: io::stderr(), live, shown: false }
    }
}

impl Screen<io::Stdout> {
    /// On standard output.
    #[must_use]
    pub fn stdout() -> Self {
        let live = io::stdout().is_terminal();
        Self { out: io::stdout(), live, shown: false }
    }
}

// A terminal that cannot be written to any more is no reason to end the work: the exit status and
// the result tell how it went.
impl<W: Write> Screen<W> {
    /// Whether a live line is shown.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.live
    }

    /// Writes a lasting line.
    pub fn line(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }

    /// Redraws the live line; does nothing where there is none.
    pub fn live(&mut self, text: &str) {
        if !self.live {
            return;
        }
        // Longer lines would wrap, and could not be taken back: such terminals lose the rest.
        let width = width().saturating_sub(1);
        let text: String = text.chars().take(width).collect();
        let _ = write!(self.out, "\r\x1b[K{text}");
        let _ = self.out.flush();
        self.shown = true;
    }

    /// Takes the live line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(self.out, "\r\x1b[K");
            let _ = self.out.flush();
        }
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Columns of the terminal behind standard error or output; 80 where nobody knows.
fn width() -> usize {
    let ask = |columns: rustix::io::Result<rustix::termios::Winsize>| {
        columns.ok().map(|w| usize::from(w.ws_col)).filter(|c| *c > 0)
    };
    ask(rustix::termios::tcgetwinsize(io::stderr()))
        .or_else(|| ask(rustix::termios::tcgetwinsize(io::stdout())))
        .unwrap_or(80)
}

/// A latency for people: `85 us`, `1.3 ms`, `2.1 s`.
#[must_use]
pub fn latency(time: Duration) -> String {
    match time.as_nanos() {
        0..1_000 => format!("{} ns", time.as_nanos()),
        1_000..1_000_000 => format!("{} us", time.as_micros()),
        1_000_000..1_000_000_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// A number with the thousands set apart: `1,234,567`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (digit, left) in digits.chars().zip((0..digits.len()).rev()) {
        text.push(digit);
        if left > 0 && left % 3 == 0 {
            text.push(',');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), want);
        }
    }

    #[test]
    fn what_is_no_terminal_gets_no_control_sequences() {
        let mut screen = Screen { out: Vec::new(), live: false, shown: false };
        screen.live("half way");
        screen.line("done");
        screen.clear();
        assert_eq!(screen.out, b"done\n");
    }

    #[test]
    fn the_live_line_makes_room_for_lasting_ones() {
        let mut screen = Screen { out: Vec::new(), live: true, shown: false };
        screen.live("half way");
        screen.line("done");
        assert_eq!(screen.out, b"\r\x1b[Khalf way\r\x1b[Kdone\n");
    }
}
