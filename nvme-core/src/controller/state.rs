//! The seven states of a controller and the moves between them.

use std::fmt;

/// The state of a controller as the host sees it. Names and moves are those of Linux, because
/// that is what users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Made, nothing sent yet.
    New,
    /// In use.
    Live,
    /// Being taken apart to be brought up again.
    Resetting,
    /// Being brought up, or waiting for the next attempt.
    Connecting,
    /// Going away; I/O may still finish.
    Deleting,
    /// Going away; no I/O any more.
    DeletingNoIo,
    /// Gone for good.
    Dead,
}

impl State {
    /// All states, in the order of declaration.
    pub const ALL: [Self; 7] = [
        Self::New,
        Self::Live,
        Self::Resetting,
        Self::Connecting,
        Self::Deleting,
        Self::DeletingNoIo,
        Self::Dead,
    ];

    /// Whether a controller in this state may move to `to`.
    #[must_use]
    pub const fn can_become(self, to: Self) -> bool {
        use State::{Connecting, Dead, Deleting, DeletingNoIo, Live, New, Resetting};
        match to {
            New => false,
            Live => matches!(self, Connecting),
            Resetting => matches!(self, New | Live),
            Connecting => matches!(self, New | Resetting),
            Deleting => matches!(self, Live | Resetting | Connecting),
            DeletingNoIo => matches!(self, Deleting | Dead),
            Dead => matches!(self, Deleting),
        }
    }

    /// Whether the controller will not come back.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Deleting | Self::DeletingNoIo | Self::Dead)
    }

    /// The name, in lower case, as Linux prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Live => "live",
            Self::Resetting => "resetting",
            Self::Connecting => "connecting",
            Self::Deleting => "deleting",
            Self::DeletingNoIo => "deleting (no IO)",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    /// Row: the state left; column: the state entered; both in the order of `State::ALL`.
    const LEGAL: [&str; 7] = [
        "..RC...", // New
        "..R.D..", // Live
        "...CD..", // Resetting
        ".L..D..", // Connecting
        ".....NX", // Deleting
        ".......", // DeletingNoIo
        ".....N.", // Dead
    ];

    #[test]
    fn each_of_the_49_pairs() {
        for (i, from) in State::ALL.into_iter().enumerate() {
            for (j, to) in State::ALL.into_iter().enumerate() {
                let legal = LEGAL[i].as_bytes()[j] != b'.';
                assert_eq!(from.can_become(to), legal, "{from} -> {to}");
            }
        }
    }
}
