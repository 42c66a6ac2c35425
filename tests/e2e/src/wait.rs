//! Waiting for a state.

use std::time::{Duration, Instant};

/// Long enough for anything that should happen at all on a slow, shared machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How long a test watches something that should stay as it is.
pub const MOMENT: Duration = Duration::from_millis(150);

/// Waits until `look` finds something, at most [`LIMIT`].
pub fn wait_for<R>(what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `is_so`, at most [`LIMIT`].
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}
