//! The version.

use std::ffi::c_char;

/// Major version of the header.
pub const NVMEH_VERSION_MAJOR: u32 = 0;
/// Minor version of the header.
pub const NVMEH_VERSION_MINOR: u32 = 1;
/// Patch version of the header.
pub const NVMEH_VERSION_PATCH: u32 = 0;

const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");

/// The version of the library that is running, such as "0.1.0". Never NULL.
///
/// Thread: any. Owner: the library.
#[unsafe(no_mangle)]
pub extern "C" fn nvmeh_version() -> *const c_char {
    TEXT.as_ptr().cast()
}

/// The version of the library that is running as a number: major << 16 | minor << 8 | patch. To be
/// compared with the `NVMEH_VERSION_*` that the program was built with.
///
/// Thread: any.
#[unsafe(no_mangle)]
pub extern "C" fn nvmeh_version_number() -> u32 {
    NVMEH_VERSION_MAJOR << 16 | NVMEH_VERSION_MINOR << 8 | NVMEH_VERSION_PATCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_macros_are_the_package_s_version() {
        let text = format!("{NVMEH_VERSION_MAJOR}.{NVMEH_VERSION_MINOR}.{NVMEH_VERSION_PATCH}");
        assert_eq!(text, env!("CARGO_PKG_VERSION"));
    }
}
