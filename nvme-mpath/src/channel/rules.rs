//! What becomes of a command that did not succeed: the rules of retry, failover and giving up, all
//! in one place. `ARCHITECTURE.md`, *What a request may meet*, is this table in words.
//!
//! | met | done |
//! | --- | --- |
//! | passthrough that is not idempotent: connection lost | [`Next::Unknown`] |
//! | the same: any status | [`Next::Fail`] |
//! | connection lost, the request is not wanted any more | [`Next::Unwanted`] |
//! | aborted, as it was asked to because the request is not wanted any more | [`Next::Unwanted`] |
//! | connection lost, it changes data and its controller may go on | [`Next::Hold`] |
//! | connection lost, otherwise | [`Next::Send`], any number of times |
//! | ANA error (SCT 3h, SC 01h to 03h), no DNR | [`Next::AwaitAna`], 100 path errors at most |
//! | other path error (SCT 3h), no DNR | [`Next::Elsewhere`], 100 path errors at most |
//! | any other status, no DNR | [`Next::Again`] after the delay of CRD, `max_retries` times |
//! | DNR, or used up, or not wanted any more | [`Next::Fail`] |
//!
//! What is sent and finds no path parks or fails by what the head says (`parked.rs`): there the
//! removal window, `fast_io_fail_tmo`, `ctrl_loss_tmo` and `fail_if_no_path` come in.

use nvme_core::spec::Status;

/// Path errors that a request survives. A lost connection is none: that may happen any number of
/// times. This is for controllers that answer "path error" for ever.
pub(super) const MAX_PATH_ERRORS: u32 = 100;

/// What is known of a command that did not succeed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// The answer; of no meaning if `lost`.
    pub(super) status: Status,
    /// There was none: the connection was lost.
    pub(super) lost: bool,
    /// The command changes data, and the controller may execute it after the loss.
    pub(super) may_live_on: bool,
    /// It may be executed once at most: it is never sent again.
    pub(super) once: bool,
    /// The program cancelled the request, or its time is up.
    pub(super) unwanted: bool,
    /// Path errors that it met before, and retries.
    pub(super) path_errors: u32,
    pub(super) retries: u32,
    pub(super) max_retries: u32,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Sent again when the lost controller is fenced.
    Hold,
    /// Sent again at once, on any path.
    Send,
    /// Sent again; the path is left alone until its ANA log has been read.
    AwaitAna,
    /// Sent again on another path; on the same one after a pause if there is no other.
    Elsewhere,
    /// Sent again after the delay that the status names.
    Again,
    /// Failed with the status.
    Fail,
    /// Failed: nobody knows whether it was executed.
    Unknown,
    /// Ended, because nobody wants it any more.
    Unwanted,
}

pub(super) fn next(case: Case) -> Next {
    let Case { status, lost, may_live_on, unwanted, path_errors, retries, max_retries, .. } = case;
    if lost {
        return match (unwanted, may_live_on) {
            _ if case.once => Next::Unknown,
            (true, _) => Next::Unwanted,
            (false, true) => Next::Hold,
            (false, false) => Next::Send,
        };
    }
    if unwanted && status.is(Status::ABORT_REQUESTED) {
        return Next::Unwanted;
    }
    if unwanted || case.once || status.dnr() {
        return Next::Fail;
    }
    if status.is_path_related() {
        return match (path_errors < MAX_PATH_ERRORS, status.is_ana()) {
            (true, true) => Next::AwaitAna,
            (true, false) => Next::Elsewhere,
            (false, _) => Next::Fail,
        };
    }
    if retries < max_retries { Next::Again } else { Next::Fail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let answered = |status| Case {
            status,
            lost: false,
            may_live_on: false,
            once: false,
            unwanted: false,
            path_errors: 0,
            retries: 0,
            max_retries: 5,
        };
        let lost = Case { lost: true, ..answered(Status::ABORTED_BY_HOST) };
        let ana = answered(Status::ANA_INACCESSIBLE);
        let path = answered(Status::INTERNAL_PATH_ERROR);
        let other = answered(Status::NAMESPACE_NOT_READY);
        let never = answered(Status::LBA_OUT_OF_RANGE.with_dnr());
        let unwanted = |case| Case { unwanted: true, ..case };
        let once = |case| Case { once: true, ..case };
        let spent = |case| Case { path_errors: MAX_PATH_ERRORS, retries: 5, ..case };
        let rows = [
            (lost, Next::Send),
            (spent(lost), Next::Send),
            (Case { may_live_on: true, ..lost }, Next::Hold),
            (unwanted(Case { may_live_on: true, ..lost }), Next::Unwanted),
            (unwanted(lost), Next::Unwanted),
            (ana, Next::AwaitAna),
            (Case { retries: 5, ..ana }, Next::AwaitAna),
            (spent(ana), Next::Fail),
            (path, Next::Elsewhere),
            (spent(path), Next::Fail),
            (answered(Status::INTERNAL_PATH_ERROR.with_dnr()), Next::Fail),
            (other, Next::Again),
            (Case { path_errors: MAX_PATH_ERRORS, ..other }, Next::Again),
            (spent(other), Next::Fail),
            (Case { max_retries: 0, ..other }, Next::Fail),
            (never, Next::Fail),
            (unwanted(ana), Next::Fail),
            (unwanted(other), Next::Fail),
            (unwanted(answered(Status::ABORT_REQUESTED)), Next::Unwanted),
            (answered(Status::ABORT_REQUESTED), Next::Again),
            (once(unwanted(answered(Status::ABORT_REQUESTED))), Next::Unwanted),
            (once(lost), Next::Unknown),
            (once(Case { may_live_on: true, ..lost }), Next::Unknown),
            (once(ana), Next::Fail),
            (once(path), Next::Fail),
            (once(other), Next::Fail),
        ];
        for (case, expected) in rows {
            assert_eq!(next(case), expected, "{case:?}");
        }
    }
}
