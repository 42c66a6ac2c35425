//! Sizes as people write them: `4k`, `1M`, `512`, `2GiB`.

/// Parses a number of bytes. `k`, `M`, `G` and `T` are powers of 1024, in either case, with or
/// without `B` or `iB` behind them.
///
/// # Errors
/// A text that says what is wrong.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: u64 =
        digits.parse().map_err(|_| format!("`{text}` is no size; try 4096, 4k, 1M or 1G"))?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("`{unit}` is no unit; known are k, M, G and T (powers of 1024)")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

/// A number of bytes with a unit, for people.
#[must_use]
pub fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let at = ((63 - bytes.max(1).leading_zeros()) / 10).min(5) as usize;
    let value = bytes as f64 / (1u64 << (10 * at)) as f64;
    let digits = if at == 0 || value.fract() == 0.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", units[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, want) in [("512", 512), ("4k", 4096), ("1M", 1 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(parse(text), Ok(want), "{text}");
        }
        for text in ["", "k", "-1", "4x", "1.5M", "99999999T", "0x10"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_told() {
        let all = [(0, "0 B"), (512, "512 B"), (1 << 20, "1 MiB"), (1536, "1.5 KiB")];
        for (bytes, want) in all {
            assert_eq!(human(bytes), want);
        }
        assert_eq!(human(u64::MAX), "16384 PiB");
    }
}
