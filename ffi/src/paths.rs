//! Which path a request takes, and what is done when one is slow or lost.

use std::ffi::{c_char, c_int};
use std::time::Duration;

use nvme_mpath::core::nqn::Nqn;
use nvme_mpath::{ControllerId, Fence, HedgeOptions, PathPolicy, UnknownPolicy};

use crate::controller::nvmeh_controller;
use crate::error::{Error, Result};
use crate::head::nvmeh_head;
use crate::host::nvmeh_host;
use crate::object::{Sizable, enter, put, put_text, take, text};

/// A policy's name; NULL is none.
///
/// # Safety
/// `name` is NULL or a text.
unsafe fn policy(name: *const c_char) -> Result<Option<PathPolicy>> {
    if name.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let name = unsafe { text(name, "the policy") }?;
    name.parse().map(Some).map_err(|e: UnknownPolicy| Error::invalid(e.to_string()))
}

/// Sets how channels choose among the paths of heads for which nothing else is set: "round-robin",
/// "numa", "queue-depth", "active-passive" or "service-time". In effect with the next request.
///
/// Returns 0, -EINVAL (no such policy; the error lists those that exist), -EFAULT, -EBADF, -ECHILD.
/// Thread: any.
///
/// # Safety
/// `host` is NULL or a handle, `policy` NULL or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_set_policy(
    host: *mut nvmeh_host,
    policy: *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            let policy = self::policy(policy)?.ok_or_else(|| Error::null("policy"))?;
            h.host.set_policy(policy);
            Ok(0)
        })
    }
}

/// The same for the heads of one subsystem that have no policy of their own, those that are yet to come
/// included. `policy` NULL: what the host says.
///
/// Errors and thread: as nvmeh_host_set_policy(); -EINVAL also: no NQN.
///
/// # Safety
/// `host` is NULL or a handle, `subnqn` and `policy` are NULL or texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_set_subsystem_policy(
    host: *mut nvmeh_host,
    subnqn: *const c_char,
    policy: *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            let nqn = Nqn::new(text(subnqn, "the subsystem's NQN")?);
            let nqn = nqn.map_err(|e| Error::invalid(e.to_string()))?;
            h.host.set_subsystem_policy(&nqn, self::policy(policy)?);
            Ok(0)
        })
    }
}

/// The same for one head. `policy` NULL: what its subsystem or the host say.
///
/// Errors and thread: as nvmeh_host_set_policy().
///
/// # Safety
/// `head` is NULL or a handle, `policy` NULL or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_set_policy(
    head: *mut nvmeh_head,
    policy: *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            h.head.set_policy(self::policy(policy)?);
            Ok(0)
        })
    }
}

/// The policy that is in effect for a head, cut to `size` bytes.
///
/// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `buf` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_policy(
    head: *const nvmeh_head,
    buf: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(head, |h| put_text(h.head.policy().name(), buf, size)) }
}

/// Names the path that "active-passive" uses while it is usable and no other is better by its ANA
/// state, by the number of its controller, which need not be there; -1: the one that was found first.
///
/// Returns 0, -EINVAL (no such number), -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_set_preferred_path(
    head: *mut nvmeh_head,
    controller: i64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            let controller = match u32::try_from(controller) {
                Ok(number) => Some(ControllerId::from_raw(number)),
                Err(_) if controller == -1 => None,
                Err(_) => {
                    let text = format!("{controller} is no number of a controller");
                    return Err(Error::invalid(text));
                }
            };
            h.head.set_preferred_path(controller);
            Ok(0)
        })
    }
}

/// Marks the paths of a controller as marginal (not 0), or takes the mark off: they are used only when a
/// head has no other path, whatever the policy. The mark stays through reconnects.
///
/// Returns 0, -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_set_marginal(
    controller: *mut nvmeh_controller,
    marginal: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            c.controller.set_marginal(marginal != 0);
            Ok(0)
        })
    }
}

/// Whether its paths are marked as marginal: 1 or 0. Or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_is_marginal(
    controller: *const nvmeh_controller,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(controller, |c| Ok(c_int::from(c.controller.is_marginal()))) }
}

