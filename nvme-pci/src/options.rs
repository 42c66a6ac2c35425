//! What can be chosen per transport, and per URL.

use std::time::Duration;

use nvme_core::quirk::QuirkChange;

use crate::url::Location;

/// How completions are noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Notice {
    /// By interrupts where the backend has them, else by looking.
    #[default]
    Auto,
    /// By looking, without interrupts (`poll=1`). A channel that waits looks every 50 µs.
    Poll,
    /// By interrupts (`irq=1`). A backend without interrupts is an error.
    Interrupt,
}

/// What the controller memory buffer is used for, where a controller has one (NVMe 1.4 and later).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CmbUse {
    /// Nothing (`cmb=off`).
    #[default]
    Off,
    /// I/O submission queues (`cmb=sq`).
    Queues,
    /// These, and data that would be copied anyhow (`cmb=sq+data`). Reading it back over the bus is
    /// slow on real hardware.
    QueuesAndData,
}

/// Choices of a transport. A URL's parameters come before them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How completions are noticed (`poll=1`, `irq=1`).
    pub notice: Notice,
    /// The largest transfer of one command in bytes; the controller's own limit (MDTS) may be lower.
    /// 4 KiB..=8 MiB, a multiple of 4 KiB. Default 1 MiB (`max_transfer`).
    pub max_transfer: usize,
    /// Memory of each I/O queue, at most, for data that the device cannot reach where it is, in bytes.
    /// A queue begins with room for one largest transfer, and maps more as it comes to need it; where
    /// that cannot be had, commands take turns. Default 4 MiB (`bounce`).
    pub bounce_bytes: usize,
    /// Transfers of this many bytes or more use scatter gather lists where the controller can;
    /// `None`: never. Default 32 KiB (`sgl`, 0 for never).
    pub sgl_threshold: Option<usize>,
    /// Doorbells in memory where the controller can (Doorbell Buffer Config), which an emulated one
    /// does to save exits. Default true (`shadow`, 0 or 1).
    pub shadow_doorbells: bool,
    /// Use of the controller memory buffer (`cmb`). What has no room there, or what the controller
    /// does not support, is in the machine's memory. Default off.
    pub cmb: CmbUse,
    /// What is wrong with the device, or is not, whatever the library's table and the host's rules say
    /// (`quirks`, such as `no-sgl,-bogus-ids`). Default nothing.
    pub quirks: QuirkChange,
    /// How long a controller may take to become disabled, if it does not itself ask for less
    /// (CAP.TO), before its function is reset. Whoever stops a controller waits, be it the control
    /// plane. Default 2 s.
    pub disable_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            notice: Notice::Auto,
            max_transfer: 1 << 20,
            bounce_bytes: 4 << 20,
            sgl_threshold: Some(32 << 10),
            shadow_doorbells: true,
            cmb: CmbUse::Off,
            quirks: QuirkChange::default(),
            disable_limit: Duration::from_secs(2),
        }
    }
}

/// Largest transfer and pool that can be asked for.
const TRANSFER_MAX: usize = 8 << 20;
const BOUNCE_MAX: usize = 1 << 30;

impl Options {
    /// These options with the parameters of a URL, which are taken out of `location`.
    pub(crate) fn with_parameters(mut self, location: &mut Location) -> Result<Self, String> {
        let mut rest = Vec::new();
        for (key, value) in std::mem::take(&mut location.parameters) {
            match key.as_str() {
                "poll" | "irq" => {
                    let on = switch(&key, &value)?;
                    let chosen = if key == "poll" { Notice::Poll } else { Notice::Interrupt };
                    if on && self.notice != Notice::Auto && self.notice != chosen {
                        return Err("poll=1 and irq=1 exclude each other".into());
                    }
                    if on {
                        self.notice = chosen;
                    }
                }
                "cmb" => {
                    self.cmb = match value.as_str() {
                        "off" => CmbUse::Off,
                        "sq" => CmbUse::Queues,
                        "sq+data" => CmbUse::QueuesAndData,
                        _ => {
                            let text = "off, sq and sq+data are possible";
                            return Err(format!("parameter cmb={value:?}: {text}"));
                        }
                    };
                }
                "quirks" => {
                    self.quirks = value.parse().map_err(|e| format!("parameter {e}"))?;
                }
                "shadow" => self.shadow_doorbells = switch(&key, &value)?,
                "max_transfer" => {
                    self.max_transfer = number(&key, &value, 4096, TRANSFER_MAX)?;
                }
                "bounce" => self.bounce_bytes = number(&key, &value, 4096, BOUNCE_MAX)?,
                "sgl" => {
                    let bytes = number(&key, &value, 0, TRANSFER_MAX)?;
                    self.sgl_threshold = (bytes != 0).then_some(bytes);
                }
                _ => rest.push((key, value)),
            }
        }
        location.parameters = rest;
        self.max_transfer = self.max_transfer.clamp(4096, TRANSFER_MAX) & !4095;
        Ok(self)
    }
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err(format!("parameter {key}={value:?}: 0 or 1 are possible")),
    }
}

fn number(key: &str, value: &str, least: usize, most: usize) -> Result<usize, String> {
    let parsed = value.parse().ok().filter(|n| (least..=most).contains(n));
    parsed.ok_or_else(|| format!("parameter {key}={value:?}: {least} to {most} are possible"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<(Options, Location), String> {
        let mut location = Location::parse("mem", &format!("mem://x?{query}"))?;
        let options = Options::default().with_parameters(&mut location)?;
        Ok((options, location))
    }

    #[test]
    fn parameters_come_before_defaults_and_unknown_ones_are_left() {
        let (options, location) = parse("poll=1&sgl=0&bounce=65536&own=7").unwrap();
        assert_eq!(options.notice, Notice::Poll);
        assert_eq!((options.sgl_threshold, options.bounce_bytes), (None, 65536));
        assert_eq!(location.parameters, [("own".to_string(), "7".to_string())]);
    }

    #[test]
    fn wrong_values_are_refused() {
        assert_eq!(parse("cmb=sq+data").unwrap().0.cmb, CmbUse::QueuesAndData);
        for query in
            ["cmb=1", "poll=2", "shadow=2", "irq=yes", "poll=1&irq=1", "max_transfer=1", "bounce=x"]
        {
            assert!(parse(query).is_err(), "{query}");
        }
        let error = parse("quirks=no-sgl,fast").unwrap_err();
        assert!(
            error.contains("parameter quirks") && error.contains("no quirk \"fast\""),
            "{error}"
        );
    }
}
