//! How long a head outlives its last path, by the cause of the loss.

use nvme_core::time::{Duration, Instant};

/// Why the last path of a head left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossCause {
    /// The controller was lost and not regained within `ctrl_loss_tmo`, refused to come back, or
    /// was pulled.
    LinkLost,
    /// The program disconnected the controller.
    Disconnected,
    /// The target deleted or detached the namespace, or gave its NSID to another one.
    NamespaceGone,
}

impl std::fmt::Display for LossCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LinkLost => "link lost",
            Self::Disconnected => "disconnected",
            Self::NamespaceGone => "namespace gone",
        })
    }
}

/// The time that a head without paths is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Window {
    /// Removed with its last path (Linux: `delayed_removal_secs` 0).
    #[default]
    None,
    /// Removed this long after the loss.
    For(Duration),
    /// Kept until a path returns, or the program removes it.
    Forever,
}

impl Window {
    /// When a head lost at `lost_at` is to be removed; `None`: at once.
    pub(crate) fn deadline(self, lost_at: Instant) -> Option<Instant> {
        match self {
            Self::None | Self::For(Duration::ZERO) => None,
            Self::For(d) => Some(lost_at + d),
            Self::Forever => Some(Instant::NEVER),
        }
    }
}

impl From<Duration> for Window {
    /// Zero is [`Window::None`].
    fn from(d: Duration) -> Self {
        if d.is_zero() { Self::None } else { Self::For(d) }
    }
}

/// The window for each cause of loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DelayedRemoval {
    /// For [`LossCause::LinkLost`].
    pub link_lost: Window,
    /// For [`LossCause::Disconnected`].
    pub disconnected: Window,
    /// For [`LossCause::NamespaceGone`]. A namespace that is known to be gone need not wait, so
    /// this stays [`Window::None`] unless set; Linux waits here too.
    pub namespace_gone: Window,
    /// Whether I/O waits on after `fast_io_fail_tmo` has passed on all controllers of a head that has
    /// a window for a lost link. Then `fast_io_fail_tmo` means nothing for such a head, as on Linux;
    /// otherwise I/O fails, which is what it is there for.
    pub outlasts_fast_io_fail: bool,
}

impl DelayedRemoval {
    /// No window at all: a head goes with its last path. The default.
    pub const OFF: Self = Self::after(Window::None);

    /// The same window for a lost link and for a disconnect; none for a namespace that is gone.
    #[must_use]
    pub const fn after(window: Window) -> Self {
        let (link_lost, disconnected) = (window, window);
        let (namespace_gone, outlasts_fast_io_fail) = (Window::None, false);
        Self { link_lost, disconnected, namespace_gone, outlasts_fast_io_fail }
    }

    /// As Linux has it: the same window for every cause, and stronger than `fast_io_fail_tmo`. See
    /// also [`Head::set_next_delayed_removal`](crate::Head::set_next_delayed_removal).
    #[must_use]
    pub const fn like_linux(window: Window) -> Self {
        Self { namespace_gone: window, outlasts_fast_io_fail: true, ..Self::after(window) }
    }

    /// Whether I/O waits although `fast_io_fail_tmo` has passed on all controllers.
    pub(crate) const fn outlasts(&self) -> bool {
        let open = !matches!(self.link_lost, Window::None | Window::For(Duration::ZERO));
        self.outlasts_fast_io_fail && open
    }

    pub(crate) const fn window(&self, cause: LossCause) -> Window {
        match cause {
            LossCause::LinkLost => self.link_lost,
            LossCause::Disconnected => self.disconnected,
            LossCause::NamespaceGone => self.namespace_gone,
        }
    }
}

impl From<Duration> for DelayedRemoval {
    /// [`DelayedRemoval::after`] that time; zero is [`DelayedRemoval::OFF`].
    fn from(d: Duration) -> Self {
        Self::after(d.into())
    }
}
