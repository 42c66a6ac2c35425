//! Fixed length ASCII fields, padded with spaces or NULs (NVMe 2.1 §1.4.2).

use super::error::WireError;

/// The part of a field before the first NUL, without trailing spaces.
fn trimmed(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    field[..end].trim_ascii_end()
}

/// The field's text, exact.
pub(super) fn ascii<'a>(what: &'static str, field: &'a [u8]) -> Result<&'a str, WireError> {
    let text = trimmed(field);
    match text.iter().position(|b| !matches!(b, b' '..=b'~')) {
        Some(offset) => Err(WireError::Text { what, offset }),
        None => core::str::from_utf8(text)
            .map_err(|error| WireError::Text { what, offset: error.valid_up_to() }),
    }
}

/// The field's text for people: leading spaces dropped too, a `?` for what is not printable ASCII.
pub(super) fn ascii_lossy(field: &[u8]) -> String {
    let printable = |&b: &u8| if matches!(b, b' '..=b'~') { char::from(b) } else { '?' };
    trimmed(field).trim_ascii_start().iter().map(printable).collect()
}

/// Fills a field with text, cut to the field's length, padded with spaces.
pub(super) fn fill(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
}
