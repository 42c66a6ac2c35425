//! The connections of one thread receive into one buffer, and do not mix.

mod support;

use nvme_core::transport::QueueStatus;
use nvme_tcp::conn::Config;
use support::{Pair, bytes, pattern};

#[test]
fn what_one_connection_left_is_not_taken_by_another() {
    const SIZE: usize = 600;
    for digests in [false, true] {
        let config = Config { header_digest: digests, data_digest: digests, ..Config::default() };
        let mut pairs = [Pair::ready(config), Pair::ready(config)];
        let whole = |pair: &mut Pair, content: &[u8]| {
            let cid = pair.read(SIZE, 0);
            let mut answer = pair.format.c2h_success(cid, content);
            // A second answer behind it, so that a cut in the middle leaves part of a header.
            let cid = pair.read(SIZE, 1);
            answer.extend(pair.format.c2h_success(cid, content));
            answer
        };
        let contents = [pattern(SIZE), vec![0xa5; SIZE]];
        let length = {
            let [pair, _] = &mut pairs;
            let answer = whole(pair, &contents[0]);
            pair.send(&answer);
            assert!(matches!(pair.poll(), QueueStatus::Ready));
            pair.done.clear();
            answer.len()
        };
        for cut in 1..length {
            let answers = [0, 1].map(|n| whole(&mut pairs[n], &contents[n]));
            // Each in two parts, by turns.
            for part in [0..cut, cut..length] {
                for (pair, answer) in pairs.iter_mut().zip(&answers) {
                    pair.send(&answer[part.clone()]);
                    assert!(matches!(pair.poll(), QueueStatus::Ready), "cut at {cut}");
                }
            }
            for (pair, content) in pairs.iter_mut().zip(&contents) {
                assert_eq!(pair.done.len(), 2, "cut at {cut}");
                for done in pair.done.drain(..) {
                    assert!(done.cqe.status().is_success(), "cut at {cut}");
                    assert_eq!(bytes(&done), content, "cut at {cut}");
                }
            }
        }
    }
}
