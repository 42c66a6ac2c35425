//! What channels tell each other and the control plane of their requests: counts of each queue, written by
//! one thread at a time and read by all.

use loom::sync::Arc;
use loom::thread;

use crate::letterbox::{Bell, LetterBox};
use crate::load::Board;

/// Nobody sleeps here.
struct Nothing;

impl Bell for Nothing {
    fn ring(&self) {}
    fn clear(&self) {}
}

fn tell(board: &Board, qid: u16, in_flight: u32) {
    if let Some(cell) = board.cell(qid) {
        cell.tell(in_flight);
    }
}

fn count(board: &Board, qid: u16) {
    if let Some(cell) = board.cell(qid) {
        cell.count(1);
    }
}

/// Two channels, each with a queue, and the control plane, which takes completions for a sign of life: it
/// never sees one that was not, nor less than it has seen, and in the end it has seen all. A channel counts
/// what the other one has in flight, and not its own.
#[test]
fn completions_are_all_seen_and_a_channel_counts_the_other_one() {
    loom::model(|| {
        let board = Arc::new(Board::new(2));
        board.give(1);
        board.give(2);
        let first = Arc::clone(&board);
        let channel = thread::spawn(move || {
            tell(&first, 1, 2);
            let others = first.others(1);
            assert!(others == 0 || others == 5, "its own, or what nobody said: {others}");
            count(&first, 1);
            count(&first, 1);
            tell(&first, 1, 0);
        });
        let second = Arc::clone(&board);
        let other = thread::spawn(move || {
            tell(&second, 2, 5);
            count(&second, 2);
        });
        let before = board.completions();
        let after = board.completions();
        assert!(before <= after && after <= 3, "{before}, then {after}");
        channel.join().unwrap();
        other.join().unwrap();
        assert_eq!((board.completions(), board.in_flight()), (3, 5));
        assert_eq!((board.others(1), board.others(2)), (5, 0));
    });
}

/// A queue goes from one owner to the next by a letter, as from a channel that closes through the control
/// plane to another one: its count has one writer at a time, and none is lost.
#[test]
fn a_queue_that_is_handed_over_goes_on_counting() {
    loom::model(|| {
        let board = Arc::new(Board::new(1));
        board.give(1);
        let letters = Arc::new(LetterBox::new(Nothing));
        let (theirs, from) = (Arc::clone(&board), Arc::clone(&letters));
        let closing = thread::spawn(move || {
            tell(&theirs, 1, 1);
            count(&theirs, 1);
            tell(&theirs, 1, 0);
            from.send(1_u16);
        });
        let mut counted = 0;
        for _ in 0..2 {
            if letters.pending() {
                for qid in letters.take() {
                    assert_eq!((board.completions(), board.in_flight()), (1, 0), "not all of it");
                    count(&board, qid);
                    counted += 1;
                }
            }
        }
        closing.join().unwrap();
        assert_eq!(board.completions(), 1 + counted);
    });
}
