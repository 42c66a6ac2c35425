//! The head: one handle for one namespace, over however many paths.

#![expect(non_camel_case_types, reason = "the names that C sees")]

use std::ffi::{c_char, c_int};
use std::sync::Arc;

use nvme_mpath::core::ana::AnaState;
use nvme_mpath::{Head, HeadState};

use crate::host::cause_number;
use crate::object::{Header, Object, Sizable, end, enter, fixed, millis, put, put_text};
use crate::options::NVMEH_FOREVER;
use crate::pins::put_list;

/// A handle of a head. One that outlives its head answers with errors. Thread: any, several at once.
pub struct nvmeh_head {
    header: Header,
    pub(crate) head: Arc<Head>,
}

impl Object for nvmeh_head {
    const MAGIC: u32 = 0x6e76_6864;
    const WHAT: &'static str = "nvmeh_head";

    fn header(&self) -> &Header {
        &self.header
    }
}

impl nvmeh_head {
    pub(crate) fn new(head: Arc<Head>) -> Self {
        Self { header: Header::new::<Self>(), head }
    }
}

/// It has paths, which need not work at the moment.
pub const NVMEH_HEAD_LIVE: c_int = 1;
/// It has none and will be removed.
pub const NVMEH_HEAD_REMOVAL_PENDING: c_int = 2;
/// It is being taken apart.
pub const NVMEH_HEAD_REMOVING: c_int = 3;
/// It is gone.
pub const NVMEH_HEAD_GONE: c_int = 4;

/// How a head is doing.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_head_status {
    /// sizeof(struct nvmeh_head_status), set by the caller; what was filled in, on return.
    pub size: usize,
    /// NVMEH_HEAD_*.
    pub state: c_int,
    /// NVMEH_CAUSE_*: why the last path left; 0 while live.
    pub cause: c_int,
    /// Milliseconds since the last path left; 0 while live.
    pub lost_for_ms: u64,
    /// Milliseconds until it is removed; NVMEH_FOREVER: it waits without end; 0 if nothing is
    /// pending.
    pub remaining_ms: u64,
    /// Paths.
    pub paths: u32,
    /// Paths on which I/O may be sent.
    pub usable_paths: u32,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_head_status {}

/// Size and shape of a namespace, as last reported.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_geometry {
    /// sizeof(struct nvmeh_geometry), set by the caller; what was filled in, on return.
    pub size: usize,
    /// Bytes in a block: every offset and length is a multiple of it.
    pub block_size: u32,
    /// 1 if it cannot be written to.
    pub read_only: u32,
    /// Bytes of the namespace.
    pub bytes: u64,
    /// Bytes that one read, write or compare can move at most.
    pub max_transfer: u64,
    /// Bytes of metadata with each block, 0 for none.
    pub metadata_size: u32,
    /// 1 if the metadata follows each block's data in the same memory: a block takes block_size +
    /// metadata_size bytes there. 0: nvmeh_request.metadata. Offsets do not count it in any case.
    pub extended_metadata: u32,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_geometry {}

/// The best way (also what a controller without ANA has).
pub const NVMEH_ANA_OPTIMIZED: c_int = 1;
/// Works, but another controller may be better.
pub const NVMEH_ANA_NON_OPTIMIZED: c_int = 2;
/// Does not work for now.
pub const NVMEH_ANA_INACCESSIBLE: c_int = 3;
/// Will not work again.
pub const NVMEH_ANA_PERSISTENT_LOSS: c_int = 4;
/// In transition.
pub const NVMEH_ANA_CHANGE: c_int = 15;

pub(crate) const fn ana_number(state: AnaState) -> c_int {
    match state {
        AnaState::Optimized => NVMEH_ANA_OPTIMIZED,
        AnaState::NonOptimized => NVMEH_ANA_NON_OPTIMIZED,
        AnaState::Inaccessible => NVMEH_ANA_INACCESSIBLE,
        AnaState::PersistentLoss => NVMEH_ANA_PERSISTENT_LOSS,
        AnaState::Change => NVMEH_ANA_CHANGE,
    }
}

/// A path of a head.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_path {
    /// sizeof(struct nvmeh_path), set by the caller in the first of an array.
    pub size: usize,
    /// The controller's number.
    pub controller: u32,
    /// Namespace ID on it.
    pub nsid: u32,
    /// NVMEH_ANA_*.
    pub ana: c_int,
    /// 1 if I/O may be sent on it.
    pub usable: c_int,
    /// The controller's address, cut if need be.
    pub address: [c_char; 256],
    /// Writes that were in flight on its controller when that was lost, and are held until it is
    /// fenced.
    pub held: u64,
    /// 1 if it is used only when there is no other: nvmeh_controller_set_marginal().
    pub marginal: c_int,
    /// Always 0.
    pub reserved: c_int,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_path {}

