//! The table of paths: published while channels read it.

use loom::sync::Arc;
use loom::thread;

use crate::published::Published;

/// What a channel keeps, and does before each request.
struct Reader {
    generation: u64,
    value: Arc<u64>,
}

impl Reader {
    fn refresh(&mut self, cell: &Published<u64>) {
        if cell.generation() != self.generation {
            let (generation, value) = cell.load();
            assert!(generation >= self.generation && *value >= *self.value, "back in time");
            (self.generation, self.value) = (generation, value);
        }
    }
}

/// Two publications, and a reader that looks twice meanwhile. The value is the generation's own, so
/// that a value older than its generation would be seen; and whoever looks last has the last.
#[test]
fn a_reader_has_the_value_of_its_generation_or_a_later_one() {
    loom::model(|| {
        let cell = Arc::new(Published::new(1_u64));
        let publisher = Arc::clone(&cell);
        let publishing = thread::spawn(move || {
            publisher.publish(2);
            publisher.publish(3);
        });
        let (generation, value) = cell.load();
        let mut reader = Reader { generation, value };
        for _ in 0..2 {
            reader.refresh(&cell);
            assert!(*reader.value >= reader.generation, "an old table under a new number");
        }
        publishing.join().unwrap();
        reader.refresh(&cell);
        assert_eq!((reader.generation, *reader.value), (3, 3), "a change was missed");
    });
}

/// The control plane and a user's thread publish at once.
#[test]
fn two_that_publish_at_once_are_both_noticed() {
    loom::model(|| {
        let cell = Arc::new(Published::new(0_u64));
        let other = Arc::clone(&cell);
        let publishing = thread::spawn(move || other.publish(1));
        let (before, _) = cell.load();
        cell.publish(2);
        assert_ne!(cell.generation(), before);
        publishing.join().unwrap();
        let (generation, value) = cell.load();
        assert_eq!(generation, 3);
        assert!(*value == 1 || *value == 2);
    });
}