/// When a read is sent down a second path, because the first takes too long to answer.
///
/// The slow path owns the request's memory until it answers, so the second attempt reads into memory
/// of the channel's. Only reads whose data lie in such memory anyway, and are copied at the end, can
/// therefore be hedged: those with the flag NVMEH_HEDGE, and those of an iovec with gaps. All others are
/// never hedged, nor copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_hedge_options {
    /// sizeof(struct nvmeh_hedge_options), set by the caller.
    pub size: usize,
    /// A read is hedged when it outlives this part of the reads of its size class on its channel, 0.5
    /// to 0.9999. Nothing is hedged before 128 reads have been seen.
    pub percentile: f64,
    /// The least time before a read is hedged, in nanoseconds.
    pub min_delay_ns: u64,
    /// Second attempts per read, over time, 0 to 1.
    pub budget: f64,
    /// Second attempts that may be saved up while few are needed, 1 and more.
    pub burst: f64,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_hedge_options {}

/// Fills in the defaults: 0.99, 100 µs, 0.05, 128.
///
/// Returns 0, -EFAULT, -EINVAL (`size`). Thread: any.
///
/// # Safety
/// `options` is NULL or valid for as many bytes as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_hedge_options_init(options: *mut nvmeh_hedge_options) -> c_int {
    let d = HedgeOptions::default();
    let value = nvmeh_hedge_options {
        size: size_of::<nvmeh_hedge_options>(),
        percentile: d.percentile,
        min_delay_ns: d.min_delay.as_nanos() as u64,
        budget: d.budget,
        burst: d.burst,
    };
    // SAFETY: the caller's promise.
    crate::object::plain(|| unsafe { put(options, &value) }.map(|()| 0))
}

/// Sends reads of this head that take too long down a second path, too; `options` NULL: not (the
/// default). For each channel by itself, from its next request on. Values out of range are taken to the
/// end of it. Counted in struct nvmeh_head_stats.
///
/// Returns 0, -EFAULT, -EINVAL (`size`), -EOPNOTSUPP (a member that this version does not know is set),
/// -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `options` NULL or valid for as many bytes as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_set_hedged_reads(
    head: *mut nvmeh_head,
    options: *const nvmeh_hedge_options,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            if options.is_null() {
                h.head.set_hedged_reads(None);
                return Ok(0);
            }
            let given = take(options, "hedge options", size_of::<nvmeh_hedge_options>())?;
            let mut hedge = HedgeOptions::default();
            hedge.percentile = given.percentile;
            hedge.min_delay = Duration::from_nanos(given.min_delay_ns);
            (hedge.budget, hedge.burst) = (given.budget, given.burst);
            h.head.set_hedged_reads(Some(hedge));
            Ok(0)
        })
    }
}

/// Sets what becomes of writes of this head that were in flight on a path that is lost: "strict": they
/// are held until the lost controller is known to execute nothing any more; "off": they are sent again
/// at once; "auto": held if that controller reported what it needs; NULL: what the controller's or the
/// host's options say. Applies to losses from now on.
///
/// Returns 0, -EINVAL (none of these), -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `fence` NULL or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_set_fence(
    head: *mut nvmeh_head,
    fence: *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            let fence = if fence.is_null() {
                None
            } else {
                Some(match text(fence, "the fence")? {
                    "auto" => Fence::Auto,
                    "strict" => Fence::Strict,
                    "off" => Fence::Off,
                    other => {
                        let text = format!("\"{other}\" is none of auto, strict, off");
                        return Err(Error::invalid(text));
                    }
                })
            };
            h.head.set_fence(fence);
            Ok(0)
        })
    }
}

/// What nvmeh_head_set_fence() set, cut to `size` bytes; empty if nothing.
///
/// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `buf` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_fence(
    head: *const nvmeh_head,
    buf: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            let word = match h.head.fence() {
                Some(Fence::Auto) => "auto",
                Some(Fence::Strict) => "strict",
                Some(Fence::Off) => "off",
                _ => "",
            };
            put_text(word, buf, size)
        })
    }
}
