//! I/O over loopback TCP on the software target, through the head.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nvme_host_benches::{Rig, target};
use nvme_mpath::IoOp;

/// Requests per iteration: enough that filling and draining the queue does not show.
const BATCH: u64 = 4096;

fn io(c: &mut Criterion) {
    let target = target(1);
    for (digests, query) in [("", ""), ("-digests", "?hdgst=1&ddgst=1")] {
        let mut rig = Rig::on(&target, 1, query);
        for (name, op) in [("read", IoOp::Read), ("write", IoOp::Write)] {
            for (size, bytes, depths) in
                [("4k", 4096, &[1, 32, 128][..]), ("128k", 128 << 10, &[1, 32][..])]
            {
                let mut group = c.benchmark_group(format!("tcp-{size}-{name}{digests}"));
                let batch = BATCH * 4096 / bytes as u64;
                group.throughput(Throughput::Elements(batch));
                for &depth in depths {
                    group.bench_function(format!("qd{depth}"), |b| {
                        b.iter(|| rig.run(op, black_box(bytes), depth, batch));
                    });
                }
                group.finish();
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = io
}
criterion_main!(benches);