/// SUBNQN/NSID, cut to `size` bytes.
///
/// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `buf` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_name(
    head: *const nvmeh_head,
    buf: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(head, |h| put_text(h.head.name(), buf, size)) }
}

/// The identifiers that tell the namespace from others, such as "uuid=...", cut to `size` bytes.
///
/// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `buf` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_identifiers(
    head: *const nvmeh_head,
    buf: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            let ids = h.head.ids();
            let mut text = Vec::new();
            text.extend(ids.uuid.iter().map(|id| format!("uuid={id}")));
            text.extend(ids.nguid.iter().map(|id| format!("nguid={id}")));
            text.extend(ids.eui64.iter().map(|id| format!("eui64={id}")));
            put_text(&text.join(" "), buf, size)
        })
    }
}

/// A number that no other head of the host has had; events name heads by it. Or -EFAULT, -EBADF,
/// -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_instance(head: *const nvmeh_head) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(head, |h| Ok(h.head.instance() as c_int)) }
}

/// The namespace ID, 1 and more; 0 if `head` is no handle. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_nsid(head: *const nvmeh_head) -> u32 {
    let mut nsid = 0;
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            nsid = h.head.nsid();
            Ok(0)
        })
    };
    nsid
}

/// Size and shape. Kept through the loss of all paths.
///
/// Returns 0, -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `out` NULL or valid for as many bytes as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_geometry(
    head: *const nvmeh_head,
    out: *mut nvmeh_geometry,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            let g = h.head.geometry();
            let value = nvmeh_geometry {
                size: size_of::<nvmeh_geometry>(),
                block_size: g.block_size,
                read_only: u32::from(g.read_only),
                bytes: g.blocks.saturating_mul(u64::from(g.block_size)),
                max_transfer: g.max_transfer as u64,
                metadata_size: u32::from(g.metadata_size),
                extended_metadata: u32::from(g.extended_metadata),
            };
            put(out, &value)?;
            Ok(0)
        })
    }
}

/// How the head is doing: its state, the time left, its paths.
///
/// Returns 0, -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `out` NULL or valid for as many bytes as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_get_status(
    head: *const nvmeh_head,
    out: *mut nvmeh_head_status,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            let paths = h.head.paths();
            let (state, cause, lost, left) = match h.head.state() {
                HeadState::Live => (NVMEH_HEAD_LIVE, 0, 0, 0),
                HeadState::RemovalPending { cause, lost_for, remaining } => (
                    NVMEH_HEAD_REMOVAL_PENDING,
                    cause_number(cause),
                    millis(lost_for),
                    remaining.map_or(NVMEH_FOREVER, millis),
                ),
                HeadState::Removing(cause) => (NVMEH_HEAD_REMOVING, cause_number(cause), 0, 0),
                HeadState::Gone(cause) => (NVMEH_HEAD_GONE, cause_number(cause), 0, 0),
                _ => (0, 0, 0, 0),
            };
            let value = nvmeh_head_status {
                size: size_of::<nvmeh_head_status>(),
                state,
                cause,
                lost_for_ms: lost,
                remaining_ms: left,
                paths: paths.len() as u32,
                usable_paths: paths.iter().filter(|p| p.usable).count() as u32,
            };
            put(out, &value)?;
            Ok(0)
        })
    }
}

/// Lists the paths: at most `count` entries, which lie `paths[0].size` bytes apart.
///
/// Returns how many there are, or -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `paths` has room for `count` entries of the size that it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_paths(
    head: *const nvmeh_head,
    paths: *mut nvmeh_path,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            let list = h.head.paths();
            let entries = list.iter().map(|p| nvmeh_path {
                size: size_of::<nvmeh_path>(),
                controller: p.controller.as_u32(),
                nsid: p.nsid,
                ana: ana_number(p.ana),
                usable: c_int::from(p.usable),
                address: fixed(&p.address),
                held: p.held,
                marginal: c_int::from(p.marginal),
                reserved: 0,
            });
            put_list(paths, count, entries)?;
            Ok(list.len() as c_int)
        })
    }
}

/// While set (not 0), requests fail at once when no path can be used, those that wait too, whatever
/// the windows say. Reconnecting goes on.
///
/// Returns 0, -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_set_fail_if_no_path(
    head: *mut nvmeh_head,
    fail: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            h.head.set_fail_if_no_path(fail != 0);
            Ok(0)
        })
    }
}

/// Gives a handle up; the head stays. NULL is fine. Requests under way need no handle. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_free(head: *mut nvmeh_head) {
    // SAFETY: the caller's promise.
    unsafe { end(head) };
}
