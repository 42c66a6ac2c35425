//! What the program says of devices: rules, and changes.

use std::fmt;
use std::str::FromStr;

use super::{DeviceIds, Identity, Quirks};

/// The longest text that is looked at, in bytes.
const LENGTH_MAX: usize = 1024;

/// What a rule or a URL adds to what is known of a device, and what it takes away.
///
/// As text: names separated by commas, each with a `-` before it if it is taken away, such as
/// `no-sgl,-bogus-ids`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuirkChange {
    /// What the device has.
    pub add: Quirks,
    /// What it has not, whatever the table says.
    pub remove: Quirks,
}

impl QuirkChange {
    /// `quirks` with this change.
    #[must_use]
    pub const fn apply(self, quirks: Quirks) -> Quirks {
        quirks.difference(self.remove).union(self.add)
    }
}

/// Text that is no rule or no change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quirks {text:?}: {reason}")]
pub struct RuleError {
    /// The text, or its beginning.
    pub text: String,
    /// What is wrong with which part.
    pub reason: String,
}

fn error(text: &str, reason: String) -> RuleError {
    RuleError { text: text.chars().take(128).collect(), reason }
}

impl FromStr for QuirkChange {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.len() > LENGTH_MAX {
            return Err(error(text, format!("longer than {LENGTH_MAX} bytes")));
        }
        let mut change = Self::default();
        for part in text.split(',') {
            let (name, removed) = part.strip_prefix('-').map_or((part, false), |name| (name, true));
            let quirk = Quirks::named(name).ok_or_else(|| {
                error(text, format!("there is no quirk {name:?}; there are {}", Quirks::all()))
            })?;
            if removed { change.remove |= quirk } else { change.add |= quirk }
        }
        if change.add.intersects(change.remove) {
            let both = change.add & change.remove;
            return Err(error(text, format!("{both} is added and taken away")));
        }
        Ok(change)
    }
}

/// Which devices a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Function {
        vendor: u16,
        device: u16,
        subsystem: Option<(u16, u16)>,
    },
    /// The beginning of the model number, or all of it; with one firmware or any.
    Model {
        text: String,
        whole: bool,
        firmware: Option<String>,
    },
}

/// A rule of the program's: what is to be known of certain devices.
///
/// As text: `DEVICE=CHANGE`, where CHANGE is a [`QuirkChange`], and DEVICE is `VENDOR:DEVICE` or
/// `VENDOR:DEVICE:SUBVENDOR:SUBDEVICE` with four hexadecimal digits each, or `model:TEXT`, the model
/// number that Identify Controller tells; a `*` at its end stands for anything. `@FIRMWARE` after it
/// makes it hold for that firmware revision alone. Such as `1b36:0010=no-sgl` or
/// `model:Example Drive*@1.0=no-apst,-bogus-ids`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuirkRule {
    who: Who,
    pub(super) change: QuirkChange,
}

impl QuirkRule {
    /// Whether the rule is for a device. One that is for a model waits for Identify Controller.
    pub(super) fn fits(&self, ids: Option<&DeviceIds>, identity: Option<Identity<'_>>) -> bool {
        match &self.who {
            Who::Function { vendor, device, subsystem } => ids.is_some_and(|ids| {
                (ids.vendor, ids.device) == (*vendor, *device)
                    && subsystem.is_none_or(|s| s == (ids.subsystem_vendor, ids.subsystem))
            }),
            Who::Model { text, whole, firmware } => identity.is_some_and(|identity| {
                let model = match whole {
                    true => identity.model == text,
                    false => identity.model.starts_with(text.as_str()),
                };
                model && firmware.as_ref().is_none_or(|firmware| identity.firmware == firmware)
            }),
        }
    }
}

impl FromStr for QuirkRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (who, change) = text
            .rsplit_once('=')
            .ok_or_else(|| error(text, "not of the form DEVICE=QUIRKS".into()))?;
        let change = change.parse()?;
        let who = match who.strip_prefix("model:") {
            Some("") => return Err(error(text, "no model after model:".into())),
            Some(model) => {
                let (model, firmware) =
                    model.rsplit_once('@').map_or((model, None), |(m, f)| (m, Some(f.to_owned())));
                let begins = model.strip_suffix('*');
                let (text, whole) = (begins.unwrap_or(model).into(), begins.is_none());
                Who::Model { text, whole, firmware }
            }
            None => function(who).map_err(|reason| error(text, reason))?,
        };
        Ok(Self { who, change })
    }
}

