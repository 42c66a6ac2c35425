//! Lists that have room.

/// Appends what `make` makes, if there is room for it in memory that the list has. False, and nothing
/// is made, if not.
///
/// The same as [`Vec::push`] where the list need not grow; but as nothing happens between the making and
/// the place where it goes to, it is made there, however large it is, and not on the stack first.
// Inlined in any case: as a call it would be what it is to save.
#[inline(always)]
pub fn push_with<T>(list: &mut Vec<T>, make: impl FnOnce() -> T) -> bool {
    let len = list.len();
    if len == list.capacity() {
        return false;
    }
    // SAFETY: `len` is less than the capacity, so the place is the list's, and it is nobody's value yet.
    // The list is longer by it once it has been written; if making it panics, it is not.
    #[expect(unsafe_code, reason = "a value is made where it goes to")]
    unsafe {
        list.as_mut_ptr().add(len).write(make());
        list.set_len(len + 1);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_with_room_takes_and_a_full_one_does_not() {
        let mut list = Vec::with_capacity(2);
        let room = list.capacity();
        for n in 0..room {
            assert!(push_with(&mut list, || Box::new(n)));
        }
        assert!(!push_with(&mut list, || unreachable!()));
        assert_eq!((list.len(), list.capacity()), (room, room));
        assert!(list.iter().enumerate().all(|(n, value)| **value == n));
        assert!(!push_with(&mut Vec::<u8>::new(), || 1));
    }
}
