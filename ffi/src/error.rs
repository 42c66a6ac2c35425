//! Errors: negative errno, and a text per thread.

use std::borrow::Cow;
use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int};

use libc as e;
use nvme_mpath::core::spec::Status;
use nvme_mpath::{HostError, IoError, ParkLimit, SubmitReason};

/// What an entry answers when it does not succeed.
#[derive(Debug)]
pub(crate) struct Error {
    /// Positive.
    pub(crate) errno: c_int,
    pub(crate) text: Cow<'static, str>,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(errno: c_int, text: impl Into<Cow<'static, str>>) -> Self {
        Self { errno, text: text.into() }
    }

    pub(crate) fn null(what: &str) -> Self {
        Self::new(e::EFAULT, format!("{what} is NULL"))
    }

    pub(crate) fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(e::EINVAL, text)
    }
}

impl From<HostError> for Error {
    fn from(error: HostError) -> Self {
        let errno = match &error {
            HostError::UnknownScheme { .. } => e::EPROTONOSUPPORT,
            HostError::Url(_) => e::EINVAL,
            HostError::Controller(_) => e::ECONNREFUSED,
            HostError::Removed { .. } => e::ENODEV,
            HostError::NotLive { .. } => e::ENOTCONN,
            HostError::Timeout { .. } | HostError::Unstopped(_) => e::ETIMEDOUT,
            HostError::Discovery { .. } => e::EPROTO,
            HostError::Busy(_) => e::EBUSY,
            HostError::Shutdown => e::ESHUTDOWN,
            HostError::System { .. } | HostError::Memory(_) => e::ENFILE,
            _ => e::EIO,
        };
        Self::new(errno, error.to_string())
    }
}

impl From<SubmitReason> for Error {
    fn from(reason: SubmitReason) -> Self {
        let errno = match reason {
            // Met in good times: not worth making a text for.
            SubmitReason::Full { .. } => return Self::new(e::EAGAIN, "the channel is full"),
            SubmitReason::Unaligned { .. } => e::EINVAL,
            SubmitReason::OutOfRange { .. } => e::ERANGE,
            SubmitReason::TooLarge { .. } => e::EMSGSIZE,
            SubmitReason::ReadOnly => e::EROFS,
            SubmitReason::Metadata { .. } => e::EOPNOTSUPP,
            SubmitReason::ForeignHead => e::EXDEV,
            _ => e::EINVAL,
        };
        Self::new(errno, reason.to_string())
    }
}

/// The errno of a request that failed, positive; and the NVMe status, if a controller answered.
pub(crate) fn io_errno(error: &IoError) -> (c_int, u16) {
    match error {
        IoError::Status { status, .. } => (status_errno(*status), status.code().raw()),
        IoError::NoPath { .. } => (e::EHOSTUNREACH, 0),
        IoError::ParkLimit { limit: ParkLimit::Age(_), .. } | IoError::Expired { .. } => {
            (e::ETIMEDOUT, 0)
        }
        IoError::ParkLimit { .. } => (e::ENOBUFS, 0),
        IoError::HeadRemoved { .. } => (e::ENODEV, 0),
        IoError::NoQueue { .. } => (e::EUSERS, 0),
        IoError::Formatted { .. } => (e::ESTALE, 0),
        IoError::Metadata { .. } => (e::EOPNOTSUPP, 0),
        IoError::TooLarge { .. } => (e::EMSGSIZE, 0),
        IoError::Shutdown { .. } => (e::ESHUTDOWN, 0),
        IoError::Cancelled { .. } => (e::ECANCELED, 0),
        _ => (e::EIO, 0),
    }
}

pub(crate) fn status_errno(status: Status) -> c_int {
    // (SCT, SC): NVMe 2.1 §4.2.3, NVM 1.1 §3.2.
    match (status.sct(), status.sc()) {
        (0, 0x01) => e::EOPNOTSUPP,
        (0, 0x02) => e::EINVAL,
        (0, 0x0b) => e::ENODEV,
        (0, 0x20) | (1, 0x82) => e::EROFS,
        (0, 0x80) => e::ERANGE,
        (0, 0x81) => e::ENOSPC,
        (0, 0x83) => e::EBADE,
        (2, 0x85) => e::EILSEQ,
        _ => e::EIO,
    }
}

/// Bytes of the text of the last error, its end included.
const ROOM: usize = 1024;

thread_local! {
    // Bytes without a destructor: one would keep the shared object loaded until the thread ends.
    static LAST: UnsafeCell<[u8; ROOM]> = const { UnsafeCell::new([0; ROOM]) };
}

/// Keeps the text of an error for [`nvmeh_last_error`].
pub(crate) fn set_last(text: &str) {
    let mut len = text.len().min(ROOM - 1);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    LAST.with(|last| {
        // SAFETY: the bytes are this thread's, and nothing below borrows them a second time.
        let last = unsafe { &mut *last.get() };
        for (to, from) in last.iter_mut().zip(text.as_bytes().get(..len).unwrap_or_default()) {
            // A text ends at its first zero.
            *to = if *from == 0 { b' ' } else { *from };
        }
        if let Some(end) = last.get_mut(len) {
            *end = 0;
        }
    });
}