fn function(text: &str) -> Result<Who, String> {
    let number = |part: &str| {
        let digits = part.len() == 4 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u16::from_str_radix(part, 16).ok().filter(|_| digits);
        number.ok_or_else(|| format!("{part:?} is not four hexadecimal digits"))
    };
    let parts = text.split(':').map(number).collect::<Result<Vec<_>, _>>()?;
    match *parts {
        [vendor, device] => Ok(Who::Function { vendor, device, subsystem: None }),
        [vendor, device, subvendor, subdevice] => {
            Ok(Who::Function { vendor, device, subsystem: Some((subvendor, subdevice)) })
        }
        _ => {
            Err(format!("{text:?} is neither VENDOR:DEVICE nor VENDOR:DEVICE:SUBVENDOR:SUBDEVICE"))
        }
    }
}

/// The text that a change can be read from.
impl fmt::Display for QuirkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let added = self.add.names().map(|name| ("", name));
        let removed = self.remove.names().map(|name| ("-", name));
        for (n, (sign, name)) in added.chain(removed).enumerate() {
            write!(f, "{}{sign}{name}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> QuirkRule {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_fits_by_identifiers_or_by_model() {
        let ids =
            DeviceIds { vendor: 0x144d, device: 0xa808, subsystem_vendor: 1, subsystem: 0xabcd };
        assert!(rule("144d:A808=no-apst").fits(Some(&ids), None));
        assert!(rule("144d:a808:0001:abcd=no-apst").fits(Some(&ids), None));
        assert!(!rule("144d:a808:0001:abce=no-apst").fits(Some(&ids), None));
        assert!(!rule("144d:a809=no-apst").fits(Some(&ids), None));
        assert!(!rule("144d:a808=no-apst").fits(None, None));
        let identity = |model| Some(Identity { vendor: 0, model, firmware: "1" });
        assert!(rule("model:Drive=no-sgl").fits(None, identity("Drive")));
        assert!(!rule("model:Drive=no-sgl").fits(None, identity("Drive 2")));
        assert!(rule("model:Drive*=no-sgl").fits(None, identity("Drive 2")));
        assert!(rule("model:A=B*=no-sgl").fits(None, identity("A=Bc")));
        assert!(!rule("model:Drive*=no-sgl").fits(Some(&ids), None));
        assert!(rule("model:Drive@1=no-sgl").fits(None, identity("Drive")));
        assert!(!rule("model:Drive@2=no-sgl").fits(None, identity("Drive")));
    }

    #[test]
    fn what_is_no_rule_is_told_where() {
        for (text, part) in [
            ("no-sgl", "DEVICE=QUIRKS"),
            ("1b36=no-sgl", "neither VENDOR:DEVICE"),
            ("1b36:10=no-sgl", "\"10\" is not four hexadecimal digits"),
            ("1b36:+010=no-sgl", "hexadecimal"),
            ("1b36:0010:1=no-sgl", "hexadecimal"),
            ("model:=no-sgl", "no model"),
            ("1b36:0010=", "no quirk \"\""),
            ("1b36:0010=no-sql", "no quirk \"no-sql\"; there are ready-delay,"),
            ("1b36:0010=no-sgl,-no-sgl", "no-sgl is added and taken away"),
        ] {
            let error = text.parse::<QuirkRule>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!("x".repeat(2000).parse::<QuirkChange>().unwrap_err().text.len() < 200);
    }

    #[test]
    fn a_change_is_read_as_it_is_written() {
        let change: QuirkChange = "no-sgl,-bogus-ids,ready-delay".parse().unwrap();
        assert_eq!(change.to_string(), "ready-delay,no-sgl,-bogus-ids");
        assert_eq!(change.to_string().parse(), Ok(change));
        let has = Quirks::BOGUS_IDS | Quirks::NO_APST;
        let then = Quirks::NO_APST | Quirks::NO_SGL | Quirks::READY_DELAY;
        assert_eq!(change.apply(has), then);
    }
}
