//! What a controller says, put where a connection wants it, as a socket does.

use std::io::IoSliceMut;

use nvme_tcp::conn::{Connection, LIST};

/// Puts as much of `bytes` as one receive takes, by a list if that is wanted and the connection has one. How much that
/// was, and whether it was by a list.
pub fn place(conn: &mut Connection, bytes: &[u8], lists: bool) -> (usize, bool) {
    let mut n = 0;
    let mut fill = |target: &mut [u8]| {
        let part = target.len().min(bytes.len() - n);
        target[..part].copy_from_slice(&bytes[n..n + part]);
        n += part;
    };
    let mut slices: [IoSliceMut<'_>; LIST] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let used = if lists { conn.read_list(&mut slices) } else { 0 };
    slices[..used].iter_mut().for_each(|slice| fill(slice));
    if used == 0 {
        let (direct, staged) = conn.read_targets();
        fill(direct);
        fill(staged);
    }
    assert!(n > 0 || bytes.is_empty(), "no room for what a controller says");
    (n, used > 0)
}
