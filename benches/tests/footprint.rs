//! What a queue and a head take on the heap stays within its limit, whatever the machine does.

use nvme_host_benches::{footprint, heap};

#[global_allocator]
static ALLOCATOR: heap::Counting = heap::Counting;

#[test]
fn an_idle_tcp_queue_takes_at_most_64_kib() {
    let queues = footprint::queues().unwrap();
    assert!((1..=64 << 10).contains(&queues.queue), "{queues:?}");
    assert!((1..=64 << 10).contains(&queues.small), "{queues:?}");
    assert!(queues.shared <= 64 << 10, "{queues:?}");
}

#[test]
fn a_head_with_one_path_takes_at_most_4_kib_with_its_place_in_a_channel() {
    let heads = footprint::heads(500).unwrap();
    let each = (heads.first.bytes + heads.used.bytes) / i64::from(heads.count);
    assert!((1..=4096).contains(&each), "{each} bytes: {heads:?}");
    // A path more costs less than a head.
    assert!(heads.second.bytes < heads.first.bytes, "{heads:?}");
}

#[test]
fn allocations_grow_with_the_number_of_heads_and_not_faster() {
    let [few, many] = [200, 1000].map(|count| footprint::heads(count).unwrap());
    for (what, few, many) in [
        ("heads", few.first, many.first),
        ("paths", few.second, many.second),
        ("the channel", few.used, many.used),
    ] {
        // A fixed part makes it less than five times as many; how often the thread was woken, some.
        assert!(many.allocations <= few.allocations * 11 / 2, "{what}: {few:?}, {many:?}");
    }
}
