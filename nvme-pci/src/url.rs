//! URLs of PCI functions: `SCHEME://DEVICE[?parameters]`.

/// The longest URL that is looked at, in bytes.
const URL_MAX: usize = 4096;

/// A URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Location {
    /// What stands between `://` and `?`, such as `0000:01:00.0` or `/run/ctrl/socket`.
    pub device: String,
    /// The parameters that are the backend's: keys and values in the order given, keys at most once.
    pub parameters: Vec<(String, String)>,
}

impl Location {
    /// The value of a parameter of the backend's.
    #[must_use]
    pub fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Takes a URL of `scheme` apart; the parameters are all still here.
    ///
    /// # Errors
    /// The text says which part is wrong.
    pub fn parse(scheme: &str, url: &str) -> Result<Self, String> {
        if url.len() > URL_MAX {
            return Err(format!("longer than {URL_MAX} bytes"));
        }
        let rest = url
            .strip_prefix(scheme)
            .and_then(|r| r.strip_prefix("://"))
            .ok_or_else(|| format!("does not begin with {scheme}://"))?;
        let (device, query) = rest.split_once('?').unwrap_or((rest, ""));
        if device.is_empty() {
            return Err("no device between :// and ?".into());
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| format!("parameter {pair:?} is not of the form key=value"))?;
            if parameters.iter().any(|(k, _)| k == key) {
                return Err(format!("parameter {key:?} is given twice"));
            }
            parameters.push((key.into(), value.into()));
        }
        Ok(Self { device: device.into(), parameters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_comes_apart_into_device_and_parameters() {
        let l = Location::parse("vfio", "vfio://0000:01:00.0?poll=1&x=y=z").unwrap();
        assert_eq!(l.device, "0000:01:00.0");
        assert_eq!((l.parameter("poll"), l.parameter("x")), (Some("1"), Some("y=z")));
        let l = Location::parse("vfio-user", "vfio-user:///run/a/socket").unwrap();
        assert_eq!((l.device.as_str(), l.parameters.len()), ("/run/a/socket", 0));
    }

    #[test]
    fn a_url_that_is_wrong_is_told_where() {
        let reason = |url| Location::parse("vfio", url).unwrap_err();
        assert!(reason("uio://x").contains("vfio://"));
        assert!(reason("vfio://?poll=1").contains("no device"));
        assert!(reason("vfio://x?poll").contains("\"poll\""));
        assert!(reason("vfio://x?a=1&a=2").contains("twice"));
    }
}