/// Notes an error and gives the number that C gets.
pub(crate) fn tell(error: &Error) -> c_int {
    set_last(&error.text);
    -error.errno
}

/// The text of the last error that a function of this library returned **on this thread**: what was
/// being done to what, and why it failed. Never NULL; empty if there was none.
///
/// Thread: any. Owner: the library; valid until the next failing call on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn nvmeh_last_error() -> *const c_char {
    LAST.with(|last| last.get().cast::<c_char>().cast_const())
}

/// The name and meaning of an error number of this library, which is a negative errno. One text
/// for each number; a number without a meaning of its own gives a text that says so. Never NULL.
///
/// Thread: any. Owner: the library; valid as long as it is loaded.
#[unsafe(no_mangle)]
pub extern "C" fn nvmeh_strerror(error: c_int) -> *const c_char {
    let text = MEANINGS.iter().find(|(errno, _)| *errno == error.wrapping_neg());
    text.map_or(c"an error number that this library does not use", |(_, text)| *text).as_ptr()
}

/// What each number means. Numbers are never given another meaning.
const MEANINGS: &[(c_int, &std::ffi::CStr)] = &[
    (0, c"success"),
    (e::EPERM, c"EPERM: called from another thread than the object's"),
    (e::ENOENT, c"ENOENT: no such option, namespace or item"),
    (e::EIO, c"EIO: the controller answered with an error, see the NVMe status"),
    (e::E2BIG, c"E2BIG: too many"),
    (e::EBADF, c"EBADF: the handle was freed, or is none of this kind"),
    (e::ECHILD, c"ECHILD: the object belongs to the process that forked this one"),
    (e::EAGAIN, c"EAGAIN: the channel is full: poll, then try again"),
    (e::EFAULT, c"EFAULT: a pointer is NULL"),
    (e::EBUSY, c"EBUSY: pins are out; or the object is being used further up on this stack"),
    (e::EXDEV, c"EXDEV: the head belongs to another host than the channel"),
    (e::ENODEV, c"ENODEV: the head or the controller is gone"),
    (e::EINVAL, c"EINVAL: an argument cannot be right"),
    (e::ENFILE, c"ENFILE: the operating system gave no descriptor, thread or memory"),
    (e::ENOSPC, c"ENOSPC: the namespace's capacity is used up"),
    (e::EROFS, c"EROFS: the namespace is write-protected"),
    (e::ERANGE, c"ERANGE: the range does not lie inside the namespace"),
    (e::EBADE, c"EBADE: a reservation of another host is in the way"),
    (e::EILSEQ, c"EILSEQ: compare: the data differ"),
    (e::ENOTCONN, c"ENOTCONN: the controller takes no command now"),
    (e::ECONNREFUSED, c"ECONNREFUSED: the controller could not be brought up"),
    (e::EHOSTUNREACH, c"EHOSTUNREACH: no usable path, and none is coming"),
    (e::ETIMEDOUT, c"ETIMEDOUT: did not happen within the time given"),
    (e::ESHUTDOWN, c"ESHUTDOWN: the host is shut down, or the channel closed"),
    (e::ENOBUFS, c"ENOBUFS: the limit of requests that wait for a path is reached"),
    (e::EMSGSIZE, c"EMSGSIZE: more than one request can move"),
    (e::EOVERFLOW, c"EOVERFLOW: lengths add up to more than can be counted"),
    (e::EOPNOTSUPP, c"EOPNOTSUPP: the controller or this library cannot do this"),
    (e::EPROTONOSUPPORT, c"EPROTONOSUPPORT: no transport for the URL's scheme"),
    (e::EPROTO, c"EPROTO: a discovery log cannot be used"),
    (e::ESTALE, c"ESTALE: the namespace got another block size while the request waited"),
    (e::EUSERS, c"EUSERS: the controllers grant this channel no I/O queue"),
    (e::ECANCELED, c"ECANCELED: the program cancelled it"),
    (e::ENOTRECOVERABLE, c"ENOTRECOVERABLE: the library failed inside this object"),
];

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn each_number_has_one_meaning() {
        for (at, (errno, _)) in MEANINGS.iter().enumerate() {
            assert!(MEANINGS[..at].iter().all(|(other, _)| other != errno), "{errno} twice");
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        set_last(&"ä".repeat(ROOM));
        // SAFETY: it ends with a zero.
        let text = unsafe { CStr::from_ptr(nvmeh_last_error()) }.to_str().unwrap();
        assert_eq!(text.len(), ROOM - 2);
        set_last("a\0b");
        // SAFETY: as above.
        let text = unsafe { CStr::from_ptr(nvmeh_last_error()) }.to_str().unwrap();
        assert_eq!(text, "a b");
    }
}
